"""The JSON of answers, apart from the domain, so that scripts survive when the domain changes.

Read off domain values by attribute; used by the routes. Values only.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

import pydantic

from controlplane.domain import (
    approvals,
    findings,
    incidents,
    outcomes,
    plans,
    policies,
    remediation,
    runs,
    windows,
)
from controlplane.domain import signals as sig
from controlplane.observe import coverage

JsonMap = Mapping[str, pydantic.JsonValue]
_Answers = Sequence[approvals.Approval]
T = TypeVar("T")


class Told(pydantic.BaseModel):
    """Base of answers."""

    model_config = pydantic.ConfigDict(frozen=True, from_attributes=True)


class Versioned(Told):
    """An answer that stands alone."""

    api_version: Annotated[Literal["dsctl/v1"], pydantic.Field(serialization_alias="apiVersion")] = "dsctl/v1"


class Items(Versioned, Generic[T]):
    """A list; `truncated` says that there is more than `limit` let through."""

    items: list[T]
    truncated: bool = False


class GateAnswer(Told):
    """One gate's answer."""

    gate: outcomes.Gate
    is_passed: bool
    sentence: str
    numbers: JsonMap
    hint: str = ""


class Guard(Told):
    """What the guard says: allowed, or which gate refused."""

    is_allowed: bool
    gate: outcomes.Gate | None
    sentence: str
    answers: list[GateAnswer]

    @classmethod
    def of(cls, guard: outcomes.Allowed | outcomes.Denied) -> "Guard":
        """Read off the guard's answer."""
        answers = [GateAnswer.model_validate(answer) for answer in guard.answers]
        if isinstance(guard, outcomes.Denied):
            return cls(is_allowed=False, gate=guard.gate, sentence=guard.sentence, answers=answers)
        return cls(is_allowed=True, gate=None, sentence="every gate passed", answers=answers)


class Change(Told):
    """One line of the difference a plan makes."""

    target: str
    what: str
    before: pydantic.JsonValue
    after: pydantic.JsonValue


class Blast(Told):
    """What a plan touches and takes out of service."""

    touched: list[str]
    unavailable: list[str]
    is_destructive: bool


class Step(Told):
    """One step with its parameters resolved."""

    name: str
    kind: plans.StepKind
    timeout_seconds: float
    action: str
    params: JsonMap
    max_attempts: int
    until: str
    prompt: str
    quorum: int
    when: str
    decided: bool | None


class Verify(Told):
    """What must recover, by when, and for how long."""

    signals: list[str]
    within_seconds: float
    hold_seconds: float
    use_control: bool


class FailureEdge(Told):
    """One rung after failure."""

    kind: plans.EdgeKind
    argument: str


class Request(Told):
    """Who asked for which runbook on what."""

    runbook: str
    service: str
    node: str
    requested_by: str
    reason: str
    inputs: JsonMap
    incident_id: str | None
    policy: str | None
    mode: policies.Mode


class Plan(Told):
    """A plan; `hash` is what `expected_hash` takes."""

    id: str
    created_at: datetime
    target: str
    request: Request
    runbook_digest: str
    steps: list[Step]
    changes: list[Change]
    blast: Blast
    verify: Verify | None
    on_failure: list[FailureEdge]
    hash: str


class Preview(Versioned):
    """A dry run: the plan, and what the guard says at this moment."""

    plan: Plan
    guard: Guard

    @classmethod
    def of(cls, preview: remediation.Preview) -> "Preview":
        """Read off a dry run."""
        return cls(plan=Plan.model_validate(preview.plan), guard=Guard.of(preview.guard))


class Accepted(Versioned):
    """A run that is stored. `replayed` when the idempotency key had made it before."""

    run_id: str
    plan_hash: str
    replayed: bool


class Run(Told):
    """A run in a list."""

    id: str
    runbook: str
    service: str
    node: str
    target: str
    state: outcomes.RunState
    verdict: outcomes.Verdict | None
    sentence: str
    step: int
    requested_by: str
    incident_id: str | None
    created_at: datetime
    acted_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, run: runs.Run) -> "Run":
        """Flatten a run for a list."""
        return cls.model_validate(_flat(run))


class Answer(Told):
    """What one person answered; the first answer is the only one."""

    who: str
    is_approved: bool
    reason: str
    at: datetime


class Approval(Told):
    """A step that asks people, and who answered. `is_pending`: the run waits at it now, until `expires_at`.

    `plan_hash` is what an answer has to carry.
    """

    step: str
    prompt: str
    quorum: int
    is_pending: bool
    expires_at: datetime | None
    plan_hash: str
    answers: list[Answer]


class RunDetail(Run, Versioned):
    """A run with its plan, and the steps of it that ask people."""

    plan: Plan
    approvals: list[Approval]

    @classmethod
    def answered(cls, run: runs.Run, answers: _Answers) -> "RunDetail":
        """Read off a run and what people answered it."""
        asking = [step for step in run.plan.steps if step.kind is plans.StepKind.APPROVAL]
        asked = [_asked(run, step, answers) for step in asking]
        return cls.model_validate(_flat(run) | {"plan": run.plan, "approvals": asked})


class Question(Approval):
    """A run that waits for people: what it would do, for whom, why, and who answered so far."""

    run_id: str
    runbook: str
    service: str
    target: str
    requested_by: str
    reason: str
    incident_id: str | None

    @classmethod
    def of(cls, run: runs.Run, step: plans.PlannedStep, answers: _Answers) -> "Question":
        """Read off a run that stands at a step that asks."""
        flat = _flat(run) | {"run_id": run.id, "reason": run.plan.request.reason}
        return cls.model_validate(flat | _asked(run, step, answers))


def _asked(run: runs.Run, step: plans.PlannedStep, answers: _Answers) -> dict[str, object]:
    is_pending = step == run.question
    return {
        "step": step.name,
        "prompt": step.prompt,
        "quorum": step.quorum,
        "is_pending": is_pending,
        "expires_at": run.deadline_at if is_pending else None,
        "plan_hash": run.plan.hash,
        "answers": [one for one in answers if one.step == step.name],
    }


def _flat(run: runs.Run) -> dict[str, object]:
    request = run.plan.request
    return {
        "id": run.id,
        "runbook": request.runbook,
        "service": request.service,
        "node": request.node,
        "target": run.plan.target,
        "state": run.state,
        "verdict": run.verdict,
        "sentence": run.sentence,
        "step": run.step,
        "requested_by": request.requested_by,
        "incident_id": request.incident_id,
        "created_at": run.created_at,
        "acted_at": run.acted_at,
        "ended_at": run.ended_at,
    }


class RunEvent(Told):
    """One entry of a run's log."""

    number: int
    at: datetime
    kind: runs.RunEventKind
    step: str
    data: JsonMap


class RunEvents(Items[RunEvent]):
    """Events of a run, and where it stood when they were read."""

    state: outcomes.RunState
    is_final: bool
    verdict: outcomes.Verdict | None
    sentence: str


class Finding(Told):
    """What a source says about a target."""

    kind: findings.FaultClass
    service: str
    node: str
    signal: str
    severity: findings.Severity
    source: str
    at: datetime
    summary: str
    score: float
    observed: float | None
    expected: float | None


class Incident(Versioned):
    """An incident."""

    id: str
    service: str
    fault: findings.FaultClass
    node: str
    state: incidents.IncidentState
    severity: findings.Severity
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    opened_by: str
    sources: list[str]
    attempts: int
    run_id: str | None
    verdict: outcomes.Verdict | None
    sentence: str
    finding: Finding

    @classmethod
    def of(cls, incident: incidents.Incident) -> "Incident":
        """Flatten the key of an incident into it."""
        fields = {name: getattr(incident, name) for name in cls.model_fields if hasattr(incident, name)}
        key = incident.key
        return cls.model_validate(fields | {"service": key.service, "fault": key.fault, "node": key.node})


class TimelineEntry(Told):
    """One note about an incident."""

    at: datetime
    note: str


class Reading(Told):
    """A reading: `value` and the instant of its scrape, or `unknown` with the reason."""

    value: float | None = None
    at: datetime | None = None
    unknown: str | None = None

    @classmethod
    def of(cls, reading: sig.Reading) -> "Reading":
        """Read off one of the three states."""
        if isinstance(reading, sig.Value):
            return cls(value=reading.value, at=reading.at)
        return cls(unknown=str(reading))


class Node(Versioned):
    """The newest view of a node; `is_up` is null when nobody can tell."""

    name: str
    service: str
    address: str
    is_up: bool | None
    observed_at: datetime
    labels: Mapping[str, str]
    signals: Mapping[str, Reading]

    @classmethod
    def of(cls, node: windows.NodeView, observed_at: datetime) -> "Node":
        """Read off a node's view."""
        return cls(
            name=node.node,
            service=node.service,
            address=node.address,
            is_up=node.is_up.value == 1.0 if isinstance(node.is_up, sig.Value) else None,
            observed_at=observed_at,
            labels=node.labels,
            signals={name: Reading.of(reading) for name, reading in node.signals.items()},
        )


class SignalCoverage(Told):
    """Whether a signal of a service can be read: on how many of its nodes, or at service scope."""

    service: str
    signal: str
    state: coverage.Standing
    found: int
    expected: int
    detail: str


class RunbookCard(Told):
    """A runbook in a list."""

    name: str
    summary: str
    digest: str


class Runbook(RunbookCard, Versioned):
    """A runbook with its text."""

    source: str


class Decision(Told):
    """A stored answer of decide or guard."""

    id: str
    at: datetime
    service: str
    target: str
    runbook: str
    outcome: str
    sentence: str
    incident_id: str | None
    policy: str | None
    plan_id: str | None
    run_id: str | None
    answers: list[GateAnswer]
    times: int
    since: datetime | None


class Brake(Told):
    """One hold on automation."""

    who: str
    reason: str


class Breaker(Told):
    """The breaker of one service: whether automation stands still there, what tripped it, and who reset it last."""

    service: str
    is_open: bool
    tripped_at: datetime
    sentence: str
    nodes: list[str]
    reset_at: datetime | None
    reset_by: str
    reset_reason: str


class Automation(Versioned):
    """Whether automation may act, and who holds it back; `breakers` are the open ones."""

    is_paused: bool
    brakes: list[Brake]
    breakers: list[Breaker]


class Whoami(Versioned):
    """Whose token was sent."""

    name: str
    role: str


class Token(Told):
    """A token without its secret."""

    name: str
    role: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewToken(Versioned):
    """A token just made: the only time its secret is shown."""

    name: str
    role: str
    token: str


class Check(Told):
    """One answer of the readiness checks."""

    name: str
    is_ok: bool
    detail: str
    hint: str
    is_required: bool


class Health(Versioned):
    """Whether the server works, in a word and per check."""

    is_ok: bool
    checks: Mapping[str, bool]


class Received(Versioned):
    """A notification is stored; `duplicate` when it had been before."""

    duplicate: bool
    alerts: int


class Problem(pydantic.BaseModel):
    """RFC 9457 problem details; some kinds have further members."""

    model_config = pydantic.ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    place: str = ""
