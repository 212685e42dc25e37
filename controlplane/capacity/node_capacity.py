"""How many requests per second one node carries within the service's objective.

Called before the planner, with some past of the nodes. The setting `requests_per_second_per_node` wins, as from a load
test. Else it is learned: every sample pairs a node's rate with its P99 at the same time, and the answer is the highest
rate at which nine of ten samples kept the objective, with enough of them, over enough instants.

It is conservative in both cases. Where the knee was seen (faster samples broke the objective), the answer is the rate
below it, and the planner keeps its headroom on top. Where no node was ever loaded that far, what was seen is a lower
bound: as long as half of the objective was to spare, the headroom is taken to be there too. Plans then load nodes up
to what was seen and no further; keeping the headroom below that as well would ask for more nodes at every peak, which
then see less load, and so on without end.

Works badly: on a past that was quiet throughout (a night tells little about a day: give it a day or more, in steps of a
minute or more); when the mix of requests changes; on nodes of different kinds, whose samples are pooled: the answer
is what the fast ones carry. Pure; O(n log n) in the samples.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from controlplane import phrases
from controlplane.domain import services, windows

RATE, LATENCY, ERRORS, DEGRADED = "request_rate", "latency_p99", "server_error_ratio", "degradation_level"
SIGNALS = (RATE, LATENCY, ERRORS, DEGRADED)
_REQUIRED = (RATE, LATENCY)

# So many samples side by side, in the order of their rates, must agree before a rate is called carried.
MIN_SAMPLES = 20
# A quantile over few requests breaks any objective now and then.
_MIN_KEPT_RATIO = 0.9
# When load rises, rates rise first and the P99 of the last minute follows: one instant of many nodes proves nothing.
_MIN_INSTANTS = 5
# A few slow samples of the fastest may be chance; when the search has to pass as many as this, there is a knee.
_MIN_BEYOND = 5
# While this share of the objective was to spare, the node was not near its knee.
_SPARE_RATIO = 0.5


@dataclass(frozen=True, slots=True)
class Estimate:
    """Requests per second that a node carries, and the sentence that says where the number is from.

    `is_knee_seen` is False where nodes were never loaded until the objective broke, so that they may carry more.
    """

    rps: float
    is_knee_seen: bool
    num_samples: int
    sentence: str


class NoEstimateReason(StrEnum):
    """Why nobody can say what a node carries."""

    NOT_READ = "no past of the nodes was read"
    SIGNAL_UNKNOWN = "signal is unknown"
    TOO_FEW_SAMPLES = "too few samples"
    NEVER_WITHIN = "the objective was not kept often enough at any rate"


@dataclass(frozen=True, slots=True)
class NoEstimate:
    """The honest answer where nothing can be learned yet; a setting would help."""

    reason: NoEstimateReason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason.value} ({self.detail})" if self.detail else self.reason.value


@dataclass(frozen=True, slots=True)
class _Sample:
    time: float
    rps: float
    latency_seconds: float


def estimate(service: services.Service, window: windows.Window | None) -> Estimate | NoEstimate:
    """Return what one node of `service` carries; `window` holds SIGNALS of its nodes, None when it was not read."""
    stated = service.capacity.requests_per_second_per_node
    if stated is not None:
        return Estimate(stated, True, 0, f"{phrases.rate(stated)} a node, as the service states")
    if window is None:
        return NoEstimate(NoEstimateReason.NOT_READ)
    for signal in _REQUIRED:
        if (unknown := window.unknown.get(signal)) is not None:
            return NoEstimate(NoEstimateReason.SIGNAL_UNKNOWN, f"{signal}: {unknown}")
    return _learn(service, [one for signals in window.nodes.values() for one in _samples(service, signals)])


def _samples(service: services.Service, signals: Mapping[str, windows.Series]) -> Iterator[_Sample]:
    """Yield the moments at which a node was loaded and gave whole answers.

    One that fails answers fast, and one that is degraded gives less: both seem to carry more than they do.
    """
    latency, errors, degraded = (_at(signals, name) for name in (LATENCY, ERRORS, DEGRADED))
    for time, rps in _at(signals, RATE).items():
        is_whole = _keeps(errors, time, service.thresholds.server_error_ratio) and _keeps(degraded, time, 0.0)
        if rps > 0.0 and is_whole and time in latency:
            yield _Sample(time, rps, latency[time])


def _keeps(series: Mapping[float, float], time: float, at_most: float) -> bool:
    """Say whether the value was within bounds; a signal that the node never gives cannot be asked."""
    return not series or (time in series and series[time] <= at_most)


def _at(signals: Mapping[str, windows.Series], name: str) -> dict[float, float]:
    series = signals.get(name, windows.Series((), ()))
    return {time: value for time, value in zip(series.times, series.values, strict=True) if math.isfinite(value)}


def _learn(service: services.Service, samples: Sequence[_Sample]) -> Estimate | NoEstimate:
    instants = {one.time for one in samples}
    if len(samples) < MIN_SAMPLES or len(instants) < _MIN_INSTANTS:
        said = f"{len(samples)} of nodes under load at {phrases.count(len(instants), 'instant')}"
        return NoEstimate(NoEstimateReason.TOO_FEW_SAMPLES, f"{said}; {MIN_SAMPLES} at {_MIN_INSTANTS} are needed")
    objective = service.objectives.latency_p99_seconds
    ordered = sorted(samples, key=lambda one: (-one.rps, one.time))
    stretch = _fastest_carried(ordered, objective)
    if stretch is None:
        said = f"P99 of at most {objective:g} s, {phrases.count(len(samples), 'sample')}"
        return NoEstimate(NoEstimateReason.NEVER_WITHIN, said)
    return _judged(service, ordered, *stretch)


def _fastest_carried(ordered: Sequence[_Sample], objective: float) -> tuple[int, int] | None:
    """Return begin and end of the fastest stretch of samples that kept the objective; None where none did.

    `ordered` is by falling rate. A stretch is as short as can be with enough samples and instants: in a large fleet
    whose nodes carry alike, neighbours in rate are neighbours in time.
    """
    end, kept, instants = 0, 0, Counter[float]()
    for begin, first in enumerate(ordered):
        while end < len(ordered) and not _is_enough(end - begin, instants):
            kept += ordered[end].latency_seconds <= objective
            instants[ordered[end].time] += 1
            end += 1
        if not _is_enough(end - begin, instants):
            break
        if kept >= _MIN_KEPT_RATIO * (end - begin):
            return begin, end
        kept -= first.latency_seconds <= objective
        instants[first.time] -= 1
        if not instants[first.time]:
            del instants[first.time]
    return None


def _is_enough(num_samples: int, instants: Mapping[float, int]) -> bool:
    return num_samples >= MIN_SAMPLES and len(instants) >= _MIN_INSTANTS


def _judged(service: services.Service, ordered: Sequence[_Sample], begin: int, end: int) -> Estimate:
    objective, headroom = service.objectives.latency_p99_seconds, service.capacity.headroom_ratio
    stretch, beyond = ordered[begin:end], ordered[:begin]
    rps, latency = stretch[-1].rps, statistics.median(one.latency_seconds for one in stretch)
    broke = sum(one.latency_seconds > objective for one in beyond)
    seen = f"{phrases.rate(rps)} a node kept a P99 of {objective:g} s (median {latency:.3g} s)"
    of_all = f"of {phrases.count(len(ordered), 'sample')}"
    if len(beyond) >= _MIN_BEYOND:
        return Estimate(rps, True, len(ordered), f"{seen}, more broke it in {broke} {of_all}")
    if latency > _SPARE_RATIO * objective:
        return Estimate(rps, False, len(ordered), f"{seen}, the most that was seen {of_all}")
    said = f"{seen}, the most that was seen {of_all}, with enough to spare for {phrases.share(headroom)} headroom"
    return Estimate(rps * (1.0 + headroom), False, len(ordered), said)
