"""How things end: verdicts of verification, states of runs and incidents, answers of the guard."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Verdict(StrEnum):
    """Whether the service level came back after a run."""

    RECOVERED = "recovered"
    NOT_RECOVERED = "not_recovered"
    WORSE = "worse"
    UNKNOWN = "unknown"


class RunState(StrEnum):
    """States of a durable run; the last five are final."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"
    NEEDS_HUMAN = "needs_human"

    @property
    def is_final(self) -> bool:
        """True when the run will never act again."""
        return self not in (RunState.QUEUED, RunState.RUNNING, RunState.WAITING)


class Gate(StrEnum):
    """The guard's gates, in the order they are asked."""

    KILL_SWITCH = "kill_switch"
    MODE = "mode"
    RESOLVED = "resolved"
    FRESHNESS = "freshness"
    MAINTENANCE = "maintenance"
    SILENCE = "silence"
    IN_FLIGHT = "in_flight"
    COOLDOWN = "cooldown"
    RATE_LIMIT = "rate_limit"
    ATTEMPTS = "attempts"
    BLAST_RADIUS = "blast_radius"
    BREAKER = "breaker"
    OWNERSHIP = "ownership"
    CAPACITY = "capacity"
    APPROVAL = "approval"


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """One gate's answer: passed or not, the sentence an operator reads, the numbers behind it.

    `hint` says of a refusal what would change it.
    """

    gate: Gate
    is_passed: bool
    sentence: str
    numbers: Mapping[str, Json] = field(default_factory=dict[str, Json])
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Every gate passed."""

    answers: tuple[GateAnswer, ...]


@dataclass(frozen=True, slots=True)
class Denied:
    """A gate refused; `answers` holds those asked up to and including it."""

    gate: Gate
    sentence: str
    answers: tuple[GateAnswer, ...]


class HoldReason(StrEnum):
    """Why decide proposes nothing for an incident now."""

    NO_POLICY = "no policy matches"
    HOLDING = "condition has not held long enough"
    RUN_IN_FLIGHT = "a run is in flight"
    NOT_A_BOOL = "the policy's condition did not give true or false"
    OBSERVING = "mode is observe"
    ESCALATED = "handed to a person"
    INVALID_PLAN = "the plan cannot be drafted"
    ATTEMPTS_SPENT = "the attempts are spent"


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing is done now, and why."""

    reason: HoldReason
    sentence: str


@dataclass(frozen=True, slots=True)
class Judged:
    """Verification came to a verdict. `has_control` says whether untouched nodes were compared."""

    verdict: Verdict
    sentence: str
    has_control: bool
    evidence: Mapping[str, Json] = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True)
class Watching:
    """Too early to judge: ask again in `again_seconds`."""

    sentence: str
    again_seconds: float


Verification = Judged | Watching


@dataclass(frozen=True, slots=True)
class Decision:
    """One stored answer of decide or guard about an incident or a request, so that `why not` can be asked.

    One that repeats itself is stored once: it was given `times` times, first at `since` (None: only at `at`), and `at`,
    sentence and numbers are those of the newest.
    """

    id: str
    at: datetime
    service: str
    target: str
    runbook: str
    outcome: str  # allowed, denied, held
    sentence: str
    incident_id: str | None = None
    policy: str | None = None
    plan_id: str | None = None
    run_id: str | None = None
    answers: tuple[GateAnswer, ...] = ()
    times: int = 1
    since: datetime | None = None
