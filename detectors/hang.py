"""Finds a node whose engine hangs: work is there and no step is made. The health endpoint is never asked.

Called by the tick with a window of one service. Pure. A wedged engine goes on answering health checks, and its own
gauges may say that nothing runs; so forward progress is what counts: the counter of engine steps against the work that
the node, or the gateway in front of it, has waiting. A rate of exactly zero says that no step was made within
`rate_seconds`, so the work must have been there for as long; work that came a moment ago proves nothing.

Works badly: where a single step takes longer than `rate_seconds` (a very long prompt without chunked prefill); where
nothing but the engine itself knows about waiting work and its gauges read zero (put a gateway in front); right after
a start, until a whole span has been seen.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from controlplane.domain import findings, services, windows

NAME = "hang"
STEPS = "engine_steps_rate"
# What shows that work waits for the engine; one of them is enough at each instant.
WAITING = ("running", "queue_depth", "queue_age")
OUTSTANDING, ANSWERS, DRAINING = "outstanding", "request_rate", "draining"
# Requests that need no engine step are answered from the cache, in milliseconds. Where those at a node stay longer than
# this on average (Little's law: outstanding over answers per second), they wait for its engine.
_MAX_CACHED_SECONDS = 3.0
_MIN_SAMPLES = 3
# The span of a rate is extrapolated to the edges of its range, and samples lie a step apart.
_MIN_SPAN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Hang:
    """Implements the `Detector` port. `rate_seconds` is the range over which the rate of steps is computed."""

    rate_seconds: float = 60.0

    @property
    def name(self) -> str:
        """The name findings carry as their source."""
        return NAME

    @property
    def signals(self) -> tuple[str, ...]:
        """The canonical signals it asks for; steps are required, and one that shows work."""
        return (STEPS, *WAITING, OUTSTANDING, ANSWERS, DRAINING)

    @property
    def span_seconds(self) -> float:
        """How long work must have been there without a step."""
        return max(_MIN_SPAN_SECONDS, self.rate_seconds)

    @property
    def window_seconds(self) -> float:
        """A little more than the span, for samples that come late."""
        return 2.0 * self.span_seconds

    def detect(
        self, service: services.Service, window: windows.Window
    ) -> Sequence[findings.Finding | findings.NotReady]:
        """Return a finding per hanging node, and NotReady when no node can be judged."""
        if (unknown := window.unknown.get(STEPS)) is not None:
            detail = f"{STEPS}: {unknown}"
            return [findings.NotReady(NAME, service.name, findings.NotReadyReason.SIGNAL_UNKNOWN, detail)]
        judged = {node: self._stuck(window, signals) for node, signals in sorted(window.nodes.items())}
        known = {node: stuck for node, stuck in judged.items() if stuck is not None}
        if not known:
            detail = f"no node has {self.span_seconds:g} s of {STEPS} and of a signal that shows work"
            return [findings.NotReady(NAME, service.name, findings.NotReadyReason.TOO_FEW_SAMPLES, detail)]
        return [self._finding(service, window, node, stuck) for node, stuck in known.items() if stuck]

    def _stuck(self, window: windows.Window, signals: Mapping[str, windows.Series]) -> Mapping[str, float] | None:
        """Return the work that waits in vain, by signal; empty when the engine makes progress or has nothing to do;
        None when that cannot be told.
        """
        end = window.end.timestamp()
        samples = {name: _finite(series.since(end - self.span_seconds)) for name, series in signals.items()}
        steps = samples.get(STEPS, {})
        shows_work = [name for name in (*WAITING, OUTSTANDING) if samples.get(name)]
        if len(steps) < _MIN_SAMPLES or not shows_work:
            return None
        if max(steps) - min(steps) < self.span_seconds - 2 * window.step_seconds:
            return None
        if steps[max(steps)] > 0 or not all(_has_work(samples, time) for time in steps):
            return {}
        return {name: value for name, value in _newest(samples, shows_work) if value > 0}

    def _finding(
        self, service: services.Service, window: windows.Window, node: str, stuck: Mapping[str, float]
    ) -> findings.Finding:
        work = ", ".join(f"{name} {value:g}" for name, value in stuck.items())
        return findings.Finding(
            kind=findings.FaultClass.BAD_NODE,
            service=service.name,
            node=node,
            signal=STEPS,
            severity=findings.Severity.CRITICAL,
            source=NAME,
            at=window.end,
            summary=f"the engine of {node} has made no step for {self.span_seconds:g} s while work waits: {work}",
            observed=0.0,
            labels={name: f"{value:g}" for name, value in stuck.items()},
        )


_Samples = Mapping[str, Mapping[float, float]]


def _finite(series: windows.Series) -> Mapping[float, float]:
    return {t: v for t, v in zip(series.times, series.values, strict=True) if math.isfinite(v)}


def _has_work(samples: _Samples, time: float) -> bool:
    """Say whether the engine certainly had something to do at an instant."""
    if any(samples.get(name, {}).get(time, 0.0) > 0 for name in WAITING):
        return True
    if samples.get(DRAINING, {}).get(time, 0.0) > 0:
        return False  # what the gateway tries there is refused at once
    outstanding = samples.get(OUTSTANDING, {}).get(time, 0.0)
    # Without a rate the gateway has never had an answer of this node to count.
    answers = samples.get(ANSWERS, {}).get(time, 0.0)
    return outstanding > 0 and outstanding > _MAX_CACHED_SECONDS * answers


def _newest(samples: _Samples, names: Sequence[str]) -> Iterator[tuple[str, float]]:
    for name in names:
        yield name, samples[name][max(samples[name])]
