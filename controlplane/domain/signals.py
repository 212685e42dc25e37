"""Canonical signals and the three states a reading can have: a value, zero, or unknown.

Unknown is never folded into zero: unknown holds, it never scales in and never triggers a destructive action.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Scope(StrEnum):
    """What a signal is measured on."""

    NODE = "node"
    SERVICE = "service"


class Combine(StrEnum):
    """How the readings of nodes add up to one reading of their service."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    MIN = "min"
    NONE = "none"  # a quantile or a ratio of sums: it must be queried at service scope, never averaged


@dataclass(frozen=True, slots=True)
class Signal:
    """One row of the catalogue: a canonical name, its base unit, where it is measured, how it adds up.

    `fresh_seconds` is how old a node's last scrape may be before the reading counts as unknown.
    """

    name: str
    unit: str
    scopes: tuple[Scope, ...]
    combine: Combine
    help: str
    fresh_seconds: float = 30.0


class UnknownReason(StrEnum):
    """Why a signal has no value; the text is shown to operators."""

    SOURCE_UNREACHABLE = "metrics store did not answer"
    NO_SERIES = "no series matches"
    TARGET_DOWN = "target is down"
    STALE = "last scrape is too old"
    NOT_FINITE = "value is not a finite number"
    NOT_IN_PROFILE = "the engine's profile does not map this signal"


@dataclass(frozen=True, slots=True)
class Value:
    """A finite measured value in the signal's base unit, and the instant it was scraped (UTC)."""

    value: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Unknown:
    """No trustworthy value, and why."""

    reason: UnknownReason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason.value} ({self.detail})" if self.detail else self.reason.value


Reading = Value | Unknown


@dataclass(frozen=True, slots=True)
class Limit:
    """The band a signal must stay in for the service to count as healthy; either end may be open."""

    signal: str
    at_most: float | None = None
    at_least: float | None = None

    def is_kept_by(self, value: float) -> bool:
        """Say whether `value`, in the signal's base unit, lies inside the band.

        >>> Limit("latency_p99", at_most=1.5).is_kept_by(1.6)
        False
        """
        if self.at_most is not None and value > self.at_most:
            return False
        return self.at_least is None or value >= self.at_least

    def __str__(self) -> str:
        parts: list[str] = []
        if self.at_most is not None:
            parts.append(f"at most {self.at_most:g}")
        if self.at_least is not None:
            parts.append(f"at least {self.at_least:g}")
        return " and ".join(parts) or "unbounded"
