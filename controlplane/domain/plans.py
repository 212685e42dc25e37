"""Plans: what would be done, to what, with which difference. A plan is a value; its hash is what runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from controlplane.domain import lanes, outcomes, policies


class Reentry(StrEnum):
    """What may be done with a step whose outcome was lost in a crash."""

    IDEMPOTENT = "idempotent"  # send again with the same key
    PROBE = "probe"  # look first, then perhaps send
    MANUAL = "manual"  # never repeat: a person looks


class StepKind(StrEnum):
    """The kinds of steps a runbook has."""

    ACTION = "action"
    WAIT = "wait"
    APPROVAL = "approval"


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a plan's difference: what of the target has which value now, and would have afterwards."""

    target: str
    what: str
    before: outcomes.Json
    after: outcomes.Json


@dataclass(frozen=True, slots=True)
class BlastRadius:
    """What a plan takes out of service: `unavailable` are node names; `touched` also counts those left serving."""

    touched: tuple[str, ...] = ()
    unavailable: tuple[str, ...] = ()
    is_destructive: bool = False


class EdgeKind(StrEnum):
    """What happens after a failed step or verification."""

    UNDO = "undo"
    RUN = "run"
    ESCALATE = "escalate"


@dataclass(frozen=True, slots=True)
class FailureEdge:
    """One rung after failure; `argument` is a step to undo, a runbook to run, or whom to tell."""

    kind: EdgeKind
    argument: str


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step with its parameters resolved.

    `until` is a CEL condition for waits; `timeout_seconds` bounds one attempt of an action, or the whole wait.
    An approval asks `prompt` of people until `quorum` of them agree; `timeout_seconds` is when it expires. `when` is a
    CEL condition, asked when the step's turn has come; where it is false the step is left out. `decided` is its answer
    where the request alone decides it. `inputs` are what its conditions read, for a step of an included runbook (None:
    those of the request).
    When it fails, its own `on_failure` is walked instead of the runbook's (None: the runbook's), unless
    `continue_on_failure` says that the run goes on with the next step.
    """

    name: str
    kind: StepKind
    timeout_seconds: float
    action: str = ""
    params: Mapping[str, outcomes.Json] = field(default_factory=dict[str, outcomes.Json])
    max_attempts: int = 1
    until: str = ""
    on_failure: tuple[FailureEdge, ...] | None = None
    continue_on_failure: bool = False
    when: str = ""
    prompt: str = ""
    quorum: int = 1
    decided: bool | None = None
    inputs: Mapping[str, outcomes.Json] | None = None


@dataclass(frozen=True, slots=True)
class VerifySpec:
    """What must recover (`signals`), by when, and for how long it must hold, in seconds."""

    signals: tuple[str, ...]
    within_seconds: float
    hold_seconds: float
    use_control: bool = True


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """Who wants which runbook on what. `node` is empty when the whole service is meant.

    `is_restoring`: it gives back part of what earlier runs of the incident took, so nobody needs to report trouble.
    `approval`: the plan begins with a step that asks people so, as a policy in mode approve wants it.
    `is_follow_up`: a run failed, and its runbook names this one to end what was begun. `asked` is the hash of a request
    sent under an idempotency key, before planning filled in what it left open; it tells a repeat from another request.
    """

    runbook: str
    service: str
    node: str
    requested_by: str
    reason: str = ""
    inputs: Mapping[str, outcomes.Json] = field(default_factory=dict[str, outcomes.Json])
    incident_id: str | None = None
    policy: str | None = None
    mode: policies.Mode = policies.Mode.AUTO
    limits: policies.GuardLimits = field(default_factory=policies.GuardLimits)
    dedup_key: str | None = None
    is_follow_up: bool = False
    is_restoring: bool = False
    asked: str = ""
    approval: policies.ApprovalRule | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A request with its runbook pinned, its parameters resolved and its difference read.

    `lane` says which other runs on the same target it excludes.
    `runbook_source` is the YAML itself: a run in flight never sees a later version. `hash` covers everything
    that decides what would happen (runbook digest, service, node, inputs, steps), not ids and times.
    """

    id: str
    created_at: datetime
    request: PlanRequest
    runbook_digest: str
    runbook_source: str
    steps: tuple[PlannedStep, ...]
    changes: tuple[Change, ...]
    blast: BlastRadius
    verify: VerifySpec | None
    on_failure: tuple[FailureEdge, ...]
    hash: str
    lane: lanes.Lane = lanes.Lane.NODES

    @property
    def target(self) -> str:
        """The thing runs of one lane are serialised on: `service/node`, or `service` when no node is named."""
        return f"{self.request.service}/{self.request.node}" if self.request.node else self.request.service

    def edges_at(self, step: int) -> tuple[FailureEdge, ...]:
        """Return the failure edges in force at a step: its own, or the runbook's; after the last step the runbook's."""
        own = self.steps[step].on_failure if step < len(self.steps) else None
        return self.on_failure if own is None else own
