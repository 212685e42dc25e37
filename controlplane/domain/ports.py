"""What the rooms need from the world, as small protocols; `wiring` passes the real ones, tests pass fakes.

Everything that may leave the process is `async` and has a timeout inside its adapter.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from controlplane.domain import (
    alerting,
    approvals,
    breakers,
    capacity,
    findings,
    incidents,
    outcomes,
    owners,
    plans,
    runs,
    services,
    windows,
)

Result = TypeVar("Result")


class Clock(Protocol):
    """Time. Nothing in the product asks the operating system directly."""

    def now(self) -> datetime:
        """Return timezone-aware UTC, for storage and people."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never step back, for durations inside one process."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; a fake clock wakes sleepers when it is moved."""
        ...


class SignalReader(Protocol):
    """Reads signals of the whole fleet from the metrics store; never raises for missing data, it says unknown."""

    async def read_now(self) -> windows.FleetView:
        """Return the newest reading of every mapped signal of every service and node."""
        ...

    async def read_window(self, service: str, signals: Sequence[str], start: datetime, end: datetime) -> windows.Window:
        """Return the named signals between two instants, per node and for the service."""
        ...


class Detector(Protocol):
    """Judges a window. Pure: no clock, no I/O, no memory of its own."""

    @property
    def name(self) -> str:
        """The stable name findings carry as their source."""
        ...

    @property
    def signals(self) -> tuple[str, ...]:
        """The canonical signals it needs."""
        ...

    @property
    def window_seconds(self) -> float:
        """How far back it looks."""
        ...

    def detect(
        self, service: services.Service, window: windows.Window
    ) -> Sequence[findings.Finding | findings.NotReady]:
        """Return what it finds, or why it cannot judge."""
        ...


class Bench(Protocol):
    """Where pure work that takes long is done, beside the event loop."""

    async def run(self, name: str, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, or raise what it raises.

        Raises RetryLaterError when it takes too long, or while earlier work of this name is not done.
        """
        ...


class DemandReader(Protocol):
    """Reads how much has arrived at a service."""

    async def history(self, service: str, start: datetime, end: datetime, step_seconds: int) -> windows.Series:
        """Return arrivals per second, refused ones included, averaged over bins of `step_seconds`.

        Times are where bins begin, whole multiples of the step; a bin that nobody knows is absent. Raises
        RetryLaterError when the metrics store does not answer.
        """
        ...


class Actuator(Protocol):
    """Knows the nodes that can be started and stopped."""

    async def standing(self, service: str) -> Mapping[str, capacity.PoolStanding]:
        """Return the service's pools by name. Raises NotFoundError where it starts nothing for the service."""
        ...


class AlertStore(Protocol):
    """Alerts as received. Level-based: `active` is what fires now."""

    async def store(self, notification: alerting.Notification) -> bool:
        """Keep a notification durably; False when the same one was stored before. Raises OverloadedError."""
        ...

    async def active(self, *, service: str | None = None, node: str | None = None) -> Sequence[alerting.Alert]:
        """Return the alerts whose newest notice says firing; one that is not repeated any more does not.

        With `service` or `node`, only those with such a label; empty stands for alerts without it.
        """
        ...


class IncidentStore(Protocol):
    """Incidents and their timelines."""

    async def unclosed(self) -> Sequence[incidents.Incident]:
        """Return every incident that is not closed."""
        ...

    async def save(self, incident: incidents.Incident, note: str) -> None:
        """Insert or update, and append `note` to its timeline, in one commit."""
        ...

    async def get(self, incident_id: str) -> incidents.Incident:
        """Return one incident; raises NotFoundError."""
        ...

    async def find(
        self, *, service: str | None = None, state: str | None = None, limit: int = 100
    ) -> Sequence[incidents.Incident]:
        """Return incidents, newest first."""
        ...

    async def timeline(self, incident_id: str) -> Sequence[tuple[datetime, str]]:
        """Return the notes of an incident in order."""
        ...


class RunStore(Protocol):
    """Reads of runs; only the run engine writes them."""

    async def get(self, run_id: str) -> runs.Run:
        """Return one run; raises NotFoundError."""
        ...

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
        """Return runs, newest first.

        `state` may be a RunState, `unfinished` for every state not final, or `asking` for runs that wait for people.

        With `ended_since`, only those that have ended, and not before that instant.
        """
        ...

    async def newest(self) -> Mapping[str, runs.Run]:
        """Return the newest run of each incident that is not closed and has one, by the incident's id."""
        ...

    async def events(self, run_id: str) -> Sequence[runs.RunEvent]:
        """Return the event log of a run in order."""
        ...

    async def approvals(self, run_id: str) -> tuple[approvals.Approval, ...]:
        """Return what people answered a run that asks them, oldest first."""
        ...


class DecisionStore(Protocol):
    """The answers of decide and guard, refusals above all."""

    async def record(self, decision: outcomes.Decision) -> None:
        """Append one decision. A repeat of the incident's newest one, by the same gate, may replace it."""
        ...

    async def find(
        self,
        *,
        incident_id: str | None = None,
        run_id: str | None = None,
        service: str | None = None,
        target: str | None = None,
        limit: int = 100,
    ) -> Sequence[outcomes.Decision]:
        """Return decisions, newest first."""
        ...


class AutomationStore(Protocol):
    """The kill switch that people hold, and the breaker of each service that automation trips."""

    async def paused(self) -> Mapping[str, str]:
        """Return who holds the brake: name to reason. Empty means automation may act."""
        ...

    async def pause(self, who: str, reason: str) -> None:
        """Hold the brake; several people may."""
        ...

    async def resume(self, who: str | None = None) -> None:
        """Release one brake, or all of them."""
        ...

    async def breakers(self) -> Mapping[str, breakers.Breaker]:
        """Return the breakers that ever tripped, by service, the open ones and those that were reset."""
        ...

    async def trip(self, service: str, sentence: str, nodes: Sequence[str]) -> None:
        """Open the breaker of a service until a person resets it; one that is open stays as it is."""
        ...

    async def reset(self, service: str, who: str, reason: str) -> None:
        """Close the breaker of a service; raises NotFoundError when it is not open."""
        ...


class Owners(Protocol):
    """Who else has a say over what a plan would change: other controllers, and people who hold nodes."""

    async def claims(self, plan: plans.Plan, run_id: str | None) -> Sequence[owners.Claim]:
        """Return the claims on it but for those of automation itself and of the run that asks.

        Raises RetryLaterError when that cannot be told now.
        """
        ...


class SilenceReader(Protocol):
    """Silences of Alertmanager."""

    async def current(self) -> alerting.Silences | None:
        """Return the newest silences known, possibly old (see `read_at`), or None when never read."""
        ...


class Notifier(Protocol):
    """Tells people, through Alertmanager."""

    async def escalate(self, incident_id: str, service: str, node: str, to: str, sentence: str) -> None:
        """Send one escalation; raises RetryLaterError when Alertmanager does not answer."""
        ...


class Asker(Protocol):
    """Calls people whose approval is wanted, through Alertmanager."""

    async def ask(self, run_id: str, service: str, node: str, to: str, sentence: str, until: datetime) -> None:
        """Send one call, which ends by itself at `until`; raises RetryLaterError when Alertmanager does not answer."""
        ...


class Planner(Protocol):
    """Turns a request into a plan: reads the target's state, changes nothing."""

    async def draft(self, request: plans.PlanRequest) -> plans.Plan:
        """Return the plan; raises InvalidInputError, NotFoundError, or RetryLaterError (target unreachable)."""
        ...


class RunSubmitter(Protocol):
    """Accepts plans for execution."""

    async def submit(self, plan: plans.Plan) -> str:
        """Store the run durably and return its id; the same dedup key returns the first run's id.

        Raises ConflictError when another run holds the target and may not be queued behind.
        """
        ...

    async def withdraw(self, run_id: str, why: str) -> bool:
        """Cancel a run that waits for people and has had no effect; False where it is not so, or not any more."""
        ...


class ActGuard(Protocol):
    """The guard as runs see it, asked again right before each effect."""

    async def recheck(self, plan: plans.Plan, run_id: str) -> outcomes.Allowed | outcomes.Denied:
        """Answer for this instant; the run itself does not count against cooldown, rate or in-flight."""
        ...


class Verifier(Protocol):
    """Verification as runs see it."""

    async def judge(self, plan: plans.Plan, acted_at: datetime, began_at: datetime) -> outcomes.Verification:
        """Read before and after, compare with untouched nodes, and say the verdict or to keep watching.

        Before ends with the run's first effect (`began_at`), after begins with its last one (`acted_at`).
        """
        ...


class Conditions(Protocol):
    """CEL conditions as runs and decide see them."""

    def is_true(self, expression: str, variables: Mapping[str, object]) -> bool:
        """Evaluate; raises InvalidInputError when the result is an error or not a bool (the caller holds)."""
        ...


class FleetFacts(Protocol):
    """What wait conditions may ask about the fleet."""

    async def variables(self, plan: plans.Plan) -> Mapping[str, object]:
        """Return the CEL variables of a plan: inputs, service, plan, and readers bound to a fresh view."""
        ...
