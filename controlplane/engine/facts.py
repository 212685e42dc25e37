"""What the fleet looks like to expressions and to the guard: reads the ports once and hands out values.

Called by decide's caller (the tick), by runs for wait conditions (`FleetFacts`) and, through `Gatherer`, by dispatch
and recheck for the guard's context. Concurrency: async; the only memory is a view that is at most
VIEW_REUSED_SECONDS old, and the instants at which runs from the future were first seen. Never writes.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controlplane import expressions
from controlplane.domain import alerting, errors, plans, ports, runs, services, windows
from controlplane.domain import incidents as inc
from controlplane.domain import signals as sig
from controlplane.engine import guard, reports

# One tick asks the guard for several incidents: they may share one reading of the fleet.
VIEW_REUSED_SECONDS = 2.0
# Far more runs than any rate limit lets through in an hour, and a bound on what one question reads.
_MAX_RUNS = 1000
_ALERT_SOURCE = "alert:"


def readers(view: windows.FleetView | None, service: str, node: str, now: datetime) -> dict[str, object]:
    """Return the functions expressions may call, bound to one view and one target.

    `signal(name)` is the node's own reading where it has one, else the service's.
    """

    def signal(name: str) -> sig.Reading:
        return _reading(view, service, node, name)

    return {
        "signal": signal,
        "ready_nodes": lambda: _ready_nodes(view, service),
        "now": lambda: now,
    }


def _reading(view: windows.FleetView | None, service: str, node: str, name: str) -> sig.Reading:
    of_service = None if view is None else view.services.get(service)
    if of_service is None:
        return sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE)
    of_node = of_service.nodes.get(node)
    if node and of_node is None:
        return sig.Unknown(sig.UnknownReason.NO_SERIES, f"{node} is not in the fleet view")
    own = None if of_node is None else of_node.signals.get(name)
    return own or of_service.signals.get(name) or sig.Unknown(sig.UnknownReason.NO_SERIES, name)


def _ready_nodes(view: windows.FleetView | None, service: str) -> int:
    """Count the nodes known to be up; refuses while the state of any node is unknown."""
    of_service = None if view is None else view.services.get(service)
    if of_service is None:
        raise errors.InvalidInputError(f"how many nodes of {service} are ready is unknown: it is not in the fleet view")
    for node in of_service.nodes.values():
        if isinstance(node.is_up, sig.Unknown):
            raise errors.InvalidInputError(f"how many nodes are ready is unknown: {node.node}: {node.is_up}")
    return sum(node.is_serving for node in of_service.nodes.values())


class FleetFacts:
    """The `FleetFacts` port: variables for the wait conditions of runs."""

    def __init__(self, reader: ports.SignalReader, known: Mapping[str, services.Service], clock: ports.Clock) -> None:
        self._reader = reader
        self._services = known
        self._clock = clock

    async def variables(self, plan: plans.Plan) -> Mapping[str, object]:
        """Return the CEL variables of a plan: inputs, service, plan, and readers bound to a fresh view."""
        request = plan.request
        try:
            view: windows.FleetView | None = await self._reader.read_now()
        except errors.RetryLaterError:
            view = None  # every reading is then unknown, and the wait goes on
        service = self._services.get(request.service)
        return {
            "inputs": dict(request.inputs),
            "plan": {
                "runbook": request.runbook,
                "service": request.service,
                "node": request.node,
                "target": plan.target,
            },
            "service": {} if service is None else expressions.service_variables(service),
            **readers(view, request.service, request.node, self._clock.now()),
        }


@dataclass(frozen=True, slots=True)
class Sources:
    """The ports the guard's context is read from."""

    reader: ports.SignalReader
    alerts: ports.AlertStore
    incidents: ports.IncidentStore
    runs: ports.RunStore
    automation: ports.AutomationStore
    silences: ports.SilenceReader


class Gatherer:
    """Reads everything the guard may know into one frozen `guard.Context`."""

    def __init__(self, sources: Sources, known: Mapping[str, services.Service], clock: ports.Clock) -> None:
        self._sources = sources
        self._services = known
        self._clock = clock
        self._view: tuple[float, windows.FleetView | None] | None = None
        self._first_seen: dict[str, float] = {}

    async def context(self, plan: plans.Plan, *, run_id: str | None = None, is_fresh: bool = False) -> guard.Context:
        """Return the context for `plan`; with `run_id` that run is left out of what counts against it.

        `is_fresh` reads the fleet anew. Raises NotFoundError for a service that is not managed.
        """
        service = self._services.get(plan.request.service)
        if service is None:
            raise errors.NotFoundError(f"service {plan.request.service} is not in services.yaml")
        incident = await self._incident(plan.request.incident_id)
        unfinished = await self._sources.runs.find(state="unfinished", limit=_MAX_RUNS)
        own = [run for run in unfinished if run.id == run_id]
        return guard.Context(
            now=self._clock.now(),
            service=service,
            view=await self._read_view(is_fresh=is_fresh),
            paused=await self._sources.automation.paused(),
            incident=incident,
            is_reported=incident is not None and is_reported(incident, await self._sources.alerts.active()),
            silences=await self._sources.silences.current(),
            unfinished=tuple(run for run in unfinished if run.id != run_id),
            history=await self._history(plan, run_id),
            recent=await self._recent(plan, run_id),
            has_acted=any(run.acted_at is not None for run in own),
        )

    async def _incident(self, incident_id: str | None) -> inc.Incident | None:
        if incident_id is None:
            return None
        try:
            return await self._sources.incidents.get(incident_id)
        except errors.NotFoundError:
            return None  # the gate `resolved` refuses what names an incident nobody knows

    async def _read_view(self, *, is_fresh: bool) -> windows.FleetView | None:
        now = self._clock.monotonic()
        if self._view is not None and not is_fresh and now - self._view[0] <= VIEW_REUSED_SECONDS:
            return self._view[1]
        view: windows.FleetView | None = None
        with contextlib.suppress(errors.RetryLaterError):
            view = await self._sources.reader.read_now()
        # From the end of the reading: a store that needs its whole deadline must not be asked once per incident.
        self._view = (self._clock.monotonic(), view)
        return view

    async def _history(self, plan: plans.Plan, run_id: str | None) -> tuple[guard.Ran, ...]:
        """Return the runs of the same runbook that ended in the last hour, or in the cooldown where that is longer."""
        span = max(guard.RATE_WINDOW_SECONDS, plan.request.limits.cooldown_seconds)
        since = self._clock.now() - timedelta(seconds=span)
        recent = await self._sources.runs.find(runbook=plan.request.runbook, ended_since=since, limit=_MAX_RUNS)
        ended = [run for run in recent if run.state.is_final and run.id != run_id]
        return tuple(guard.Ran(run, self._seconds_ago(run)) for run in ended)

    async def _recent(self, plan: plans.Plan, run_id: str | None) -> tuple[runs.Run, ...]:
        since = self._clock.now() - timedelta(seconds=guard.RECENT_SECONDS)
        found = await self._sources.runs.find(service=plan.request.service, ended_since=since, limit=_MAX_RUNS)
        return tuple(run for run in found if run.id != run_id)

    def _seconds_ago(self, run: runs.Run) -> float:
        """Return seconds since a run last did something.

        When the wall clock was stepped back the stored instant lies ahead; the time is then counted on the
        monotonic clock from where it was first noticed, so a cooldown neither ends early nor lasts for ever.
        """
        last = max(at for at in (run.ended_at, run.acted_at, run.created_at) if at is not None)
        ago = (self._clock.now() - last).total_seconds()
        if ago >= 0:
            return ago
        if len(self._first_seen) >= _MAX_RUNS and run.id not in self._first_seen:
            self._first_seen.pop(next(iter(self._first_seen)))
        return self._clock.monotonic() - self._first_seen.setdefault(run.id, self._clock.monotonic())


def is_reported(incident: inc.Incident, active: Sequence[alerting.Alert]) -> bool:
    """Say whether a source still reports the incident, by the newest alerts.

    The incident knows since when all are quiet. Where all its sources are alerts, the alerts themselves are newer.
    """
    if incident.quiet_since is not None or incident.is_final:
        return False
    if not all(source.startswith(_ALERT_SOURCE) for source in incident.sources):
        return True
    found, _ = reports.from_alerts(active, {incident.key.service})
    return any(inc.IncidentKey(one.service, one.kind, one.node) == incident.key for one in found)
