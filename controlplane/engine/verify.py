"""Judges whether the service level came back after a run: recovered, not recovered, worse, or unknown.

Called through `verification` while a run waits for its verdict. Pure functions over windows of samples.

*Recovered*: the newest consecutive samples of every signal named by the runbook lie inside the service's limit and span
the hold time. A sample computed over a rate window still contains traffic from before the action; that only delays this
verdict. *Worse*: outside the limit and clearly further out than before the action and than the untouched nodes; such
stale samples could mislead here, so only samples after a settling time count, and nothing is called worse that was
still getting worse by itself when the action came, or whose effect may as well be none. *Unknown* and *not recovered*
are said at the deadline. Where no untouched node exists to compare with, the hold time is half as long again, and the
sentence says that there was no control. Where untouched nodes were seen often enough, sentence and evidence also say how
much the run changed the signal against them, with a 95 % interval (`effect`); elsewhere the evidence says why not, and
the verdict is found without. Works badly for signals sampled less than three times per hold time: it keeps watching.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from controlplane import phrases
from controlplane.domain import errors, outcomes, plans, services, windows
from controlplane.domain import signals as sig
from controlplane.engine import effect

# The shipped rules and profiles look back 30 to 60 s; after that a sample says nothing of the time before.
SETTLE_SECONDS = 60.0
# Without untouched nodes a lull can look like a cure: watch half as long again.
NO_CONTROL_HOLD_FACTOR = 1.5
# Fewer samples than this are no trend.
MIN_SAMPLES = 3
# A hole of more than this many steps between samples breaks a row of good ones, and ends freshness.
_MAX_HOLE_STEPS = 3.0
# Clearly worse: half as far out again, and by a tenth of the limit, so that noise at the limit is not blamed on us.
_WORSE_FACTOR = 1.5
_WORSE_MARGIN = 0.1
_MIN_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """What is to be judged. `targets` are the treated nodes, empty for the whole service; `controls` untouched ones.

    The run's first effect was at `began_at`, its last one at `acted_at`.
    """

    spec: plans.VerifySpec
    service: services.Service
    before: windows.Window
    after: windows.Window
    targets: tuple[str, ...]
    controls: tuple[str, ...]
    began_at: datetime
    acted_at: datetime
    now: datetime

    @property
    def has_control(self) -> bool:
        """True when some signal is measured both on a treated and on an untouched node."""
        return self.spec.use_control and any(
            any(_has(self, node, signal) for node in self.targets)
            and any(_of(self.after, node, signal).times for node in self.controls)
            for signal in self.spec.signals
        )

    @property
    def hold_seconds(self) -> float:
        """How long the signals must stay inside their limits."""
        return self.spec.hold_seconds * (1.0 if self.has_control else NO_CONTROL_HOLD_FACTOR)

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, which moves with a longer hold; a clock that stepped back leaves the whole."""
        elapsed = max(0.0, (self.now - self.acted_at).total_seconds())
        return self.spec.within_seconds + self.hold_seconds - self.spec.hold_seconds - elapsed


@dataclass(frozen=True, slots=True)
class _Track:
    """One signal of one target: its samples, its limit, what the controls show."""

    signal: str
    target: str
    limit: sig.Limit
    before: windows.Series
    after: windows.Series
    control: tuple[float, ...]
    reason: str  # why there are no samples, empty when there are


def judge(case: Case) -> outcomes.Verification:
    """Return the verdict, or `Watching` while it is too early for one."""
    try:
        tracks = _tracks(case)
    except errors.InvalidInputError as error:
        return outcomes.Judged(outcomes.Verdict.UNKNOWN, f"nobody can verify this: {error}", case.has_control)
    unknown = [track for track in tracks if _is_unknown(case, track)]
    holding = [_held_seconds(case, track) for track in tracks]
    if not unknown and min(holding) >= case.hold_seconds:
        return _recovered(case, tracks)
    if worse := next((track for track in tracks if _is_worse(case, track)), None):
        return _judged(case, tracks, outcomes.Verdict.WORSE, f"worse: {_proof(case, worse)}")
    if case.seconds_left > 0:
        return _watch(case, tracks, unknown, min(holding))
    if unknown:
        said = f"unknown: {_why_unknown(case, unknown[0])} at the deadline"
        return _judged(case, tracks, outcomes.Verdict.UNKNOWN, said)
    return _not_recovered(case, tracks)


def _tracks(case: Case) -> tuple[_Track, ...]:
    """Return what has to recover: each signal on each target that has it, else on the service."""
    if not case.spec.signals:
        raise errors.InvalidInputError("the runbook names no signal to verify")
    return tuple(track for signal in case.spec.signals for track in _tracks_of(case, signal))


def _tracks_of(case: Case, signal: str) -> tuple[_Track, ...]:
    limit = case.service.limit(signal)
    own = [node for node in case.targets if _has(case, node, signal)]
    if not own:
        name = case.service.name
        before = case.before.service_signals.get(signal, _EMPTY)
        after = case.after.service_signals.get(signal, _EMPTY)
        return (_Track(signal, name, limit, before, after, (), _reason(case, signal)),)
    # Nothing was done to the controls, so that all their samples since the action count.
    compared = case.controls if case.has_control else ()
    since = case.acted_at.timestamp()
    control = tuple(value for node in compared for value in _of(case.after, node, signal).since(since).values)
    return tuple(
        _Track(
            signal,
            node,
            limit,
            _of(case.before, node, signal),
            _of(case.after, node, signal),
            control,
            _reason(case, signal),
        )
        for node in own
    )


_EMPTY = windows.Series((), ())


def _has(case: Case, node: str, signal: str) -> bool:
    """Say whether the signal is measured on the node: then its absence afterwards is unknown, not the service's."""
    return bool(_of(case.after, node, signal).times or _of(case.before, node, signal).times)


def _of(window: windows.Window, node: str, signal: str) -> windows.Series:
    return window.nodes.get(node, _NO_SIGNALS).get(signal, _EMPTY)


_NO_SIGNALS: Mapping[str, windows.Series] = {}


def _reason(case: Case, signal: str) -> str:
    reason = case.after.unknown.get(signal)
    return "" if reason is None else str(reason)


def _settled(case: Case, series: windows.Series) -> tuple[float, ...]:
    """Return the values that contain nothing from before the action."""
    return series.since(case.acted_at.timestamp() + _settle_seconds(case)).values


def _settle_seconds(case: Case) -> float:
    return min(SETTLE_SECONDS, case.spec.within_seconds / 2)


def _hole_seconds(case: Case) -> float:
    return _MAX_HOLE_STEPS * case.after.step_seconds


def _is_unknown(case: Case, track: _Track) -> bool:
    """True when the newest sample is missing or too old to say anything about now."""
    return not track.after.times or case.now.timestamp() - track.after.times[-1] > _hole_seconds(case)


def _held_seconds(case: Case, track: _Track) -> float:
    """Return how long the newest consecutive samples since the action have been inside the limit."""
    since = track.after.since(case.acted_at.timestamp())
    samples = list(zip(since.times, since.values, strict=True))
    row: list[float] = []
    for time, value in reversed(samples):
        if not track.limit.is_kept_by(value) or (row and row[-1] - time > _hole_seconds(case)):
            break
        row.append(time)
    return row[0] - row[-1] if len(row) >= MIN_SAMPLES else 0.0


def _is_worse(case: Case, track: _Track) -> bool:
    """Say whether the target is clearly further outside its limit than before, and than the untouched nodes."""
    newest = _settled(case, track.after)[-MIN_SAMPLES:]
    before = _steady_before(case, track)
    if len(newest) < MIN_SAMPLES or before is None:
        return False
    # All of the newest samples, not their median: one good sample is reason enough to keep watching.
    now = min(_excess(track.limit, value) for value in newest)
    references = [before]
    if track.control:
        references.append(_excess(track.limit, statistics.median(track.control)))
    if not all(_is_clearly_above(track.limit, now, reference) for reference in references):
        return False
    return _may_be_harmful(track, _effect(case, track))


def _may_be_harmful(track: _Track, found: effect.Effect | effect.NoEffect) -> bool:
    """Say whether the whole interval of the effect lies on the bad side; without an interval nothing speaks against."""
    if isinstance(found, effect.NoEffect):
        return True
    return found.low > 0 if track.limit.at_most is not None else found.high < 0


def _effect(case: Case, track: _Track) -> effect.Effect | effect.NoEffect:
    """Return what the run did to the signal of a node, against the untouched nodes that measure it."""
    compared = case.controls if track.control else ()
    others = [_course(case, node, track.signal) for node in compared if _has(case, node, track.signal)]
    return effect.measure(
        _course(case, track.target, track.signal),
        others,
        step_seconds=case.after.step_seconds,
        spacing_seconds=SETTLE_SECONDS,
    )


def _course(case: Case, node: str, signal: str) -> effect.Course:
    before, after = _of(case.before, node, signal), _of(case.after, node, signal)
    return effect.Course(before.between(0.0, case.began_at.timestamp()), after.since(case.acted_at.timestamp()))


def _steady_before(case: Case, track: _Track) -> float | None:
    """Return how far outside the signal was when we acted; None when unknown, or when it was still getting worse.

    A sample over a rate window shows fresh trouble only in part, so that its rise goes on after the action.
    """
    earlier = track.before.between(0.0, case.began_at.timestamp() - _settle_seconds(case))
    if not earlier.values:
        return None
    at_act = _excess(track.limit, _at_act(track))
    settled = _excess(track.limit, statistics.median(earlier.values))
    return None if _is_clearly_above(track.limit, at_act, settled) else at_act


def _at_act(track: _Track) -> float:
    return statistics.median(track.before.values[-MIN_SAMPLES:])


def _worst_before(track: _Track) -> float | None:
    """Return the reading of the time before that lies furthest in the bad direction; None without any.

    That is what people are told: we act within seconds, when a median of the time before still shows the good times.
    """
    if not track.before.values:
        return None
    return max(track.before.values, key=lambda value: _badness(track.limit, value))


def _badness(limit: sig.Limit, value: float) -> float:
    """Return a number that grows towards the bad side of the limit, inside it too."""
    return max(
        -math.inf if limit.at_most is None else value - limit.at_most,
        -math.inf if limit.at_least is None else limit.at_least - value,
    )


def _is_clearly_above(limit: sig.Limit, excess: float, reference: float) -> bool:
    return excess > _WORSE_FACTOR * reference + _WORSE_MARGIN * _scale(limit)


def _excess(limit: sig.Limit, value: float) -> float:
    """Return how far `value` lies outside the limit, in the signal's unit; zero inside."""
    return max(0.0, _badness(limit, value))


def _scale(limit: sig.Limit) -> float:
    """Return the size of the limit, by which differences are called large or small.

    For a success ratio that is the room it leaves for failures: 0.005 below 0.995.
    """
    if limit.at_most is not None:
        return abs(limit.at_most)
    least = limit.at_least or 0.0
    return 1.0 - least if 0.0 < least < 1.0 else abs(least)


def _recovered(case: Case, tracks: Sequence[_Track]) -> outcomes.Judged:
    details = "; ".join(_proof(case, track) for track in tracks)
    return _judged(
        case, tracks, outcomes.Verdict.RECOVERED, f"recovered: {details}, for {phrases.duration(case.hold_seconds)}"
    )


def _not_recovered(case: Case, tracks: Sequence[_Track]) -> outcomes.Judged:
    short = next(track for track in tracks if _held_seconds(case, track) < case.hold_seconds)
    since = phrases.duration((case.now - case.acted_at).total_seconds())
    said = f"not recovered {since} after the action: {_proof(case, short)}"
    if held := _held_seconds(case, short):
        said += f", inside for {phrases.duration(held)} of {phrases.duration(case.hold_seconds)}"
    return _judged(case, tracks, outcomes.Verdict.NOT_RECOVERED, said)


def _watch(case: Case, tracks: Sequence[_Track], unknown: Sequence[_Track], held_seconds: float) -> outcomes.Watching:
    again = max(_MIN_AGAIN_SECONDS, min(case.after.step_seconds, case.seconds_left))
    left = f"{phrases.duration(case.seconds_left)} left"
    if unknown:
        return outcomes.Watching(f"watching: {_why_unknown(case, unknown[0])}; {left}", again)
    short = min(tracks, key=lambda track: _held_seconds(case, track))
    held = f"held {phrases.duration(held_seconds)} of {phrases.duration(case.hold_seconds)}"
    return outcomes.Watching(f"watching: {_trend(short)}, {held}; {left}", again)


def _why_unknown(case: Case, track: _Track) -> str:
    name = f"{track.signal} of {track.target}"
    if track.reason:
        return f"{name} is unknown: {track.reason}"
    if not track.after.times:
        return f"{name} has no samples since the action"
    return f"{name} has had no sample for {phrases.duration(case.now.timestamp() - track.after.times[-1])}"


def _proof(case: Case, track: _Track) -> str:
    """Return a signal's story with the effect, where one can be stated."""
    found = _effect(case, track)
    return _trend(track) if isinstance(found, effect.NoEffect) else f"{_trend(track)}, {found}"


def _trend(track: _Track) -> str:
    """Return one signal's story with its numbers: before, now, the limit, the untouched nodes."""
    worst = _worst_before(track)
    before = "unknown" if worst is None else f"at worst {worst:.4g}"
    now = f"{track.after.values[-1]:.4g}" if track.after.values else "unknown"
    said = f"{track.signal} of {track.target} was {before}, is {now} ({track.limit})"
    return f"{said}, untouched nodes {statistics.median(track.control):.4g}" if track.control else said


def _judged(case: Case, tracks: Sequence[_Track], verdict: outcomes.Verdict, sentence: str) -> outcomes.Judged:
    compared = any(track.control for track in tracks)
    control = (
        f"control: {phrases.count(len(case.controls), 'untouched node')}"
        if compared
        else "no control, before and after only"
    )
    evidence: dict[str, outcomes.Json] = {"effect": {_name(track): _stored(_effect(case, track)) for track in tracks}}
    evidence |= {
        _name(track): {
            "before": _at_act(track) if track.before.values else None,
            "worst_before": _worst_before(track),
            "after": track.after.values[-1] if track.after.values else None,
            "control": statistics.median(track.control) if track.control else None,
            "limit": str(track.limit),
            "held_seconds": round(_held_seconds(case, track), 3),
        }
        for track in tracks
    }
    return outcomes.Judged(verdict, f"{sentence} ({control})", compared, evidence)


def _name(track: _Track) -> str:
    return f"{track.target}.{track.signal}"


def _stored(found: effect.Effect | effect.NoEffect) -> outcomes.Json:
    if isinstance(found, effect.NoEffect):
        return found.sentence
    return {
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "num_controls": found.num_controls,
        "num_instants": found.num_instants,
    }
