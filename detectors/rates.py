"""Arrivals on a regular grid of bins, and what is read off such a grid: means, smoothed levels, values a while ago.

Called by the rooms of the forecast. Pure arithmetic on arrays of shape (bins,), NaN where nobody knows: an unknown bin
is left out of every mean and is never taken for zero. Imports numpy at the top, so callers import this inside the
functions that need it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlplane.domain import windows

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

DAY_SECONDS = 86_400.0
# A smoothed level looks this many e-foldings back; what lies further adds less than one part in four hundred.
_NUM_FOLDS = 6.0


@dataclass(frozen=True, slots=True)
class Grid:
    """Mean requests per second in bins of `step` seconds; bin i begins at `start` + i * `step` (Unix seconds)."""

    start: float
    step: float
    values: Floats

    @property
    def end(self) -> float:
        """Where the last bin ends."""
        return self.start + len(self.values) * self.step

    def middles(self, extra: int = 0) -> Floats:
        """Return the middles of the bins, and of `extra` bins after them."""
        return self.start + (np.arange(len(self.values) + extra, dtype=np.float64) + 0.5) * self.step

    def last(self, seconds: float) -> "Grid":
        """Keep the bins of the last `seconds`."""
        kept = min(len(self.values), max(1, round(seconds / self.step)))
        return Grid(self.end - kept * self.step, self.step, self.values[-kept:])

    def until(self, count: int) -> "Grid":
        """Keep the first `count` bins."""
        return Grid(self.start, self.step, self.values[:count])

    def extended(self, series: windows.Series) -> "Grid":
        """Return it with the bins of `series` put in their places; bins before its start are left out."""
        if not series.times:
            return self
        size = max(len(self.values), round((series.times[-1] - self.start) / self.step) + 1)
        values = np.full(size, np.nan)
        values[: len(self.values)] = self.values
        places = np.round((np.asarray(series.times) - self.start) / self.step).astype(np.int64)
        inside = places >= 0
        values[places[inside]] = np.asarray(series.values)[inside]
        return Grid(self.start, self.step, values)


def grid(series: windows.Series, step: float) -> Grid:
    """Put the samples on the grid that begins with the first; what is not finite, or below zero, is unknown."""
    values = Grid(series.times[0], step, np.empty(0)).extended(series).values
    with np.errstate(invalid="ignore"):
        return Grid(series.times[0], step, np.where(np.isfinite(values) & (values >= 0.0), values, np.nan))


def steps(seconds: float, step: float) -> int:
    """Return how many bins `seconds` are, at least one."""
    return max(1, round(seconds / step))


def filled(values: Floats) -> Floats:
    """Repeat the newest known value over holes; holes before the first known value stay unknown.

    >>> filled(np.array([np.nan, 1.0, np.nan, 3.0])).tolist()
    [nan, 1.0, 1.0, 3.0]
    """
    places = np.where(np.isnan(values), 0, np.arange(len(values)))
    return values[np.maximum.accumulate(places)]


def trailing_mean(values: Floats, count: int) -> Floats:
    """Return at each bin the mean of the known ones among the newest `count`, itself included."""
    known = ~np.isnan(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - count)
    number = counts[ends] - counts[begins]
    return np.where(number > 0, (sums[ends] - sums[begins]) / np.maximum(number, 1), np.nan)


def smoothed(values: Floats, share: float, places: Numbers) -> Floats:
    """Return the exponentially smoothed level at `places`; `share` is what the newest known bin counts for."""
    length = min(len(values), max(1, round(_NUM_FOLDS / share)))
    back = np.arange(length)
    window = taken(values, places[:, np.newaxis] - back)
    weights = np.where(np.isnan(window), 0.0, (1.0 - share) ** back)
    total = weights.sum(axis=1)
    sums = (np.nan_to_num(window) * weights).sum(axis=1)
    return np.where(total > 0.0, sums / np.maximum(total, 1e-300), np.nan)


def taken(values: Floats, places: Numbers) -> Floats:
    """Return `values` at `places`, of any shape; NaN where a place lies outside."""
    inside = (places >= 0) & (places < len(values))
    return np.where(inside, values[np.clip(places, 0, len(values) - 1)], np.nan)
