"""What the fleet looks like to expressions and to the guard: reads the ports once and hands out values.

Called by decide's caller (the tick), by runs for wait conditions (`FleetFacts`) and, through `Gatherer`, by dispatch
and recheck for the guard's context. Concurrency: async; the only memory is a view that is at most
VIEW_REUSED_SECONDS old, and the instants at which runs from the future were first seen. Never writes.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controlplane import expressions
from controlplane.domain import (
    alerting,
    breakers,
    capacity,
    errors,
    lanes,
    outcomes,
    owners,
    plans,
    ports,
    runs,
    services,
    windows,
)
from controlplane.domain import approvals as apr
from controlplane.domain import incidents as inc
from controlplane.domain import signals as sig
from controlplane.engine import guard, reports

# One tick asks the guard for several incidents: they may share one reading of the fleet.
VIEW_REUSED_SECONDS = 2.0
# Far more runs than any rate limit lets through in an hour, and a bound on what one question reads.
_MAX_RUNS = 1000
# As many as no incident has runs, but for those of a ladder, which are not asked for.
_MAX_TRIED = 200
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
    owners: ports.Owners | None = None


class Gatherer:
    """Reads everything the guard may know into one frozen `guard.Context`.

    `outlooks` are those of the newest tick.
    """

    def __init__(
        self,
        sources: Sources,
        known: Mapping[str, services.Service],
        clock: ports.Clock,
        *,
        breaker_limits: breakers.Limits | None = None,
        outlooks: Callable[[], Mapping[str, capacity.Outlook]] = dict[str, capacity.Outlook],
    ) -> None:
        self._sources = sources
        self._services = known
        self._clock = clock
        self._breaker_limits = breaker_limits or breakers.Limits()
        self._outlooks = outlooks
        self._view: tuple[int, float, windows.FleetView | None] | None = None
        self._num_readings = 0
        self._reading = asyncio.Lock()
        self._first_seen: dict[str, float] = {}

    async def context(self, plan: plans.Plan, *, run_id: str | None = None, is_fresh: bool = False) -> guard.Context:
        """Return the context for `plan`; with `run_id` that run is left out of what counts against it.

        `is_fresh` reads the fleet anew. Raises NotFoundError for a service that is not managed.
        """
        service = self._services.get(plan.request.service)
        if service is None:
            raise errors.NotFoundError(f"service {plan.request.service} is not in services.yaml")
        unfinished, incident = await asyncio.gather(
            self._sources.runs.find(state="unfinished", limit=_MAX_RUNS), self._incident(plan.request.incident_id)
        )
        # After what is unfinished: a run that ends meanwhile is then in both, and never in neither.
        (view, paused, silences, tripped), (reported, history, recent, tried, claims) = await asyncio.gather(
            asyncio.gather(
                self._read_view(is_fresh=is_fresh),
                self._sources.automation.paused(),
                self._sources.silences.current(),
                self._sources.automation.breakers(),
            ),
            asyncio.gather(
                self._is_reported(incident),
                self._history(plan, run_id),
                self._recent(plan, run_id),
                self._tried(plan, run_id),
                self._claims(plan, run_id),
            ),
        )
        own = next((run for run in unfinished if run.id == run_id), None)
        return guard.Context(
            now=self._clock.now(),
            service=service,
            view=view,
            paused=paused,
            incident=incident,
            is_reported=reported,
            silences=silences,
            unfinished=tuple(run for run in unfinished if run.id != run_id),
            history=history,
            recent=recent,
            has_acted=own is not None and own.acted_at is not None,
            is_acting=run_id is not None,
            step=0 if own is None else own.step,
            tried=tried,
            breaker=tripped.get(service.name),
            breaker_limits=self._breaker_limits,
            claims=claims,
            outlook=self._outlooks().get(service.name),
            approvals=await self._approvals(plan, run_id),
            skipped=await self._skipped(plan, run_id),
        )

    async def is_binding(self, denied: outcomes.Denied, run_id: str) -> bool:
        """Say whether a refusal keeps the run from acting: what it undoes is held back by the kill switch alone."""
        if denied.gate is outcomes.Gate.KILL_SWITCH:
            return True
        events = await self._sources.runs.events(run_id)
        return not any(event.kind is runs.RunEventKind.UNDO_STARTED for event in events)

    async def _tried(self, plan: plans.Plan, run_id: str | None) -> tuple[runs.Run, ...] | None:
        """Return the other runs of a policy's incident; None where one that is stored cannot be read."""
        incident_id, policy = plan.request.incident_id, plan.request.policy
        # The ladder paces itself, and an incident may have a hundred of its steps.
        if incident_id is None or policy is None or plan.lane is lanes.Lane.DEGRADATION:
            return ()
        try:
            found = await self._sources.runs.find(incident_id=incident_id, limit=_MAX_TRIED)
        except errors.InvariantBrokenError:
            return None
        return tuple(run for run in found if run.id != run_id)

    async def _claims(self, plan: plans.Plan, run_id: str | None) -> tuple[owners.Claim, ...] | None:
        if self._sources.owners is None:
            return ()
        try:
            return tuple(await self._sources.owners.claims(plan, run_id))
        except errors.RetryLaterError:
            return None

    async def _approvals(self, plan: plans.Plan, run_id: str | None) -> tuple[apr.Approval, ...]:
        """Return what people answered; only asked of plans that ask people."""
        if run_id is None or not any(step.kind is plans.StepKind.APPROVAL for step in plan.steps):
            return ()
        return tuple(await self._sources.runs.approvals(run_id))

    async def _skipped(self, plan: plans.Plan, run_id: str | None) -> frozenset[str]:
        """Return the steps that the run left out; only asked where a question to people may be among them."""
        if run_id is None or not any(step.kind is plans.StepKind.APPROVAL and step.when for step in plan.steps):
            return frozenset()
        events = await self._sources.runs.events(run_id)
        return frozenset(event.step for event in events if event.kind is runs.RunEventKind.STEP_SKIPPED)

    async def _incident(self, incident_id: str | None) -> inc.Incident | None:
        if incident_id is None:
            return None
        try:
            return await self._sources.incidents.get(incident_id)
        except errors.NotFoundError:
            return None  # the gate `resolved` refuses what names an incident nobody knows

    async def _is_reported(self, incident: inc.Incident | None) -> bool:
        """Ask the alerts of the incident's target: in a storm of thousands no others are worth reading."""
        if incident is None:
            return False
        key = incident.key
        return is_reported(incident, await self._sources.alerts.active(service=key.service, node=key.node))

    async def _read_view(self, *, is_fresh: bool) -> windows.FleetView | None:
        now, asked = self._clock.monotonic(), self._num_readings
        async with self._reading:
            if self._view is not None:
                number, ended, view = self._view
                # All who asked before a reading began share it: for each of them it is newer than the question.
                if number > asked or (not is_fresh and now - ended <= VIEW_REUSED_SECONDS):
                    return view
            return await self._read_anew()

    async def _read_anew(self) -> windows.FleetView | None:
        self._num_readings += 1
        number, view = self._num_readings, None
        with contextlib.suppress(errors.RetryLaterError):
            view = await self._sources.reader.read_now()
        # From the end of the reading: a store that needs its whole deadline must not be asked once per incident.
        self._view = (number, self._clock.monotonic(), view)
        return view

    async def _history(self, plan: plans.Plan, run_id: str | None) -> tuple[guard.Ran, ...]:
        """Return the runs of the same runbook that ended in the last hour, or in the cooldown where that is longer."""
        span = max(guard.RATE_WINDOW_SECONDS, plan.request.limits.cooldown_seconds)
        since = self._clock.now() - timedelta(seconds=span)
        recent = await self._sources.runs.find(runbook=plan.request.runbook, ended_since=since, limit=_MAX_RUNS)
        ended = [run for run in recent if run.state.is_final and run.id != run_id]
        return tuple(guard.Ran(run, self._seconds_ago(run)) for run in ended)

    async def _recent(self, plan: plans.Plan, run_id: str | None) -> tuple[runs.Run, ...]:
        """Return what ended lately on the service, as far back as the breaker counts; only of use to risky plans."""
        if not plan.blast.unavailable and not plan.blast.is_destructive:
            return ()
        span = max(guard.RECENT_SECONDS, self._breaker_limits.window_seconds)
        since = self._clock.now() - timedelta(seconds=span)
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
