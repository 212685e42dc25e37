"""Policies: which runbook answers which trouble, in which mode, within which limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from controlplane.domain import lanes, outcomes


class Mode(StrEnum):
    """How far the product may go on its own."""

    OBSERVE = "observe"
    SUGGEST = "suggest"
    APPROVE = "approve"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class MaxUnavailable:
    """Blast radius: at most `percent` of the serving units, and at most `nodes`; the smaller one counts."""

    percent: float = 10.0
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """The limits a plan is checked against."""

    cooldown_seconds: float = 300.0
    max_per_hour: int = 6
    max_attempts: int = 3
    max_unavailable: MaxUnavailable = field(default_factory=MaxUnavailable)


@dataclass(frozen=True, slots=True)
class ApprovalRule:
    """How a policy in mode approve asks people: `quorum` different ones have to agree before the question expires."""

    quorum: int = 1
    expires_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Ladder:
    """The pace of a policy that degrades step by step, instead of running its runbook once.

    Pressure 1 is the mark of overload. `settle_seconds` is the time a rung gets to show its effect before the next.
    """

    up_above: float = 1.0
    up_after_seconds: float = 10.0
    settle_seconds: float = 20.0
    down_below: float = 0.7
    down_after_seconds: float = 60.0
    top: int = 4


@dataclass(frozen=True, slots=True)
class Policy:
    """One rule from trouble to runbook. `when` is a CEL condition; `hold_seconds` is how long it must stay true.

    With a `ladder` the runbook is run once for each step, with the rung as its input `rung`. Where it `repeats`, a run is
    a step on the way and no cure: while the trouble is reported it is asked again at once. `lane` is its runbook's.
    `approval` counts in mode approve. `written` is the mode of the file, before the ceiling and what was taken away for its
    record; `demoted` says of the latter what people read, and is empty while nothing was.
    """

    name: str
    services: tuple[str, ...]
    when: str
    runbook: str
    mode: Mode
    hold_seconds: float = 0.0
    inputs: Mapping[str, outcomes.Json] = field(default_factory=dict[str, outcomes.Json])
    guard: GuardLimits = field(default_factory=GuardLimits)
    ladder: Ladder | None = None
    repeats: bool = False
    lane: lanes.Lane = lanes.Lane.NODES
    approval: ApprovalRule = field(default_factory=ApprovalRule)
    written: Mode | None = field(default=None, compare=False)  # says where it comes from, not what it does
    demoted: str = ""
