"""A house of fakes for tests of the API and the command line, and a real server over it."""

import contextlib
import json
import socket
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import fastapi
import httpx
import uvicorn

from controlplane import clock as system
from controlplane import telemetry
from controlplane.api import app, house
from controlplane.domain import (
    alerting,
    approvals,
    breakers,
    capacity,
    errors,
    findings,
    ids,
    incidents,
    outcomes,
    plans,
    ports,
    remediation,
    runs,
    ticks,
    trust,
    windows,
)
from controlplane.domain import signals as sig
from controlplane.runs import asking, moves
from tests.support.clock import START

ROLES = ("viewer", "operator", "approver", "admin", "events")


@dataclass
class Incidents:
    rows: dict[str, incidents.Incident] = field(default_factory=dict)
    notes: dict[str, list[tuple[datetime, str]]] = field(default_factory=dict)

    async def unclosed(self) -> Sequence[incidents.Incident]:
        return [row for row in self.rows.values() if not row.is_final]

    async def save(self, incident: incidents.Incident, note: str) -> None:
        self.rows[incident.id] = incident
        self.notes.setdefault(incident.id, []).append((incident.updated_at, note))

    async def get(self, incident_id: str) -> incidents.Incident:
        if incident_id not in self.rows:
            raise errors.NotFoundError(f"no incident {incident_id}")
        return self.rows[incident_id]

    async def find(
        self, *, service: str | None = None, state: str | None = None, limit: int = 100
    ) -> Sequence[incidents.Incident]:
        rows = [r for r in self.rows.values() if service in {None, r.key.service} and state in {None, r.state}]
        return rows[:limit]

    async def timeline(self, incident_id: str) -> Sequence[tuple[datetime, str]]:
        return self.notes.get(incident_id, [])


@dataclass
class Runs:
    rows: dict[str, runs.Run] = field(default_factory=dict)
    log: dict[str, list[runs.RunEvent]] = field(default_factory=dict)
    cancelled: list[tuple[str, str]] = field(default_factory=list)
    answers: list[approvals.Approval] = field(default_factory=list)

    async def get(self, run_id: str) -> runs.Run:
        if run_id not in self.rows:
            raise errors.NotFoundError(f"no run {run_id}; list them with: dsctl runs list")
        return self.rows[run_id]

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
        kept = [
            row
            for row in self.rows.values()
            if service in {None, row.plan.request.service}
            and incident_id in {None, row.plan.request.incident_id}
            and (
                state in {None, row.state}
                or (state == "unfinished" and not row.state.is_final)
                or (state == "asking" and row.question is not None)
            )
            and runbook in {None, row.plan.request.runbook}
            and dedup_key in {None, row.plan.request.dedup_key}
            and (ended_since is None or (row.ended_at is not None and row.ended_at >= ended_since))
        ]
        return kept[::-1][:limit]

    async def newest(self) -> Mapping[str, runs.Run]:
        ordered = sorted(self.rows.values(), key=lambda run: (run.created_at, run.id))
        return {run.plan.request.incident_id: run for run in ordered if run.plan.request.incident_id is not None}

    async def events(self, run_id: str) -> Sequence[runs.RunEvent]:
        return tuple(self.log.get(run_id, ()))

    async def approvals(self, run_id: str) -> tuple[approvals.Approval, ...]:
        return tuple(one for one in self.answers if one.run_id == run_id)

    async def answer(
        self, run_id: str, who: str, *, is_approved: bool, reason: str, plan_hash: str, step: str = ""
    ) -> None:
        """Admit answers as the engine does; the run does not move."""
        run = await self.get(run_id)
        cursor = moves.Cursor(step=run.step, deadline_at=run.deadline_at)
        question = None if run.state.is_final else asking.find_question(run.plan, cursor)
        if question is None:
            raise errors.ConflictError(f"{run_id} is {run.state} and asks nobody any more; nothing was kept")
        given = approvals.Approval(run_id, step, who, is_approved, reason, plan_hash, START)
        given = replace(given, step=asking.settle_step(given, question))
        asking.check(given, run.plan, cursor, await self.approvals(run_id))
        self.answers.append(given)

    async def cancel(self, run_id: str, who: str) -> outcomes.RunState:
        self.cancelled.append((run_id, who))
        return (await self.get(run_id)).state

    def ask(self, plan: plans.Plan, *, quorum: int = 1) -> runs.Run:
        """Let a run wait for people before its first step."""
        step = plans.PlannedStep(
            "approval", plans.StepKind.APPROVAL, 3600.0, prompt="May the cache be flushed?", quorum=quorum
        )
        run = self.add(replace(plan, steps=(step, *plan.steps)), outcomes.RunState.WAITING)
        self.event(run.id, runs.RunEventKind.APPROVAL_ASKED, "approval", prompt=step.prompt, quorum=quorum)
        self.rows[run.id] = replace(run, deadline_at=run.created_at + timedelta(hours=1))
        return self.rows[run.id]

    def add(self, plan: plans.Plan, state: outcomes.RunState = outcomes.RunState.RUNNING) -> runs.Run:
        run = runs.Run(ids.new_id(ids.IdKind.RUN, plan.created_at), plan, state, 0, plan.created_at)
        self.rows[run.id] = run
        self.event(run.id, runs.RunEventKind.SUBMITTED)
        return run

    def event(self, run_id: str, kind: runs.RunEventKind, step: str = "", **data: outcomes.Json) -> None:
        log = self.log.setdefault(run_id, [])
        log.append(runs.RunEvent(len(log), START, kind, step, 1, data))

    def end(
        self, run_id: str, state: outcomes.RunState, verdict: outcomes.Verdict | None = None, sentence: str = ""
    ) -> None:
        self.event(run_id, runs.RunEventKind.ENDED, sentence=sentence)
        self.rows[run_id] = replace(self.rows[run_id], state=state, verdict=verdict, sentence=sentence)


@dataclass
class Decisions:
    rows: list[outcomes.Decision] = field(default_factory=list)

    async def record(self, decision: outcomes.Decision) -> None:
        self.rows.append(decision)

    async def find(
        self,
        *,
        incident_id: str | None = None,
        run_id: str | None = None,
        service: str | None = None,
        target: str | None = None,
        limit: int = 100,
    ) -> Sequence[outcomes.Decision]:
        wanted = {"incident_id": incident_id, "run_id": run_id, "service": service, "target": target}
        asked = {name: value for name, value in wanted.items() if value is not None}
        found = [row for row in self.rows[::-1] if all(getattr(row, name) == asked[name] for name in asked)]
        return found[:limit]


@dataclass
class Alerts:
    stored: dict[str, alerting.Notification] = field(default_factory=dict)
    error: errors.DsctlError | None = None

    async def store(self, notification: alerting.Notification) -> bool:
        if self.error is not None:
            raise self.error
        is_new = notification.idempotency_key not in self.stored
        self.stored[notification.idempotency_key] = notification
        return is_new

    async def active(self, *, service: str | None = None, node: str | None = None) -> Sequence[alerting.Alert]:
        return [alert for one in self.stored.values() for alert in one.alerts]


@dataclass
class Automation:
    brakes: dict[str, str] = field(default_factory=dict)
    tripped: dict[str, breakers.Breaker] = field(default_factory=dict)

    async def paused(self) -> Mapping[str, str]:
        return dict(self.brakes)

    async def pause(self, who: str, reason: str) -> None:
        self.brakes[who] = reason

    async def resume(self, who: str | None = None) -> None:
        if who is None:
            self.brakes.clear()
        else:
            self.brakes.pop(who, None)

    async def breakers(self) -> Mapping[str, breakers.Breaker]:
        return dict(self.tripped)

    async def trip(self, service: str, sentence: str, nodes: Sequence[str]) -> None:
        self.tripped[service] = breakers.Breaker(service, True, START, sentence, tuple(nodes))

    async def reset(self, service: str, who: str, reason: str) -> None:
        if service not in self.tripped or not self.tripped[service].is_open:
            raise errors.NotFoundError(f"the breaker of {service} is not open")
        closed = replace(self.tripped[service], is_open=False, reset_at=START, reset_by=who, reset_reason=reason)
        self.tripped[service] = closed


@dataclass
class Remediator:
    """Plans `flush-cache` for any target; `denied` makes the guard refuse, `ends` is how its runs end at once.

    With `is_second` the same request was sent twice, and its twin got the run a moment before the guard refuses this one.
    """

    clock: ports.Clock
    runs: Runs
    denied: outcomes.Denied | None = None
    ends: tuple[outcomes.RunState, outcomes.Verdict | None, str] | None = None
    requests: list[plans.PlanRequest] = field(default_factory=list)
    version: str = "1"
    is_second: bool = False

    async def preview(self, request: plans.PlanRequest) -> remediation.Preview:
        return remediation.Preview(self.plan(request), self.denied or ALLOWED)

    async def remediate(
        self, request: plans.PlanRequest, *, expected_hash: str | None = None
    ) -> remediation.Submitted | remediation.Refused:
        self.requests.append(request)
        plan = self.plan(request)
        if expected_hash not in {None, plan.hash}:
            raise errors.ConflictError("the plan is no longer the one that was looked at; look again")
        if self.is_second:
            self.runs.add(plan)
        if self.denied is not None:
            return remediation.Refused(plan, self.denied, "dec_1")
        run = self.runs.add(plan)
        if self.ends is not None:
            self.runs.event(run.id, runs.RunEventKind.STEP_FINISHED, "flush", sentence="flushed 12 entries")
            self.runs.end(run.id, *self.ends)
        return remediation.Submitted(plan, run.id, ALLOWED)

    async def withdraw(self, run_id: str, why: str) -> bool:
        return False

    def plan(self, request: plans.PlanRequest) -> plans.Plan:
        if request.runbook != "flush-cache":
            raise errors.NotFoundError(f"no runbook {request.runbook!r}; did you mean 'flush-cache'?")
        request = replace(request, inputs={"tier": "l1", **request.inputs})  # what is left open is filled in
        target = f"{request.service}/{request.node}" if request.node else request.service
        return plans.Plan(
            id=ids.new_id(ids.IdKind.PLAN, self.clock.now()),
            created_at=self.clock.now(),
            request=request,
            runbook_digest="d" * 64,
            runbook_source=RUNBOOK.source,
            steps=(plans.PlannedStep("flush", plans.StepKind.ACTION, 30.0, "flush-cache", {"tier": "l1"}),),
            changes=(plans.Change(target, "cache entries", 12, 0),),
            blast=plans.BlastRadius(touched=(request.node,)),
            verify=plans.VerifySpec(("cache_wrong_ratio",), 60.0, 10.0),
            on_failure=(plans.FailureEdge(plans.EdgeKind.ESCALATE, "oncall"),),
            hash=f"{self.version}:{target}:{json.dumps(dict(request.inputs), sort_keys=True)}",
        )


ALLOWED = outcomes.Allowed((outcomes.GateAnswer(outcomes.Gate.KILL_SWITCH, True, "nobody holds the brake"),))
DENIED = outcomes.Denied(
    outcomes.Gate.COOLDOWN,
    "chat/n1 was flushed 60 s ago, cooldown 300 s",
    (
        outcomes.GateAnswer(outcomes.Gate.KILL_SWITCH, True, "nobody holds the brake"),
        outcomes.GateAnswer(outcomes.Gate.COOLDOWN, False, "cooldown", {"age_seconds": 60, "limit_seconds": 300}),
    ),
)


@dataclass
class Trustees:
    """Standings and books as tests put them in; `resets` keeps who lifted what and why."""

    rows: dict[str, trust.Standing] = field(default_factory=dict)
    books: dict[str, trust.Book] = field(default_factory=dict)
    resets: list[tuple[str, str, str]] = field(default_factory=list)

    async def standings(self) -> tuple[trust.Standing, ...]:
        return tuple(self.rows.values())

    async def book(self, runbook: str) -> trust.Book:
        return self.books.get(runbook, trust.Book(trust.Ledger()))

    async def reset(self, policy: str, *, who: str, why: str) -> trust.Standing:
        if policy not in self.rows:
            raise errors.NotFoundError(f"no policy is named {policy!r}")
        self.resets.append((policy, who, why))
        return self.rows[policy]


@dataclass
class Feed:
    fleet: windows.FleetView | None = None
    newest: ticks.TickReport | None = None
    age: float | None = 3.0
    wakes: int = 0
    planned: dict[str, capacity.Outlook] = field(default_factory=dict)

    def view(self) -> windows.FleetView | None:
        return self.fleet

    def report(self) -> ticks.TickReport | None:
        return self.newest

    def outlooks(self) -> dict[str, capacity.Outlook]:
        return self.planned

    def seconds_since_good(self) -> float | None:
        return self.age

    def wake(self) -> None:
        self.wakes += 1


@dataclass(frozen=True)
class Principal:
    name: str
    role: str


@dataclass(frozen=True)
class TokenInfo:
    name: str
    role: str
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass
class Tokens:
    """`token-ROLE` is the secret of a token named after its role."""

    rows: dict[str, TokenInfo] = field(default_factory=lambda: {role: TokenInfo(role, role, START) for role in ROLES})

    async def verify(self, token: str) -> Principal | None:
        info = self.rows.get(token.removeprefix("token-"))
        return Principal(info.name, info.role) if info is not None and token.startswith("token-") else None

    async def create(self, name: str, role: str, expires_at: datetime | None = None) -> str:
        if name in self.rows:
            raise errors.ConflictError(f"a token named {name!r} exists")
        self.rows[name] = TokenInfo(name, role, START, expires_at)
        return f"token-{name}"

    async def list(self) -> Sequence[TokenInfo]:
        return list(self.rows.values())

    async def revoke(self, name: str) -> None:
        if self.rows.pop(name, None) is None:
            raise errors.NotFoundError(f"no token {name!r}")


@dataclass
class Readiness:
    checks: list[house.Check] = field(default_factory=lambda: [house.Check("database", is_ok=True, detail="sqlite")])

    async def check(self) -> Sequence[house.Check]:
        return self.checks


@dataclass(frozen=True)
class Runbook:
    name: str
    summary: str
    source: str
    digest: str


RUNBOOK = Runbook("flush-cache", "Empty a cache", "kind: Runbook\n", "d" * 64)


class Shelf:
    @property
    def runbooks(self) -> Mapping[str, Runbook]:
        return {RUNBOOK.name: RUNBOOK}

    def get(self, name: str) -> Runbook:
        if name != RUNBOOK.name:
            raise errors.NotFoundError(f"no runbook is named {name!r}")
        return RUNBOOK


def parse_runbook(text: str, *, source: str) -> Runbook:
    if "kind: Runbook" not in text:
        raise errors.InvalidInputError("kind must be Runbook", place=f"{source}:1")
    return replace(RUNBOOK, source=text)


def parse_notification(body: bytes, *, source: str) -> alerting.Notification:
    """Stands for the real parser: any JSON object with a `key` is a notification."""
    try:
        key = json.loads(body)["key"]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.InvalidInputError("is not a notification", place="body") from error
    alert = alerting.Alert("f1", alerting.AlertStatus.FIRING, {"alertname": "CacheWrong"}, {}, START)
    return alerting.Notification(source, "dsctl", "{}", alerting.AlertStatus.FIRING, (alert,), key)


def fleet() -> windows.FleetView:
    """One service of two nodes; n2 cannot be read."""
    up, gone = sig.Value(1.0, START), sig.Unknown(sig.UnknownReason.STALE)
    nodes = {
        "n1": windows.NodeView("n1", "chat", "10.0.0.1:8000", up, {"queue_depth": sig.Value(3.0, START)}),
        "n2": windows.NodeView("n2", "chat", "10.0.0.2:8000", gone, {"queue_depth": gone}),
    }
    missing = sig.Unknown(sig.UnknownReason.NO_SERIES)
    view = windows.ServiceView("chat", {"latency_p99": sig.Value(0.2, START), "success_ratio": missing}, nodes)
    return windows.FleetView(START, {"chat": view})


def incident(number: int = 1) -> incidents.Incident:
    found = findings.Finding(
        findings.FaultClass.CACHE,
        "chat",
        "n1",
        "cache_wrong_ratio",
        findings.Severity.CRITICAL,
        "alert:CacheWrong",
        START,
        "wrong answers from the cache of n1",
        observed=0.5,
    )
    key = incidents.IncidentKey("chat", findings.FaultClass.CACHE, "n1")
    state = incidents.IncidentState.OPEN
    return incidents.Incident(
        f"inc_{number}", key, state, found.severity, START, START, found.source, found, sentence="acting soon"
    )


@dataclass
class Fakes:
    """The house and, by their own types, the fakes in it."""

    clock: ports.Clock
    incidents: Incidents = field(default_factory=Incidents)
    runs: Runs = field(default_factory=Runs)
    decisions: Decisions = field(default_factory=Decisions)
    alerts: Alerts = field(default_factory=Alerts)
    automation: Automation = field(default_factory=Automation)
    feed: Feed = field(default_factory=lambda: Feed(fleet()))
    tokens: Tokens = field(default_factory=Tokens)
    readiness: Readiness = field(default_factory=Readiness)
    trustees: Trustees = field(default_factory=Trustees)

    def __post_init__(self) -> None:
        self.remediator = Remediator(self.clock, self.runs)
        self.telemetry = telemetry.Telemetry(self.clock)

    def house(self, **changes: Any) -> house.House:
        full = house.House(
            clock=self.clock,
            incidents=self.incidents,
            runs=self.runs,
            run_control=self.runs,
            decisions=self.decisions,
            alerts=self.alerts,
            automation=self.automation,
            remediator=self.remediator,
            ticks=self.feed,
            runbooks=Shelf(),
            parse_runbook=parse_runbook,
            tokens=self.tokens,
            readiness=self.readiness,
            telemetry=self.telemetry,
            trustees=self.trustees,
            parse_notification=parse_notification,
        )
        return replace(full, **changes)

    def http(self, role: str | None = "admin", **changes: Any) -> httpx.AsyncClient:
        """Return a client that speaks to the application without a network."""
        transport = httpx.ASGITransport(app.create_app(self.house(**changes)), raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer token-{role}"} if role else {}
        return httpx.AsyncClient(transport=transport, base_url="http://dsctl", headers=headers)


@contextlib.contextmanager
def serving(application: fastapi.FastAPI) -> Generator[str]:
    """Run a real server on a free port; the application's fakes must hold the system's clock."""
    server = uvicorn.Server(
        uvicorn.Config(application, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="api-under-test")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)


def system_clock() -> ports.Clock:
    return system.SystemClock()
