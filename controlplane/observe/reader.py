"""Reads signals of the whole fleet from Prometheus: the `SignalReader` the rest of the house asks.

`wiring` makes one; the tick calls `read_now`, verification and detectors get `read_window`. It never raises for
missing data and never takes longer than its deadline: what is not known in time is unknown, and says why.

Concurrency: async. Queries run side by side in the bounded executor of the client. `up` is asked first; a store
that does not answer that is not asked for the rest. Answers are put together in a thread: for a thousand nodes that
takes seconds, in which leases must be renewed. Times of values are scrape instants by the store's clock.
"""

import asyncio
import math
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from controlplane import promql
from controlplane.domain import errors, ports, services, windows
from controlplane.domain import signals as sig
from controlplane.observe import asking, fleet, past, profiles, prometheus
from controlplane.observe import catalogue as cat

# One second to connect and five to answer (the client's limits); later answers are of no use to this tick.
DEADLINE_SECONDS = 6.0
# At most this many points per series: enough to draw and to judge, far below Prometheus's own limit of 11,000.
MAX_POINTS = 1000
# How old a scrape may be for `up` itself to be believed: the catalogue's default.
UP_FRESH_SECONDS = 30.0

_Key = TypeVar("_Key")
_Answer = TypeVar("_Answer")
_UNMAPPED = sig.Unknown(sig.UnknownReason.NOT_IN_PROFILE)


class PrometheusReader:
    """Implements the `SignalReader` port. `window_seconds` is the range of rates: at least four scrapes long."""

    def __init__(
        self,
        client: prometheus.PrometheusClient,
        managed: Sequence[services.Service],
        known: Mapping[str, profiles.Profile],
        catalogue: cat.Catalogue,
        clock: ports.Clock,
        *,
        window_seconds: float = 120.0,
        step_seconds: int = 5,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._client = client
        self._services = {one.name: one for one in managed}
        self._profiles = known
        self._catalogue = catalogue
        self._clock = clock
        self._window = promql.duration(window_seconds)
        self._step = step_seconds
        self._deadline = deadline_seconds
        self._groups = fleet.group(managed)
        self._questions = asking.questions(managed, known, catalogue, window=self._window)
        # The nodes seen last, so that a silent store does not look like an empty fleet.
        self._seen: Mapping[str, fleet.Nodes] = {}

    async def read_now(self) -> windows.FleetView:
        """Return the newest reading of every mapped signal of every service and node."""
        until = self._clock.monotonic() + self._deadline
        try:
            nodes = await self._nodes(until)
        except errors.DsctlError as error:
            return self._blind(sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE, str(error)))
        self._seen = nodes
        asked = [one for one in self._questions if _is_scraped(one, nodes)]
        calls = {number: self._client.instant(one.query) for number, one in enumerate(asked)}
        answers = await self._gather(calls, until)
        return await asyncio.to_thread(self._view, _Board(asked, answers, nodes), nodes, self._clock.now())

    async def read_window(self, service: str, signals: Sequence[str], start: datetime, end: datetime) -> windows.Window:
        """Return the named signals between two instants, per node and for the service.

        Samples of times when a target was down or not scraped are holes. Raises NotFoundError for a service
        that is not managed.
        """
        one = self._services.get(service)
        if one is None:
            raise errors.NotFoundError(f"service {service!r} is not managed; services.yaml names those that are")
        span = self._span(start, end)
        until = self._clock.monotonic() + self._deadline
        queries = self._profiles[one.profile].queries
        wanted = [name for name in dict.fromkeys(signals) if name in queries.signals]
        unknown = {name: _UNMAPPED for name in signals if name not in queries.signals}
        try:
            presence = await self._presence(one, span, until)
        except errors.DsctlError as error:
            silent = sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE, str(error))
            return past.window(service, span, {}, {}, {**unknown, **dict.fromkeys(wanted, silent)})
        asked = asking.questions([one], self._profiles, self._catalogue, window=self._window, only=wanted)
        calls = {n: self._client.between(q.query, *span) for n, q in enumerate(asked)}
        answers = await self._gather(calls, until)
        said = list(zip(asked, answers.values(), strict=True))
        return await asyncio.to_thread(past.assemble, one, span, presence, said, unknown)

    def _span(self, start: datetime, end: datetime) -> past.Span:
        """Return whole seconds whose last point is the newest one; the step grows with the length asked for."""
        last = math.floor(end.timestamp())
        length = max(0, last - math.ceil(start.timestamp()))
        step = max(self._step, math.ceil(length / MAX_POINTS))
        return past.Span(last - length // step * step, last, step)

    async def _nodes(self, until: float) -> Mapping[str, fleet.Nodes]:
        """Ask for the targets of every service. Raises RetryLaterError when the store does not say."""
        calls: dict[tuple[int, str], Coroutine[object, object, Sequence[prometheus.Sample]]] = {}
        for number, group in enumerate(self._groups):
            calls[number, "up"] = self._client.instant(f"up{{{group.matchers}}}")
            calls[number, "time"] = self._client.instant(f"timestamp(up{{{group.matchers}}})")
        answers = await self._gather(calls, until)
        found: dict[str, fleet.Nodes] = {}
        for number, group in enumerate(self._groups):
            up, times = _known(answers[number, "up"]), _known(answers[number, "time"])
            found |= self._sorted(group, fleet.targets(up, times))
        return found

    def _sorted(self, group: fleet.Group, targets: Sequence[fleet.Target]) -> Mapping[str, fleet.Nodes]:
        of: dict[tuple[str, ...], list[fleet.Target]] = {}
        for target in targets:
            of.setdefault(group.key(target.labels), []).append(target)
        return {
            one.name: fleet.sort(one, self._profiles[one.profile].queries, of.get(key, ()))
            for key, one in group.owners().items()
        }

    async def _presence(self, one: services.Service, span: past.Span, until: float) -> past.Presence:
        selector = promql.selector(one.selector)
        calls = {
            "up": self._client.between(f"up{{{selector}}}", *span),
            "time": self._client.between(f"timestamp(up{{{selector}}})", *span),
        }
        answers = await self._gather(calls, until)
        queries = self._profiles[one.profile].queries
        return await asyncio.to_thread(past.presence, one, queries, _known(answers["up"]), _known(answers["time"]))

    async def _gather(
        self, calls: Mapping[_Key, Coroutine[object, object, _Answer]], until: float
    ) -> dict[_Key, _Answer | sig.Unknown]:
        """Await every call side by side until the deadline; what failed or is late is unknown."""
        if not calls:
            return {}
        tasks = {key: asyncio.ensure_future(call) for key, call in calls.items()}
        try:
            await asyncio.wait(tasks.values(), timeout=max(0.0, until - self._clock.monotonic()))
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return {key: self._outcome(task) for key, task in tasks.items()}

    def _outcome(self, task: "asyncio.Future[_Answer]") -> _Answer | sig.Unknown:
        if task.cancelled():
            return sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE, f"no answer within {self._deadline:g} s")
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, errors.DsctlError):
            return sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE, str(error))
        raise error

    def _view(self, board: "_Board", nodes: Mapping[str, fleet.Nodes], at: datetime) -> windows.FleetView:
        return windows.FleetView(at, {name: self._service_view(board, nodes[name]) for name in self._services})

    def _service_view(self, board: "_Board", nodes: fleet.Nodes) -> windows.ServiceView:
        name = nodes.service.name
        views = {node: self._node_view(board, nodes, node) for node in nodes.nodes}
        queries = self._profiles[nodes.service.profile].queries
        readings: dict[str, sig.Reading] = {}
        for signal, asked in queries.signals.items():
            row = self._catalogue[signal]
            if asked.service is not None:
                readings[signal] = board.reading(row, nodes, asked.source, "")
            elif row.combine is not sig.Combine.NONE:
                readings[signal] = fleet.combine(row.combine, {n: v.signals[signal] for n, v in views.items()})
        return windows.ServiceView(name, readings, views)

    def _node_view(self, board: "_Board", nodes: fleet.Nodes, node: str) -> windows.NodeView:
        target = nodes.nodes[node]
        queries = self._profiles[nodes.service.profile].queries
        return windows.NodeView(
            node=node,
            service=nodes.service.name,
            address=target.address,
            is_up=board.silent or fleet.is_up(target, UP_FRESH_SECONDS),
            signals={
                signal: board.reading(self._catalogue[signal], nodes, asked.source, node)
                for signal, asked in queries.signals.items()
                if asked.node is not None
            },
            labels=target.labels,
        )

    def _blind(self, why: sig.Unknown) -> windows.FleetView:
        """Return the fleet as it was seen last, with every reading unknown."""
        board = _Board([], {}, self._seen, why)
        views: dict[str, windows.ServiceView] = {}
        for name, one in self._services.items():
            nodes = self._seen.get(name)
            if nodes is not None:
                views[name] = self._service_view(board, nodes)
                continue
            views[name] = windows.ServiceView(name, dict.fromkeys(self._profiles[one.profile].queries.signals, why), {})
        return windows.FleetView(self._clock.now(), views)


def _known(answer: _Answer | sig.Unknown) -> _Answer:
    if isinstance(answer, sig.Unknown):
        raise errors.RetryLaterError(answer.detail)
    return answer


def _is_scraped(question: asking.Question, nodes: Mapping[str, fleet.Nodes]) -> bool:
    """False when no service of the group has any target the numbers could come from: no need to ask."""
    return any(nodes[one.name].behind(question.source, None) for one in question.group.members)


class _Board:
    """The answers of one round, by what they measure. With `silent` every reading is that unknown."""

    def __init__(
        self,
        asked: Sequence[asking.Question],
        answers: Mapping[int, Sequence[prometheus.Sample] | sig.Unknown],
        nodes: Mapping[str, fleet.Nodes],
        silent: sig.Unknown | None = None,
    ) -> None:
        self.silent = silent
        self._values: dict[tuple[str, str, str], float] = {}
        self._failed: dict[tuple[str, str, sig.Scope], sig.Unknown] = {}
        for number, question in enumerate(asked):
            self._note(question, answers[number], nodes)

    def _note(
        self,
        question: asking.Question,
        answer: Sequence[prometheus.Sample] | sig.Unknown,
        nodes: Mapping[str, fleet.Nodes],
    ) -> None:
        name = question.signal.name
        if isinstance(answer, sig.Unknown):
            for one in question.group.members:
                self._failed[one.name, name, question.scope] = answer
            return
        for (service, node), value in asking.placed(question, ((s.labels, s.value) for s in answer), nodes):
            self._values[service, node, name] = value

    def reading(self, row: sig.Signal, nodes: fleet.Nodes, source: str, node: str) -> sig.Reading:
        """Return the reading of a node, or of the service when `node` is empty."""
        if self.silent is not None:
            return self.silent
        service = nodes.service.name
        failure = self._failed.get((service, row.name, sig.Scope.NODE if node else sig.Scope.SERVICE))
        if failure is not None:
            return failure
        return fleet.judge(
            self._values.get((service, node, row.name)), nodes.behind(source, node or None), row.fresh_seconds
        )
