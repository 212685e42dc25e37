"""What every detector must do, ours and those of third parties: run each check of `of(detector)` in your tests.

A check raises AssertionError with a sentence. Pure; the windows are made up and the same every time.
"""

import copy
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from controlplane.domain import findings, ports, services, windows
from controlplane.domain import signals as sig

END = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
STEP_SECONDS = 5.0
_HOURS_LATER = 7200.0
_SERVICE = services.Service("checked", "dsctl", {"service": "checked"})
_NODES = ("node-a", "node-b", "node-c")

Check = Callable[[ports.Detector], None]


def of(detector: ports.Detector) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the name and the check, bound to `detector`; call it to run it."""
    for check in _CHECKS:

        def run(check: Check = check) -> None:
            check(detector)

        yield check.__name__, run


def gives_the_same_answer_twice(detector: ports.Detector) -> None:
    """Equal windows give equal findings: a detector has no memory and asks no clock."""
    window = noisy(detector)
    _require(list(detector.detect(_SERVICE, window)) == list(detector.detect(_SERVICE, window)), "two answers differ")


def leaves_its_input_alone(detector: ports.Detector) -> None:
    """The window is shared with others."""
    window = noisy(detector)
    before = copy.deepcopy(window)
    detector.detect(_SERVICE, window)
    _require(window == before, "the window was changed")


def says_when_it_has_nothing(detector: ports.Detector) -> None:
    """Without samples there is no finding, and at least one honest reason."""
    said = list(detector.detect(_SERVICE, _window(detector, {}, {})))
    _require(bool(said), "silence is not an answer: say NotReady")
    _require(all(isinstance(one, findings.NotReady) for one in said), "a finding out of nothing")


def says_when_signals_are_unknown(detector: ports.Detector) -> None:
    """Unknown is neither fine nor bad."""
    unknown = dict.fromkeys(detector.signals, sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE))
    said = list(detector.detect(_SERVICE, replace(_window(detector, {}, {}), unknown=unknown)))
    _require(bool(said), "silence is not an answer: say NotReady")
    _require(all(isinstance(one, findings.NotReady) for one in said), "a finding out of unknown signals")


def survives_odd_series(detector: ports.Detector) -> None:
    """Constant, single-sample, holed, huge and tiny series give finite numbers and no exception."""
    for window in _odd(detector):
        for said in detector.detect(_SERVICE, window):
            _is_sound(detector, said)


def stays_calm_on_constants(detector: ports.Detector) -> None:
    """A signal that never moves is no trouble seen by comparing it with itself."""
    for level in (0.0, 1.0):
        said = detector.detect(_SERVICE, _flat(detector, level))
        _require(not [one for one in said if isinstance(one, findings.Finding)], f"a finding on a constant {level}")


def does_not_depend_on_order(detector: ports.Detector) -> None:
    """Nodes and signals are a set: in whatever order they come, the findings are the same."""
    window = noisy(detector)
    turned = replace(
        window,
        nodes={node: dict(reversed(list(signals.items()))) for node, signals in reversed(list(window.nodes.items()))},
        service_signals=dict(reversed(list(window.service_signals.items()))),
    )
    _require(
        set(map(repr, detector.detect(_SERVICE, window))) == set(map(repr, detector.detect(_SERVICE, turned))),
        "the findings depend on the order",
    )


def takes_nan_for_a_hole(detector: ports.Detector) -> None:
    """A sample that is not a number says as much as one that is not there."""
    window = noisy(detector)
    nan = _each_series(window, lambda series: _replaced(series, math.nan))
    hole = _each_series(window, lambda series: _replaced(series, None))
    _require(_said(detector, nan) == _said(detector, hole), "NaN is judged differently from a missing sample")


def survives_gaps(detector: ports.Detector) -> None:
    """Nodes come late, go early, vanish for a while, and lack signals; whatever is said about that is sound."""
    window = noisy(detector)
    start, length = window.start.timestamp(), detector.window_seconds
    spans = {
        "node-a": [(start + length / 2, math.inf)],
        "node-b": [(0.0, start + length / 3), (start + length / 2, math.inf)],
        "node-c": [(0.0, start + length / 2)],
    }
    cut = {
        node: {name: _within(series, spans[node]) for name, series in list(signals.items())[number:]}
        for number, (node, signals) in enumerate(window.nodes.items())
    }
    for said in detector.detect(_SERVICE, replace(window, nodes=cut)):
        _is_sound(detector, said)


def says_the_same_at_any_hour(detector: ports.Detector) -> None:
    """Only the distance between samples counts, not when they were taken."""
    window = noisy(detector)
    later = _each_series(
        window, lambda series: windows.Series(tuple(time + _HOURS_LATER for time in series.times), series.values)
    )
    shift = timedelta(seconds=_HOURS_LATER)
    later = replace(later, start=window.start + shift, end=window.end + shift)
    _require(
        [replace(one, at=END) if isinstance(one, findings.Finding) else one for one in _said(detector, later)]
        == [replace(one, at=END) if isinstance(one, findings.Finding) else one for one in _said(detector, window)],
        "the same samples an hour later are judged differently",
    )


def findings_are_complete(detector: ports.Detector) -> None:
    """Findings name their source, the service, a node of the window, and a signal the detector asked for."""
    for said in detector.detect(_SERVICE, noisy(detector)):
        _is_sound(detector, said)


_CHECKS: tuple[Check, ...] = (
    gives_the_same_answer_twice,
    leaves_its_input_alone,
    says_when_it_has_nothing,
    says_when_signals_are_unknown,
    survives_odd_series,
    stays_calm_on_constants,
    does_not_depend_on_order,
    takes_nan_for_a_hole,
    survives_gaps,
    says_the_same_at_any_hour,
    findings_are_complete,
)


def noisy(detector: ports.Detector) -> windows.Window:
    """Return a window of noise in which the last two minutes of one node are very different."""
    noise = random.Random(7)  # noqa: S311  # made-up samples, no secret
    times = _times(detector)

    def series(level: float, jump: float) -> windows.Series:
        border = times[-1] - 120.0
        return windows.Series(times, tuple(level + noise.gauss(0, 0.01) + (jump if t > border else 0.0) for t in times))

    nodes = {
        node: {signal: series(0.5, (0.4 if number % 2 else -0.4) if node == "node-b" else 0.0)
               for number, signal in enumerate(sorted(detector.signals))}
        for node in _NODES
    }  # fmt: skip
    return _window(detector, {signal: series(0.5, 0.0) for signal in sorted(detector.signals)}, nodes)


def _said(detector: ports.Detector, window: windows.Window) -> list[findings.Finding | findings.NotReady]:
    return list(detector.detect(_SERVICE, window))


def _each_series(window: windows.Window, change: Callable[[windows.Series], windows.Series]) -> windows.Window:
    nodes = {node: {name: change(series) for name, series in signals.items()} for node, signals in window.nodes.items()}
    whole = {name: change(series) for name, series in window.service_signals.items()}
    return replace(window, nodes=nodes, service_signals=whole)


def _replaced(series: windows.Series, value: float | None) -> windows.Series:
    """Replace every fifth sample by `value`, or leave it out."""
    pairs = [
        (time, value if number % 5 == 0 else known)
        for number, (time, known) in enumerate(zip(series.times, series.values, strict=True))
    ]
    kept = [(time, sample) for time, sample in pairs if sample is not None]
    return windows.Series(tuple(time for time, _ in kept), tuple(sample for _, sample in kept))


def _within(series: windows.Series, spans: Sequence[tuple[float, float]]) -> windows.Series:
    parts = [series.between(start, end) for start, end in spans]
    return windows.Series(
        tuple(time for part in parts for time in part.times), tuple(value for part in parts for value in part.values)
    )


def _odd(detector: ports.Detector) -> Iterator[windows.Window]:
    times = _times(detector)
    yield _everywhere(detector, windows.Series((), ()))
    yield _everywhere(detector, windows.Series(times[-1:], (1.0,)))
    yield _everywhere(detector, windows.Series(times[::7], tuple(float(n) for n in range(len(times[::7])))))
    for size in (1e300, 5e-324, -1e300):
        yield _everywhere(detector, windows.Series(times, tuple(size * (n % 2) for n in range(len(times)))))
    yield _flat(detector, 0.0)


def _flat(detector: ports.Detector, level: float) -> windows.Window:
    times = _times(detector)
    return _everywhere(detector, windows.Series(times, (level,) * len(times)))


def _everywhere(detector: ports.Detector, series: windows.Series) -> windows.Window:
    signals = dict.fromkeys(detector.signals, series)
    return _window(detector, signals, dict.fromkeys(_NODES, signals))


def _times(detector: ports.Detector) -> tuple[float, ...]:
    count = int(detector.window_seconds / STEP_SECONDS)
    return tuple(END.timestamp() - STEP_SECONDS * (count - number) for number in range(count + 1))


def _window(
    detector: ports.Detector,
    whole: Mapping[str, windows.Series],
    nodes: Mapping[str, Mapping[str, windows.Series]],
) -> windows.Window:
    start = END - timedelta(seconds=detector.window_seconds)
    return windows.Window(_SERVICE.name, start, END, STEP_SECONDS, whole, nodes)


def _is_sound(detector: ports.Detector, said: findings.Finding | findings.NotReady) -> None:
    if isinstance(said, findings.NotReady):
        _require(said.detector == detector.name, f"{said} names another detector")
        _require(said.node in ("", *_NODES), f"{said.node} is not in the window")
        _require(said.signal in ("", *detector.signals), f"{said.signal} was not asked for")
        return
    _require(said.source == detector.name, f"{said.source} is not {detector.name}")
    _require(said.service == _SERVICE.name, f"{said.service} was not asked about")
    _require(said.node in ("", *_NODES), f"{said.node} is not in the window")
    _require(said.signal in detector.signals, f"{said.signal} was not asked for")
    numbers = [said.score, *(number for number in (said.observed, said.expected) if number is not None)]
    _require(all(map(math.isfinite, numbers)), f"{numbers} are not all finite")
    _require(bool(said.summary), "a finding must say what it saw")


def _require(is_true: bool, message: str) -> None:
    """Raise like `assert`, which an optimised interpreter would leave out."""
    if not is_true:
        raise AssertionError(message)
