"""Notices that a signal left the level it had: the cache hits less, answers come slower, cached answers go wrong.

Called by the tick with a window of one service. Pure. It compares the median of the newest minute with the median
of everything before it in the window, in units of the spread it had then (median absolute deviation, made
comparable to a standard deviation by 1.4826 for normal noise; Rousseeuw and Croux 1993). Medians, because one
outlier in five samples must not move either side.

Works badly: on trouble that lasts longer than half the window, which becomes the new level (the threshold rules in
Prometheus keep firing); on slow drifts (those are leaks); on daily patterns steeper than the window; on levels that
jump between two values by design.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from controlplane.domain import errors, findings, services, windows
from controlplane.domain import signals as sig

NAME = "level_shift"
# A median absolute deviation times this estimates the standard deviation of normal noise.
_MAD_TO_SIGMA = 1.4826
# A score of 6 spreads is beyond what noise with heavy tails shows in a day of five-second samples; scores are capped
# so that a flat past does not make them boundless.
MIN_SCORE = 6.0
MAX_SCORE = 100.0


class Direction(StrEnum):
    """Which way is bad."""

    RISES = "rises"
    FALLS = "falls"


@dataclass(frozen=True, slots=True)
class Watch:
    """How one signal is judged. `min_shift` is the smallest change worth acting on, in the signal's base unit;
    `relative_floor` keeps the spread of a quiet past from being taken for zero.
    """

    signal: str
    direction: Direction
    kind: findings.FaultClass
    min_shift: float
    relative_floor: float = 0.05


WATCHES = (
    Watch("cache_hit_ratio", Direction.FALLS, findings.FaultClass.CACHE, min_shift=0.2),
    Watch("cache_wrong_ratio", Direction.RISES, findings.FaultClass.CACHE, min_shift=0.01),
    Watch("latency_p99", Direction.RISES, findings.FaultClass.LATENCY, min_shift=0.05, relative_floor=0.1),
)


@dataclass(frozen=True, slots=True)
class LevelShift:
    """Implements the `Detector` port. `recent_seconds` is the newest stretch that is compared with the rest."""

    watches: tuple[Watch, ...] = WATCHES
    window_seconds: float = 900.0
    recent_seconds: float = 60.0
    min_past_samples: int = 20
    min_recent_samples: int = 3
    min_score: float = MIN_SCORE

    @property
    def name(self) -> str:
        """The name findings carry as their source."""
        return NAME

    @property
    def signals(self) -> tuple[str, ...]:
        """The canonical signals it needs."""
        return tuple(watch.signal for watch in self.watches)

    def detect(
        self, service: services.Service, window: windows.Window
    ) -> Sequence[findings.Finding | findings.NotReady]:
        """Return a finding per node or service that left its level, and why others cannot be judged."""
        return [said for watch in self.watches for said in self._judge(watch, service, window)]

    def _judge(
        self, watch: Watch, service: services.Service, window: windows.Window
    ) -> Iterator[findings.Finding | findings.NotReady]:
        unknown = window.unknown.get(watch.signal)
        if unknown is not None:
            detail = f"{watch.signal}: {unknown}"
            yield self._not_ready(service, watch, findings.NotReadyReason.SIGNAL_UNKNOWN, detail)
            return
        series = _series(window, watch.signal)
        if not series:
            detail = f"{watch.signal}: no samples"
            yield self._not_ready(service, watch, findings.NotReadyReason.SIGNAL_UNKNOWN, detail)
        for node, samples in series.items():
            past, recent = self._split(window, samples)
            if len(past) < self.min_past_samples or len(recent) < self.min_recent_samples:
                detail = f"{watch.signal} of {node or 'the service'}: {len(past)} before, {len(recent)} now"
                yield self._not_ready(service, watch, findings.NotReadyReason.TOO_FEW_SAMPLES, detail, node)
                continue
            shift = measure(watch, past, recent)
            if shift.change >= watch.min_shift and shift.score >= self.min_score:
                yield self._finding(watch, service, node, window, shift)

    def _split(self, window: windows.Window, samples: windows.Series) -> tuple[list[float], list[float]]:
        border = window.end.timestamp() - self.recent_seconds
        finite = [(t, v) for t, v in zip(samples.times, samples.values, strict=True) if math.isfinite(v)]
        return [v for t, v in finite if t <= border], [v for t, v in finite if t > border]

    def _not_ready(
        self, service: services.Service, watch: Watch, reason: findings.NotReadyReason, detail: str, node: str = ""
    ) -> findings.NotReady:
        return findings.NotReady(NAME, service.name, reason, detail, node, watch.signal)

    def _finding(
        self, watch: Watch, service: services.Service, node: str, window: windows.Window, shift: "Shift"
    ) -> findings.Finding:
        way = "rose" if watch.direction is Direction.RISES else "fell"
        return findings.Finding(
            kind=watch.kind,
            service=service.name,
            node=node,
            signal=watch.signal,
            severity=_severity(service, watch.signal, shift.observed),
            source=NAME,
            at=window.end,
            summary=f"{watch.signal} of {node or service.name} {way} from {shift.expected:.4g} to {shift.observed:.4g}",
            score=shift.score,
            observed=shift.observed,
            expected=shift.expected,
        )


@dataclass(frozen=True, slots=True)
class Shift:
    """How far a signal moved in its bad direction (negative: it got better), plainly and in spreads of its past."""

    expected: float
    observed: float
    change: float
    score: float


def measure(watch: Watch, past: Sequence[float], recent: Sequence[float]) -> Shift:
    """Compare two stretches of samples; neither may be empty.

    >>> watch = Watch("cache_hit_ratio", Direction.FALLS, findings.FaultClass.CACHE, min_shift=0.2)
    >>> measure(watch, [0.8, 0.81, 0.79, 0.8], [0.2, 0.2, 0.2]).change
    0.6000000000000001
    """
    expected, observed = statistics.median(past), statistics.median(recent)
    spread = _MAD_TO_SIGMA * statistics.median(abs(value - expected) for value in past)
    # On a perfectly flat past the smallest change worth acting on just reaches the least score.
    floor = max(watch.min_shift / MIN_SCORE, watch.relative_floor * abs(expected))
    change = observed - expected if watch.direction is Direction.RISES else expected - observed
    return Shift(expected, observed, change, max(-MAX_SCORE, min(MAX_SCORE, change / max(spread, floor))))


def _series(window: windows.Window, signal: str) -> Mapping[str, windows.Series]:
    """Return the signal's series by node, sorted by name, the service's own under the empty name."""
    found = {node: signals[signal] for node, signals in sorted(window.nodes.items()) if signal in signals}
    whole = window.service_signals.get(signal)
    return found if whole is None else {"": whole, **found}


def _severity(service: services.Service, signal: str, observed: float) -> findings.Severity:
    """A shift is a warning; it is critical when it also breaks what the service promises."""
    try:
        limit: sig.Limit = service.limit(signal)
    except errors.InvalidInputError:
        return findings.Severity.WARNING
    return findings.Severity.WARNING if limit.is_kept_by(observed) else findings.Severity.CRITICAL
