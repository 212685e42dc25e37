"""The hang detector: work without progress, and everything that only looks like it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from controlplane.domain import findings, ports, services, windows
from controlplane.domain import signals as sig
from detectors import checks, hang

END = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
STEP = 5.0
CHAT = services.Service("chat", "dsctl", {"service": "chat"})
DETECTOR: ports.Detector = hang.Hang()
SPAN = 60.0
SAMPLES = int(DETECTOR.window_seconds / STEP)

# What a node shows all the time, unless a test gives another list, newest last.
BUSY = {"engine_steps_rate": 30.0, "running": 2.0, "queue_depth": 0.0, "queue_age": 0.0, "outstanding": 2.0,
        "request_rate": 5.0, "draining": 0.0}  # fmt: skip
WEDGED = {**BUSY, "engine_steps_rate": 0.0, "queue_depth": 3.0, "queue_age": 70.0, "request_rate": 0.0}
IDLE = {**dict.fromkeys(BUSY, 0.0)}

Shown = Mapping[str, float | Sequence[float]]


def window(nodes: Mapping[str, Shown], unknown: Mapping[str, sig.Unknown] | None = None) -> windows.Window:
    def series(shown: float | Sequence[float]) -> windows.Series:
        values = [shown] * SAMPLES if isinstance(shown, int | float) else list(shown)
        last = END.timestamp()
        return windows.Series(tuple(last - STEP * n for n in reversed(range(len(values)))), tuple(values))

    samples = {node: {name: series(shown) for name, shown in signals.items()} for node, signals in nodes.items()}
    return windows.Window("chat", END - timedelta(seconds=120), END, STEP, {}, samples, unknown or {})


def said(**signals: float | Sequence[float]) -> Sequence[findings.Finding | findings.NotReady]:
    return DETECTOR.detect(CHAT, window({"node-1": {**WEDGED, **signals}, "node-2": BUSY}))


@pytest.mark.parametrize(("name", "check"), list(checks.of(DETECTOR)), ids=[name for name, _ in checks.of(DETECTOR)])
def test_it_does_what_every_detector_must(name: str, check: Callable[[], None]) -> None:
    """The shipped conformance checks hold."""
    check()


def test_a_wedged_engine_is_critical_and_the_waiting_work_is_named() -> None:
    """No step for a minute and requests waiting: that node, and no other."""
    [finding] = said()
    assert isinstance(finding, findings.Finding)
    assert (finding.kind, finding.node, finding.signal) == (
        findings.FaultClass.BAD_NODE,
        "node-1",
        "engine_steps_rate",
    )
    assert (finding.severity, finding.source, finding.at) == (findings.Severity.CRITICAL, "hang", END)
    assert finding.labels == {"running": "2", "queue_depth": "3", "queue_age": "70", "outstanding": "2"}
    assert "no step for 60 s" in finding.summary


@pytest.mark.parametrize("seen", ["running", "queue_depth", "queue_age", "outstanding"])
def test_each_sign_of_work_is_enough_alone(seen: str) -> None:
    """In a real wedge the engine's own gauges may read zero; what the gateway waits for then counts."""
    quiet = dict.fromkeys(("running", "queue_depth", "queue_age", "outstanding"), 0.0)
    [finding] = said(**{**quiet, seen: 2.0})
    assert isinstance(finding, findings.Finding)
    assert finding.labels == {seen: "2"}


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(BUSY, id="it works"),
        pytest.param(IDLE, id="it has nothing to do"),
        pytest.param({**IDLE, "running": [0.0] * (SAMPLES - 3) + [1.0] * 3}, id="work came a moment ago"),
        pytest.param({**WEDGED, "engine_steps_rate": [0.0] * (SAMPLES - 1) + [0.5]}, id="it has begun to step again"),
        pytest.param({**IDLE, "outstanding": 3.0, "request_rate": 900.0}, id="its cache answers everything"),
        pytest.param({**IDLE, "outstanding": 3.0, "draining": 1.0}, id="it drains and refuses what is tried"),
        pytest.param({**IDLE, "running": [1.0, 0.0] * (SAMPLES // 2)}, id="short requests between two scrapes"),
    ],
)
def test_what_only_looks_like_a_hang_is_not_reported(shown: Shown) -> None:
    """Progress, idleness, and work that has not waited for the whole span."""
    assert list(DETECTOR.detect(CHAT, window({"node-1": shown}))) == []


def test_requests_that_drain_in_vain_still_count() -> None:
    """A node that drains must finish what it has admitted."""
    assert [type(one) for one in said(draining=1.0)] == [findings.Finding]


def test_a_gateway_that_never_had_an_answer_counts_as_waiting() -> None:
    """A node that hangs from its first request on has no rate of answers at all."""
    shown = {"engine_steps_rate": 0.0, "outstanding": 1.0}
    [finding] = DETECTOR.detect(CHAT, window({"node-1": shown}))
    assert isinstance(finding, findings.Finding)


def test_a_node_seen_too_briefly_is_passed_over_while_others_are_judged() -> None:
    """A node that just started must not keep the detector from speaking for the rest."""
    young = {name: [value] * 4 for name, value in WEDGED.items()}
    assert list(DETECTOR.detect(CHAT, window({"node-1": young, "node-2": BUSY}))) == []


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param({}, id="no node"),
        pytest.param({"node-1": {"engine_steps_rate": 0.0}}, id="nothing shows work"),
        pytest.param({"node-1": {name: [value] * 4 for name, value in WEDGED.items()}}, id="too brief"),
    ],
)
def test_it_says_when_nobody_can_be_judged(nodes: Mapping[str, Shown]) -> None:
    """Silence would be taken for health."""
    [declined] = DETECTOR.detect(CHAT, window(nodes))
    assert isinstance(declined, findings.NotReady)
    assert declined.reason is findings.NotReadyReason.TOO_FEW_SAMPLES


def test_without_a_step_counter_it_says_so() -> None:
    """An engine that does not count steps cannot be judged by them."""
    unknown = {"engine_steps_rate": sig.Unknown(sig.UnknownReason.NOT_IN_PROFILE)}
    [declined] = DETECTOR.detect(CHAT, window({"node-1": {"running": 1.0}}, unknown))
    assert isinstance(declined, findings.NotReady)
    assert declined.reason is findings.NotReadyReason.SIGNAL_UNKNOWN


def test_the_demo_pace_needs_ten_seconds() -> None:
    """The span follows the range of rates, so that a rate of zero and the waiting work cover the same time."""
    quick = hang.Hang(rate_seconds=10.0)
    assert (quick.span_seconds, quick.window_seconds) == (10.0, 20.0)
    wedged = {name: [value] * 3 for name, value in WEDGED.items()}
    assert [type(one) for one in quick.detect(CHAT, window({"node-1": wedged}))] == [findings.Finding]
