"""How much a run changed a signal: a difference in differences against untouched nodes, with a 95 % interval.

Called by `verify` for each treated node. Pure functions over samples; a few hundred additions, no arrays.

The effect is how far the treated node moved between the instant before the run's first effect and now, less how far the
untouched nodes moved meanwhile on average: what came over everybody (load, a slow dependency) cancels. The interval
comes from the untouched nodes, whose whole series is a time in which nothing was done to them. Levels are taken from
it at instants so far apart that their rate windows do not overlap; what is left of them when each node's mean
and each instant's mean are taken away is noise, and Student's t says how far that noise may have moved the effect. This
is the two-way (node and instant) form of difference in differences, where many treated nodes are not needed because
the noise is that of the others: Conley and Taber, "Inference with Difference in Differences with a Small Number of
Policy Changes", Review of Economics and Statistics 93 (2011).

Why not the samples of the treated node, one by one: a sample over a rate window shares its traffic with the next
dozen, so that counting each as news makes intervals far too narrow (Bertrand, Duflo and Mullainathan, "How Much Should
We Trust Differences-in-Differences Estimates?", Quarterly Journal of Economics 119, 2004), and in the half minute that a
recovery is held there are not enough blocks of time to draw from. It works badly where a sick node flickers more than
healthy ones do: where its own samples say so, their spread is taken instead. Drawn with rate windows of 10 to 60 s and 2
to 8 untouched nodes, the true effect lay inside the interval 92 to 100 times in 100. It says nothing with fewer than two
untouched nodes, whose common movement could not be told from noise, and nothing with too few instants.
"""

import bisect
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane import phrases
from controlplane.domain import windows

# A level is the median of so many samples in a row, so that one scrape does not decide.
LEVEL_SAMPLES = 3
MIN_CONTROLS = 2
# With one degree of freedom the interval is 13 standard deviations to either side: it would say nothing.
_MIN_FREEDOM = 2
# Half a step of play: samples of different nodes are scraped a little apart.
_LEVEL_STEPS = LEVEL_SAMPLES + 0.5
# Student's t at 97.5 %, by degrees of freedom from 2 on; beyond the last one that one, which errs to the wide side.
_T = (
    4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101,
    2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Course:
    """One signal of one node: up to the run's first effect, and since its last one."""

    before: windows.Series
    after: windows.Series


@dataclass(frozen=True, slots=True)
class Effect:
    """The difference in the signal's unit, with the bounds of its 95 % interval, and what it rests on."""

    difference: float
    low: float
    high: float
    num_controls: int
    num_instants: int

    def __str__(self) -> str:
        """Return the effect as sentences say it, after the value of the untouched nodes."""
        interval = f"{phrases.share(0.95)}: {self.low:+.3g} to {self.high:+.3g}"
        return f"{self.difference:+.3g} against them ({interval})"


@dataclass(frozen=True, slots=True)
class NoEffect:
    """Why no interval can be stated."""

    sentence: str


def measure(
    treated: Course, controls: Sequence[Course], *, step_seconds: float, spacing_seconds: float
) -> Effect | NoEffect:
    """Return the effect on `treated`; samples are `step_seconds` apart, rate windows at most `spacing_seconds`."""
    if len(controls) < MIN_CONTROLS:
        return NoEffect(f"no interval: {phrases.count(len(controls), 'untouched node')}, and it takes {MIN_CONTROLS}")
    instants = _instants(treated, spacing_seconds)
    panel = [[_level(one, at, step_seconds) for at in instants] for one in (treated, *controls)]
    own = panel[0]
    if not instants or own[0] is None or own[-1] is None:
        return NoEffect(f"no interval: fewer than {LEVEL_SAMPLES} samples in a row before the run, or since")
    rows = [row for row in panel[1:] if row[0] is not None and row[-1] is not None]
    columns = [column for column in zip(*rows, strict=True) if None not in column]
    levels = [[level for level in column if level is not None] for column in columns]
    freedom = (len(rows) - 1) * (len(levels) - 1)
    if len(rows) < MIN_CONTROLS or freedom < _MIN_FREEDOM:
        return NoEffect(
            f"no interval: {phrases.count(len(rows), 'untouched node')} seen at {phrases.count(len(levels), 'instant')}"
        )
    moved = statistics.fmean(levels[-1]) - statistics.fmean(levels[0])
    difference = own[-1] - own[0] - moved
    variance = max(_noise(levels, freedom), _flicker(treated))
    half = _t(freedom) * math.sqrt(variance * 2 * (1 + 1 / len(rows)))
    return Effect(difference, difference - half, difference + half, len(rows), len(levels))


def _instants(treated: Course, spacing_seconds: float) -> list[float]:
    """Return the instants of the levels: the first is right before the run, the last is now."""
    if not treated.before.times or not treated.after.times:
        return []
    before = _backwards(treated.before.times, spacing_seconds)
    after = _backwards(treated.after.times, spacing_seconds)
    return [*before, *reversed(after)]


def _backwards(times: Sequence[float], spacing_seconds: float) -> list[float]:
    num = int((times[-1] - times[0]) // spacing_seconds) + 1
    return [times[-1] - number * spacing_seconds for number in range(num)]


def _level(course: Course, at: float, step_seconds: float) -> float | None:
    """Return the median of the newest samples at an instant, None where they are missing or too far apart."""
    series = course.before if course.before.times and at <= course.before.times[-1] else course.after
    end = bisect.bisect_right(series.times, at + step_seconds / 2)
    start = end - LEVEL_SAMPLES
    if start < 0 or series.times[start] < at - _LEVEL_STEPS * step_seconds:
        return None
    return statistics.median(series.values[start:end])


def _noise(levels: Sequence[Sequence[float]], freedom: int) -> float:
    """Return the variance of a level (instants x nodes) without what its node and its instant have in common."""
    of_node = [statistics.fmean(column) for column in zip(*levels, strict=True)]
    overall = statistics.fmean(of_node)
    squares = [
        (level - of_node[number] - statistics.fmean(instant) + overall) ** 2
        for instant in levels
        for number, level in enumerate(instant)
    ]
    return math.fsum(squares) / freedom


def _flicker(treated: Course) -> float:
    """Return the variance of the treated node's own samples, at the two instants that are compared."""
    ends = (treated.before.values[-LEVEL_SAMPLES:], treated.after.values[-LEVEL_SAMPLES:])
    return statistics.fmean(statistics.variance(values) for values in ends)


def _t(freedom: int) -> float:
    return _T[min(freedom - _MIN_FREEDOM, len(_T) - 1)]
