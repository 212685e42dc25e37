"""Policies: which runbook answers which trouble, in which mode, within which limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from controlplane.domain import outcomes


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
class Policy:
    """One rule from trouble to runbook. `when` is a CEL condition; `hold_seconds` is how long it must stay true."""

    name: str
    services: tuple[str, ...]
    when: str
    runbook: str
    mode: Mode
    hold_seconds: float = 0.0
    inputs: Mapping[str, outcomes.Json] = field(default_factory=dict[str, outcomes.Json])
    guard: GuardLimits = field(default_factory=GuardLimits)
