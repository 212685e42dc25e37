"""In-memory stand-ins for the ports: state a test can read and change, and errors it can ask for.

Every fake has `error`: while it is set, each call raises it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from anyio import lowlevel

from controlplane.domain import (
    alerting,
    approvals,
    breakers,
    errors,
    incidents,
    lanes,
    outcomes,
    owners,
    plans,
    ports,
    rungs,
    runs,
    services,
    windows,
)
from controlplane.domain import findings as fnd
from controlplane.domain import signals as sig
from tests.support import builders
from tests.support.clock import START, FakeClock


class _Failing:
    """Raises `error` while one is set; each call lets the loop turn once, as a real port would."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls = 0

    async def _turn(self) -> None:
        self.calls += 1
        await lowlevel.checkpoint()
        if self.error is not None:
            raise self.error


class FakeSignalReader(_Failing):
    """Gives the views and windows a test puts in; `make_window` may compute one."""

    def __init__(self, clock: FakeClock, view: windows.FleetView | None = None) -> None:
        super().__init__()
        self._clock = clock
        self.fleet = view or builders.view()
        self.is_stamped = True
        self.make_window: Callable[[str, Sequence[str], datetime, datetime], windows.Window] | None = None

    async def read_now(self) -> windows.FleetView:
        await self._turn()
        return dataclasses.replace(self.fleet, at=self._clock.now()) if self.is_stamped else self.fleet

    async def read_window(self, service: str, signals: Sequence[str], start: datetime, end: datetime) -> windows.Window:
        await self._turn()
        if self.make_window is not None:
            return self.make_window(service, signals, start, end)
        unknown = {name: sig.Unknown(sig.UnknownReason.NO_SERIES) for name in signals}
        return builders.window(service=service, start=start, end=end, unknown=unknown)


class FakeDetector:
    """Says what the test wants it to say."""

    def __init__(self, name: str = "oracle") -> None:
        self.name = name
        self.signals = ("latency_p99",)
        self.window_seconds = 60.0
        self.answers: list[fnd.Finding | fnd.NotReady] = []
        self.error: Exception | None = None

    def detect(self, service: services.Service, window: windows.Window) -> Sequence[fnd.Finding | fnd.NotReady]:
        if self.error is not None:
            raise self.error
        return [answer for answer in self.answers if answer.service == service.name]


class FakeBench:
    """Does the work at once."""

    async def run(self, name: str, work: Callable[[], ports.Result]) -> ports.Result:
        await lowlevel.checkpoint()
        return work()


class FakeAlertStore(_Failing):
    """Alerts by fingerprint; a notification replaces what it names."""

    def __init__(self, *alerts: alerting.Alert) -> None:
        super().__init__()
        self.alerts = {alert.fingerprint: alert for alert in alerts}
        self._seen: set[str] = set()

    def fire(self, *alerts: alerting.Alert) -> None:
        self.alerts.update({alert.fingerprint: alert for alert in alerts})

    def resolve(self) -> None:
        """Resolve everything."""
        self.alerts.clear()

    async def store(self, notification: alerting.Notification) -> bool:
        await self._turn()
        is_new = notification.idempotency_key not in self._seen
        self._seen.add(notification.idempotency_key)
        if is_new:
            self.fire(*notification.alerts)
        return is_new

    async def active(self, *, service: str | None = None, node: str | None = None) -> Sequence[alerting.Alert]:
        await self._turn()
        firing = [one for one in self.alerts.values() if one.status is alerting.AlertStatus.FIRING]
        named = {"service": service, "node": node}
        wanted = {label: text for label, text in named.items() if text is not None}
        return [one for one in firing if all(one.labels.get(label, "") == text for label, text in wanted.items())]


class FakeIncidentStore(_Failing):
    """Incidents and timelines. `error_for` raises only when that incident is saved."""

    def __init__(self, clock: FakeClock, *found: incidents.Incident) -> None:
        super().__init__()
        self._clock = clock
        self.incidents = {incident.id: incident for incident in found}
        self.notes: dict[str, list[tuple[datetime, str]]] = {}
        self.error_for: dict[str, Exception] = {}

    @property
    def only(self) -> incidents.Incident:
        """The one incident there is."""
        (incident,) = self.incidents.values()
        return incident

    async def unclosed(self) -> Sequence[incidents.Incident]:
        await self._turn()
        return [one for one in self.incidents.values() if not one.is_final]

    async def save(self, incident: incidents.Incident, note: str) -> None:
        await self._turn()
        if incident.id in self.error_for:
            raise self.error_for[incident.id]
        self.incidents[incident.id] = incident
        self.notes.setdefault(incident.id, []).append((self._clock.now(), note))

    async def get(self, incident_id: str) -> incidents.Incident:
        await self._turn()
        if incident_id not in self.incidents:
            raise errors.NotFoundError(f"there is no incident {incident_id}")
        return self.incidents[incident_id]

    async def find(
        self, *, service: str | None = None, state: str | None = None, limit: int = 100
    ) -> Sequence[incidents.Incident]:
        await self._turn()
        found = [
            one
            for one in self.incidents.values()
            if service in {None, one.key.service} and (state is None or one.state == state)
        ]
        return sorted(found, key=lambda one: one.id, reverse=True)[:limit]

    async def timeline(self, incident_id: str) -> Sequence[tuple[datetime, str]]:
        await self._turn()
        return self.notes.get(incident_id, [])


class FakeRunStore(_Failing):
    """Runs by id."""

    def __init__(self, *found: runs.Run) -> None:
        super().__init__()
        self.runs = {run.id: run for run in found}
        self.log: dict[str, list[runs.RunEvent]] = {}
        self.answers: list[approvals.Approval] = []

    def put(self, run: runs.Run, *events: runs.RunEvent) -> None:
        self.runs[run.id] = run
        self.log.setdefault(run.id, []).extend(events)

    async def get(self, run_id: str) -> runs.Run:
        await self._turn()
        if run_id not in self.runs:
            raise errors.NotFoundError(f"there is no run {run_id}")
        return self.runs[run_id]

    async def find(
        self,
        *,
        service: str | None = None,
        state: str | None = None,
        incident_id: str | None = None,
        runbook: str | None = None,
        dedup_key: str | None = None,
        ended_since: datetime | None = None,
        limit: int = 100,
    ) -> Sequence[runs.Run]:
        await self._turn()
        found = [
            run
            for run in self.runs.values()
            if service in {None, run.plan.request.service}
            and incident_id in {None, run.plan.request.incident_id}
            and runbook in {None, run.plan.request.runbook}
            and dedup_key in {None, run.plan.request.dedup_key}
            and (ended_since is None or (run.ended_at is not None and run.ended_at >= ended_since))
            and _is_in_state(run, state)
        ]
        return sorted(found, key=lambda run: (run.created_at, run.id), reverse=True)[:limit]

    async def newest(self) -> Mapping[str, runs.Run]:
        await self._turn()
        ordered = sorted(self.runs.values(), key=lambda run: (run.created_at, run.id))
        return {run.plan.request.incident_id: run for run in ordered if run.plan.request.incident_id is not None}

    async def events(self, run_id: str) -> Sequence[runs.RunEvent]:
        await self._turn()
        return self.log.get(run_id, [])

    async def approvals(self, run_id: str) -> tuple[approvals.Approval, ...]:
        await self._turn()
        return tuple(one for one in self.answers if one.run_id == run_id)


def _is_in_state(run: runs.Run, wanted: str | None) -> bool:
    if wanted == "asking":
        return run.question is not None
    return wanted is None or wanted == run.state or (wanted == "unfinished" and not run.state.is_final)


class FakeDecisionStore(_Failing):
    """Decisions in the order they were recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.decisions: list[outcomes.Decision] = []

    async def record(self, decision: outcomes.Decision) -> None:
        await self._turn()
        self.decisions.append(decision)

    async def find(
        self,
        *,
        incident_id: str | None = None,
        run_id: str | None = None,
        service: str | None = None,
        target: str | None = None,
        limit: int = 100,
    ) -> Sequence[outcomes.Decision]:
        await self._turn()
        found = [
            one
            for one in self.decisions
            if incident_id in {None, one.incident_id}
            and run_id in {None, one.run_id}
            and service in {None, one.service}
            and target in {None, one.target}
        ]
        return found[::-1][:limit]


class FakeOwners(_Failing):
    """Says what the test puts in."""

    def __init__(self, *found: owners.Claim) -> None:
        super().__init__()
        self.found = list(found)

    async def claims(self, plan: plans.Plan, run_id: str | None) -> Sequence[owners.Claim]:
        await self._turn()
        return self.found


class FakeAutomationStore(_Failing):
    """The kill switch, and breakers whose instants are the test's."""

    def __init__(self) -> None:
        super().__init__()
        self.brakes: dict[str, str] = {}
        self.tripped: dict[str, breakers.Breaker] = {}
        self.now = START

    async def breakers(self) -> Mapping[str, breakers.Breaker]:
        await self._turn()
        return dict(self.tripped)

    async def trip(self, service: str, sentence: str, nodes: Sequence[str]) -> None:
        await self._turn()
        known = self.tripped.get(service)
        if known is None or not known.is_open:
            reset_at = None if known is None else known.reset_at
            self.tripped[service] = breakers.Breaker(service, True, self.now, sentence, tuple(nodes), reset_at)

    async def reset(self, service: str, who: str, reason: str) -> None:
        await self._turn()
        known = self.tripped.get(service)
        if known is None or not known.is_open:
            raise errors.NotFoundError(f"the breaker of {service} is not open")
        changed = {"is_open": False, "reset_at": self.now, "reset_by": who, "reset_reason": reason}
        self.tripped[service] = dataclasses.replace(known, **changed)

    async def paused(self) -> Mapping[str, str]:
        await self._turn()
        return dict(self.brakes)

    async def pause(self, who: str, reason: str) -> None:
        await self._turn()
        self.brakes[who] = reason

    async def resume(self, who: str | None = None) -> None:
        await self._turn()
        if who is None:
            self.brakes.clear()
        else:
            self.brakes.pop(who, None)


class FakeSilenceReader(_Failing):
    """Silences read just now, unless `read_at` is set or `is_known` is false."""

    def __init__(self, clock: FakeClock, *active: alerting.Silence) -> None:
        super().__init__()
        self._clock = clock
        self.active = list(active)
        self.read_at: datetime | None = None
        self.is_known = True

    async def current(self) -> alerting.Silences | None:
        await self._turn()
        if not self.is_known:
            return None
        return alerting.Silences(self.read_at or self._clock.now(), tuple(self.active))


class FakeNotifier(_Failing):
    """Remembers who was told what, as (incident, service, node, to, sentence)."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, str, str, str, str]] = []

    async def escalate(self, incident_id: str, service: str, node: str, to: str, sentence: str) -> None:
        await self._turn()
        self.told.append((incident_id, service, node, to, sentence))


class FakePlanner(_Failing):
    """Drafts the builder's plan; `blast` may say what a request takes out of service, `steps` what it does, `lane` where."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: Callable[[plans.PlanRequest], tuple[plans.PlannedStep, ...]] | None = None
        self.blast: Callable[[plans.PlanRequest], plans.BlastRadius] | None = None
        self.lane = lanes.Lane.NODES
        self.drafted: list[plans.PlanRequest] = []

    async def draft(self, request: plans.PlanRequest) -> plans.Plan:
        await self._turn()
        self.drafted.append(request)
        plan = builders.plan(request, id=f"plan_{len(self.drafted)}", lane=self.lane)
        plan = plan if self.steps is None else dataclasses.replace(plan, steps=self.steps(request))
        return plan if self.blast is None else dataclasses.replace(plan, blast=self.blast(request))


class FakeRunSubmitter(_Failing):
    """Stores submitted plans as queued runs, once per dedup key."""

    def __init__(self, store: FakeRunStore, clock: ports.Clock) -> None:
        super().__init__()
        self._store = store
        self._clock = clock
        self.keys: dict[str, str] = {}

    async def submit(self, plan: plans.Plan) -> str:
        await self._turn()
        key = plan.request.dedup_key
        if key is not None and key in self.keys:
            return self.keys[key]
        run_id = f"run_{len(self._store.runs) + 1:06d}"
        run = builders.run(run_id, plan=plan, state=outcomes.RunState.QUEUED, created_at=self._born_at(plan))
        self._store.put(run)
        if key is not None:
            self.keys[key] = run_id
        return run_id

    async def withdraw(self, run_id: str, why: str) -> bool:
        await self._turn()
        run = self._store.runs[run_id]
        if run.question is None or run.acted_at is not None:
            return False
        sentence, now = f"nothing was done: {why}", self._clock.now()
        ended = dataclasses.replace(run, state=outcomes.RunState.CANCELLED, ended_at=now, sentence=sentence)
        self._store.put(ended, runs.RunEvent(1, now, runs.RunEventKind.GUARD_DENIED, run.question.name))
        return True

    def _born_at(self, plan: plans.Plan) -> datetime:
        """As the ledger does: the runs of an incident sort by birth, however the clock was set."""
        incident_id = plan.request.incident_id
        same = [one.created_at for one in self._store.runs.values() if one.plan.request.incident_id == incident_id]
        return max([self._clock.now(), *(at + timedelta(microseconds=1) for at in same)])


class FakeRungControl(_Failing):
    """A gateway's rung and its lease, which ends by the clock; `missed` is what a renewal did not reach."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock
        self._ends_at = 0.0
        self._rung = 0
        self.is_foreign = False
        self.missed = ""
        self.renewed: list[Mapping[str, outcomes.Json]] = []

    @property
    def rung(self) -> int:
        """The rung in force."""
        return self._rung if self._clock.monotonic() < self._ends_at else 0

    def put(self, rung: int, ttl_seconds: float = 120.0) -> None:
        """Set a rung as the action would."""
        self._rung, self._ends_at = rung, self._clock.monotonic() + ttl_seconds

    async def standing(self, service: str) -> rungs.Standing:
        await self._turn()
        left = self._ends_at - self._clock.monotonic() if self.rung else None
        return rungs.Standing(self.rung, left, self.is_foreign)

    async def renew(self, service: str, params: Mapping[str, outcomes.Json]) -> str:
        await self._turn()
        self.renewed.append(params)
        rung, ttl = params["rung"], params["ttl_seconds"]
        assert isinstance(rung, int)
        assert isinstance(ttl, int | float)
        self.put(rung, ttl)
        return self.missed
