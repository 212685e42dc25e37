"""What clients saw: one sample for each request, and measures over stretches of them. Pure.

These samples come from the load generator alone, so that a scenario is judged by what its clients got and not by what
the control plane believes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from controlplane.domain import outcomes

_MILLI = 3  # figures are rounded to milliseconds


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. `at` is when it was sent (Unix seconds); `code` 0 means no answer came.

    `is_wrong` says that the answer came and was another one than the engine gives without a cache.
    """

    at: float
    latency_seconds: float
    code: int
    is_wrong: bool = False
    level: str = ""

    @property
    def is_good(self) -> bool:
        """True for a right answer."""
        return self.code == 200 and not self.is_wrong  # noqa: PLR2004 - HTTP's own number


@dataclass(frozen=True, slots=True)
class Measure:
    """What clients saw over a stretch; None where no request was made."""

    requests: int
    p99_seconds: float | None
    error_ratio: float | None

    def as_json(self) -> dict[str, outcomes.Json]:
        """Return it with the keys of the report."""
        return {"p99_s": self.p99_seconds, "error_ratio": self.error_ratio, "requests": self.requests}


def between(samples: Iterable[Sample], start: float, end: float) -> list[Sample]:
    """Keep the requests sent at or after `start` and before `end` (Unix seconds)."""
    return [sample for sample in samples if start <= sample.at < end]


def measure(samples: Sequence[Sample]) -> Measure:
    """Return the 99th percentile (nearest rank) over all requests, and the share that was not answered rightly.

    >>> measure([Sample(at=0.0, latency_seconds=0.2, code=200), Sample(at=1.0, latency_seconds=0.4, code=503)])
    Measure(requests=2, p99_seconds=0.4, error_ratio=0.5)
    """
    if not samples:
        return Measure(requests=0, p99_seconds=None, error_ratio=None)
    latencies = sorted(sample.latency_seconds for sample in samples)
    rank = math.ceil(0.99 * len(latencies)) - 1
    bad = sum(not sample.is_good for sample in samples)
    return Measure(
        requests=len(samples), p99_seconds=round(latencies[rank], _MILLI), error_ratio=round(bad / len(samples), 4)
    )
