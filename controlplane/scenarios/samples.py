"""What clients saw: one sample for each request, and measures over stretches of them. Pure.

These samples come from the load generator alone, so that a scenario is judged by what its clients got and not by what
the control plane believes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from controlplane.domain import outcomes

Level = Literal["premium", "standard", "batch"]
LEVELS: tuple[Level, ...] = get_args(Level)

_MILLI = 3  # figures are rounded to milliseconds
_OK = 200
_REFUSED = 429


@dataclass(frozen=True, slots=True)
class Sample:
    """One request of a service level. `at` is when it was sent (Unix seconds); `code` 0 means no answer came.

    `is_wrong` says that the answer came and was another one than the engine gives without a cache.
    """

    at: float
    latency_seconds: float
    code: int
    is_wrong: bool = False
    level: Level = "standard"

    @property
    def is_good(self) -> bool:
        """True for a right answer."""
        return self.code == _OK and not self.is_wrong

    @property
    def is_refused(self) -> bool:
        """True when it was refused on purpose, before any work, and may be sent again later."""
        return self.code == _REFUSED


@dataclass(frozen=True, slots=True)
class Measure:
    """What clients saw over a stretch; None where there was nothing to measure.

    `rejected_ratio` is the share that was refused with 429. The other two are about the rest: a refusal takes no time
    and is no failure, and would hide both.
    """

    requests: int
    p99_seconds: float | None
    error_ratio: float | None
    rejected_ratio: float | None = None

    def as_json(self) -> dict[str, outcomes.Json]:
        """Return it with the keys of the report."""
        return {
            "p99_s": self.p99_seconds,
            "error_ratio": self.error_ratio,
            "rejected_ratio": self.rejected_ratio,
            "requests": self.requests,
        }


@dataclass(frozen=True, slots=True)
class Stretch:
    """What clients saw over a stretch of time: all of them together, and those of each level that sent something."""

    total: Measure
    levels: dict[Level, Measure]

    def as_json(self) -> dict[str, outcomes.Json]:
        """Return it with the keys of the report."""
        return {**self.total.as_json(), "levels": {level: seen.as_json() for level, seen in self.levels.items()}}


def between(samples: Iterable[Sample], start: float, end: float) -> list[Sample]:
    """Keep the requests sent at or after `start` and before `end` (Unix seconds)."""
    return [sample for sample in samples if start <= sample.at < end]


def measure(samples: Sequence[Sample]) -> Measure:
    """Return the share that was refused, and of the rest the 99th percentile (nearest rank) and the share of errors.

    >>> measure([Sample(at=0.0, latency_seconds=0.2, code=200), Sample(at=1.0, latency_seconds=0.4, code=503)])
    Measure(requests=2, p99_seconds=0.4, error_ratio=0.5, rejected_ratio=0.0)
    """
    if not samples:
        return Measure(requests=0, p99_seconds=None, error_ratio=None)
    admitted = [sample for sample in samples if not sample.is_refused]
    rejected = round(1 - len(admitted) / len(samples), 4)
    if not admitted:
        return Measure(requests=len(samples), p99_seconds=None, error_ratio=None, rejected_ratio=rejected)
    latencies = sorted(sample.latency_seconds for sample in admitted)
    rank = math.ceil(0.99 * len(latencies)) - 1
    bad = sum(not sample.is_good for sample in admitted)
    return Measure(
        requests=len(samples),
        p99_seconds=round(latencies[rank], _MILLI),
        error_ratio=round(bad / len(admitted), 4),
        rejected_ratio=rejected,
    )


def measure_levels(samples: Sequence[Sample]) -> Stretch:
    """Measure all requests together, and those of each level that is among them, the best level first."""
    levels: dict[Level, Measure] = {}
    for level in LEVELS:
        if sent := [sample for sample in samples if sample.level == level]:
            levels[level] = measure(sent)
    return Stretch(measure(samples), levels)
