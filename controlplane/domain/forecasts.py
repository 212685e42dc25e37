"""What is expected to arrive at a service: a forecast with its bounds, how good forecasts were, or why there is none.

Rates are arrivals in requests per second, refused ones included, averaged over steps of `step_seconds`. Pure values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How forecasts did on the held-out end of the history, `horizon_seconds` ahead, over `num_origins` origins.

    `wape` is the sum of absolute errors over the sum of arrivals; `bias` the mean error over the mean rate (above zero:
    too high); `coverage` the share of values inside p10 to p90. `wape_seasonal_naive` (same time yesterday) is None
    where the history is shorter than it needs.
    """

    horizon_seconds: float
    num_origins: int
    wape: float
    bias: float
    coverage: float
    wape_last_value: float
    wape_seasonal_naive: float | None = None

    @property
    def skill_last_value(self) -> float:
        """1 is perfect, 0 as good as repeating the last value, below 0 worse."""
        return _skill(self.wape, self.wape_last_value)

    @property
    def skill_seasonal_naive(self) -> float | None:
        """The same against the value of yesterday; None where nobody knows."""
        return None if self.wape_seasonal_naive is None else _skill(self.wape, self.wape_seasonal_naive)


def _skill(wape: float, naive: float) -> float:
    if naive > 0:
        return 1.0 - wape / naive
    return 0.0 if wape == 0 else -1.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """Step i begins at `start` + i * `step_seconds` (Unix seconds); p10, p50 and p90 have one value for each step.

    `weights` say how much each member of the ensemble counts now; `last` is the newest observed rate.
    """

    service: str
    made_at: datetime
    fitted_at: datetime
    start: float
    step_seconds: float
    p10: tuple[float, ...]
    p50: tuple[float, ...]
    p90: tuple[float, ...]
    last: float
    accuracy: Accuracy
    weights: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def end(self) -> float:
        """Where the last step ends, Unix seconds."""
        return self.start + len(self.p50) * self.step_seconds

    def highest_p90(self, begin: float, end: float) -> tuple[float, float] | None:
        """Return the largest p90 of the steps that overlap [begin, end] (Unix seconds), and where its step begins.

        None when no step does.
        """
        steps = (
            (value, self.start + number * self.step_seconds)
            for number, value in enumerate(self.p90)
            if self.start + number * self.step_seconds <= end and self.start + (number + 1) * self.step_seconds > begin
        )
        return max(steps, key=lambda step: (step[0], -step[1]), default=None)


class NoForecastReason(StrEnum):
    """Why there is no forecast."""

    NOT_FITTED = "not fitted yet"
    TOO_SHORT = "the history is too short"
    TOO_MANY_HOLES = "the history has too many holes"
    STALE = "the newest arrivals are too old"
    FAILED = "fitting failed"


@dataclass(frozen=True, slots=True)
class NoForecast:
    """The honest answer where nothing can be foretold."""

    service: str
    reason: NoForecastReason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason.value} ({self.detail})" if self.detail else self.reason.value
