"""Finds a node that loses memory, files or threads for good, and says when it will run into its limit.

Called by the tick with a window of one service. Pure. The window is cut into twelve blocks; what must rise is the median
of the blocks and, beside it, their floor: a leak is never given back, a busy hour is. The newest five, eight or twelve
blocks are looked at, so that a fast leak need not fill the window: the fewer blocks, the more of their pairs must rise
(Kendall's trend, all pairs of five). A single step may make up less than half of the rise, or something was loaded. The
slope is the median of the slopes of all pairs (Theil 1950, Sen 1968). Everything counts in windows and shares of the
limit, so that a demo's window of a minute works like the four hours of production.

Works badly: on what fills up slowly without ever leaking (a cache without a bound looks like a leak until it is full); on
memory that swings with the load, as GPU memory of an engine that gives it back between jobs, where a slow leak is found
after hours or not at all; where no limit is known, which it says; on leaks too slow for the horizon, until they come near.
"""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from controlplane.domain import findings, services, windows
from controlplane.domain import signals as sig

NAME = "leak"
RESTARTS = "restarts"

NUM_BLOCKS = 12
# How many of the newest blocks, and which share of their pairs must rise. Chance alone: 1 in 120, 1 in 3,000, 1 in 50,000;
# measured on real pods by `python -m benchmarks leaks`, as the four constants that follow.
STRETCHES = ((5, 1.0), (8, 0.9), (12, 0.85))
# The largest step from block to block, of the whole rise. Even steps of five blocks are a quarter each; with more than half
# in one step it is something that was loaded.
MAX_STEP_RATIO = 0.45
# Of the rise, what the newer half of a stretch must have brought: half of an even one, and little of a cache that gets full.
MIN_LATE_RATIO = 0.35
# Of the limit. Less is the breathing of any process, and harmless within the hours that are looked at.
MIN_RISE_RATIO = 0.02
# In windows: two days for four hours. At one day a leak of 2 % of the limit an hour is not news until the node is half full.
HORIZON_WINDOWS = 12.0
# Of the window, after a start: models load and caches fill.
SKIP_RATIO = 0.25
# When to hurry: there is time for as many cold starts of a replacement, or the node is as full as this.
_COLD_STARTS_LEFT = 4.0
_NEARLY_FULL = 0.8
_MAX_SCORE = 100.0
# Nothing is hidden there: the engine has no such thing, or nobody measures it.
_ABSENT = frozenset({sig.UnknownReason.NOT_IN_PROFILE, sig.UnknownReason.NO_SERIES})


@dataclass(frozen=True, slots=True)
class Watch:
    """What may leak, and against which limit: a signal's, or a fixed one.

    `beside` is the quantile of a block that has to rise beside its median: 0 is its floor.
    """

    signal: str
    unit: str
    beside: float = 0.0
    limit_signal: str = ""
    fixed_limit: float = math.inf


WATCHES = (
    Watch("host_memory_used", "bytes", limit_signal="host_memory_limit"),
    # Its floor is what an engine holds between two jobs, and on a busy one a matter of chance; the plateau is not.
    Watch("gpu_memory_used_ratio", "ratio", beside=0.75, fixed_limit=1.0),
    # Pooled connections are file descriptors.
    Watch("open_files", "files", limit_signal="open_files_limit"),
    # No process of an inference node has a use for as many; the system's own limit is far beyond what it survives.
    Watch("threads", "threads", fixed_limit=1000.0),
)


@dataclass(frozen=True, slots=True)
class Leak:
    """Implements the `Detector` port."""

    window_seconds: float = 14_400.0
    watches: tuple[Watch, ...] = WATCHES

    @property
    def name(self) -> str:
        """The name findings carry as their source."""
        return NAME

    @property
    def signals(self) -> tuple[str, ...]:
        """The canonical signals it asks for."""
        limits = (watch.limit_signal for watch in self.watches if watch.limit_signal)
        return (*(watch.signal for watch in self.watches), *limits, RESTARTS)

    @property
    def block_seconds(self) -> float:
        """The length of a block."""
        return self.window_seconds / NUM_BLOCKS

    @property
    def horizon_seconds(self) -> float:
        """What would happen later than this is not told yet."""
        return HORIZON_WINDOWS * self.window_seconds

    def detect(
        self, service: services.Service, window: windows.Window
    ) -> Sequence[findings.Finding | findings.NotReady]:
        """Return a finding per node and signal that leaks, and why nothing can be said where that is so.

        A node that has not lived long enough is passed over in silence while another one can be judged: what it lost
        before its start is not lost any more.
        """
        hidden = {name: why for name, why in sorted(window.unknown.items()) if why.reason not in _ABSENT}
        said: list[findings.Finding | findings.NotReady] = [
            self._not_ready(service, findings.NotReadyReason.SIGNAL_UNKNOWN, f"{name}: {why}")
            for name, why in hidden.items()
        ]
        if RESTARTS in hidden:
            return said
        judged = [one for node in sorted(window.nodes) for one in self._judge(window, node)]
        if not judged and not said:
            detail = f"no node has {STRETCHES[0][0] * self.block_seconds:g} s of a signal with a known limit"
            return [self._not_ready(service, findings.NotReadyReason.TOO_FEW_SAMPLES, detail)]
        return [*said, *(self._finding(service, window, one) for one in judged if isinstance(one, Judged))]

    def _judge(self, window: windows.Window, node: str) -> Iterator["Judged | None"]:
        """Yield the leak, or None for none, for everything of a node that can be judged."""
        signals = window.nodes[node]
        since = self._trusted_since(window, signals)
        for watch in self.watches:
            blocks = self._blocks(window, signals.get(watch.signal), watch, since)
            limit = _limit(watch, signals)
            if len(blocks) >= STRETCHES[0][0] and limit is not None:
                trend = find_trend(blocks, limit, self.block_seconds, self.horizon_seconds)
                yield None if trend is None else Judged(node, watch, limit, trend)

    def _trusted_since(self, window: windows.Window, signals: Mapping[str, windows.Series]) -> float:
        """Return when the node had got over its newest start, as far as the window shows one (Unix seconds)."""
        restarts = signals.get(RESTARTS, windows.Series((), ()))
        starts = [time for time, value in zip(restarts.times, restarts.values, strict=True) if value > 0]
        first = min((series.times[0] for series in signals.values() if series.times), default=math.inf)
        if first > window.end.timestamp() - self.window_seconds + self.block_seconds:
            starts.append(first)
        return max((start + SKIP_RATIO * self.window_seconds for start in starts), default=-math.inf)

    def _blocks(
        self, window: windows.Window, series: windows.Series | None, watch: Watch, since: float
    ) -> list["Block"]:
        """Return the blocks from the newest back to the first hole, or to `since`, in the order of time."""
        if series is None:
            return []
        samples: list[list[float]] = [[] for _ in range(NUM_BLOCKS)]
        for time, value in zip(series.times, series.values, strict=True):
            age = int((window.end.timestamp() - time) // self.block_seconds)
            if time > since and 0 <= age < NUM_BLOCKS and math.isfinite(value):
                samples[age].append(value)
        filled = itertools.takewhile(bool, samples)
        return [Block.of(values, watch.beside) for values in filled][::-1]

    def _not_ready(self, service: services.Service, reason: findings.NotReadyReason, detail: str) -> findings.NotReady:
        return findings.NotReady(NAME, service.name, reason, detail)

    def _finding(self, service: services.Service, window: windows.Window, one: "Judged") -> findings.Finding:
        watch, trend = one.watch, one.trend
        hurries = trend.seconds_left <= _COLD_STARTS_LEFT * service.capacity.cold_start_seconds
        is_critical = hurries or trend.now >= _NEARLY_FULL * one.limit
        return findings.Finding(
            kind=findings.FaultClass.LEAK,
            service=service.name,
            node=one.node,
            signal=watch.signal,
            severity=findings.Severity.CRITICAL if is_critical else findings.Severity.WARNING,
            source=NAME,
            at=window.end,
            summary=(
                f"{watch.signal} of {one.node} rises by {_rate(watch, trend.slope)} and is at {_amount(watch, trend.now)}; "
                f"it reaches its limit of {_amount(watch, one.limit)} in {_duration(trend.seconds_left)}"
            ),
            score=min(_MAX_SCORE, self.horizon_seconds / max(trend.seconds_left, 1.0)),
            # The numbers stand in the labels: what people are told is the time that is left, and that is in the summary.
            labels={
                "used_before": f"{trend.before:.6g}",
                "used": f"{trend.now:.6g}",
                "slope_per_second": f"{trend.slope:.6g}",
                "seconds_to_limit": f"{trend.seconds_left:.0f}",
                "limit": f"{one.limit:.6g}",
            },
        )


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of samples, in two numbers."""

    median: float
    beside: float

    @classmethod
    def of(cls, values: Sequence[float], quantile: float) -> "Block":
        """Return the block of some samples, at least one."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[int(quantile * (len(ordered) - 1))])


@dataclass(frozen=True, slots=True)
class Trend:
    """A rise from `before` to `now` by `slope` a second, and the time until the limit if it goes on."""

    before: float
    now: float
    slope: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Judged:
    """What leaks, where, and against which limit."""

    node: str
    watch: Watch
    limit: float
    trend: Trend


def find_trend(blocks: Sequence[Block], limit: float, block_seconds: float, horizon_seconds: float) -> Trend | None:
    """Return the leak that the newest blocks show, or None.

    >>> find_trend([Block(n, n) for n in (10, 20, 30, 40, 50)], 100.0, 10.0, 3600.0)
    Trend(before=10, now=50, slope=1.0, seconds_left=50.0)
    """
    for length, share in STRETCHES:
        lines = [[each.median for each in blocks[-length:]], [each.beside for each in blocks[-length:]]]
        if len(blocks) < length or not all(_rises(line, share, limit) for line in lines):
            continue
        now = lines[0][-1]
        slope = min(map(_slope, lines)) / block_seconds
        left = max(0.0, limit - now) / slope if slope > 0 else math.inf
        if left <= horizon_seconds:
            return Trend(lines[0][0], now, slope, left)
    return None


def _rises(line: Sequence[float], share: float, limit: float) -> bool:
    """Say whether a line rises enough, nearly everywhere, by no single step, and is still rising."""
    rise = line[-1] - line[0]
    if rise < MIN_RISE_RATIO * limit:
        return False
    if max(after - before for before, after in itertools.pairwise(line)) > MAX_STEP_RATIO * rise:
        return False
    if line[-1] - line[len(line) // 2] < MIN_LATE_RATIO * rise:
        return False
    pairs = [later > earlier for earlier, later in itertools.combinations(line, 2)]
    return sum(pairs) >= share * len(pairs)


def _slope(line: Sequence[float]) -> float:
    """Return the median of the slopes of all pairs, a block."""
    pairs = itertools.combinations(enumerate(line), 2)
    return statistics.median((later - earlier) / (j - i) for (i, earlier), (j, later) in pairs)


def _limit(watch: Watch, signals: Mapping[str, windows.Series]) -> float | None:
    """Return the newest known limit, or None."""
    if not watch.limit_signal:
        return watch.fixed_limit
    known = [value for value in signals.get(watch.limit_signal, windows.Series((), ())).values if math.isfinite(value)]
    return known[-1] if known and known[-1] > 0 else None


def _rate(watch: Watch, slope: float) -> str:
    """Return a slope as people speak of it: by the minute where that is much, else by the hour."""
    if watch.unit == "ratio":
        return f"{100 * 3600 * slope:.3g} % an hour"
    if watch.unit == "bytes":
        return f"{60 * slope / 1e6:.3g} MB a minute"
    return f"{3600 * slope:.3g} {watch.unit} an hour"


def _amount(watch: Watch, value: float) -> str:
    if watch.unit == "ratio":
        return f"{100 * value:.3g} %"
    return f"{value / 1e6:.4g} MB" if watch.unit == "bytes" else f"{value:.4g} {watch.unit}"


def _duration(seconds: float) -> str:
    if seconds < 120:  # noqa: PLR2004 - beyond two minutes nobody counts seconds
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"  # noqa: PLR2004 - as above
