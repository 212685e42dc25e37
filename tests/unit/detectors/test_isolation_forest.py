"""The detector of bad nodes: what it finds and how soon, what must not be found, and when it declines."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from controlplane.domain import findings, ports, services, windows
from controlplane.domain import signals as sig
from detectors import checks, isolation_forest

# Importing scikit-learn takes seconds, and far longer beside other work.
pytestmark = pytest.mark.timeout(120)

END = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
STEP = 5.0
CHAT = services.Service("chat", "dsctl", {"service": "chat"})
DETECTOR = isolation_forest.IsolationForest(rate_seconds=10.0)
# A quiet node: what each signal is, and by which share it wavers.
CALM: Mapping[str, tuple[float, float]] = {
    "request_rate": (5.0, 0.1),
    "latency_p99": (0.4, 0.15),
    "ttft_p95": (0.06, 0.15),
    "inter_token_latency_p95": (0.03, 0.1),
    "failed_ratio": (0.0, 0.0),
    "queue_depth": (0.0, 0.0),
    "queue_age": (0.0, 0.0),
    "running": (1.5, 0.4),
    "engine_steps_rate": (30.0, 0.1),
    "generation_tokens_rate": (60.0, 0.1),
    "cache_hit_ratio": (0.5, 0.05),
    "restarts": (0.0, 0.0),
    "draining": (0.0, 0.0),
    "in_service": (1.0, 0.0),
}
SLOW = {"latency_p99": 2.0, "ttft_p95": 0.3, "inter_token_latency_p95": 0.15}
FAILING = {"failed_ratio": 0.5, "latency_p99": 0.4}

THREE = ("node-1", "node-2", "node-3")

Change = Callable[[str, str, float], float | None]


@dataclass
class Fleet:
    """Made-up samples of some nodes; `change` says what a node shows at a second before the end, None for what it
    would have shown, NaN for nothing.
    """

    seconds: float = 300.0
    nodes: Sequence[str] = ("node-1", "node-2")
    change: Change = lambda _node, _signal, _ago: None
    signals: Sequence[str] = tuple(CALM)
    unknown: Mapping[str, sig.Unknown] = field(default_factory=dict[str, sig.Unknown])
    seed: int = 1

    def window(self) -> windows.Window:
        noise = random.Random(self.seed)  # noqa: S311  # made-up samples
        agos = [STEP * number for number in reversed(range(int(self.seconds / STEP)))]

        def series(node: str, signal: str) -> windows.Series:
            level, spread = CALM[signal]
            times, values = [], []
            for ago in agos:
                usual = max(0.0, level * (1.0 + noise.gauss(0, spread)))
                changed = self.change(node, signal, ago)
                value = usual if changed is None else changed
                if not math.isnan(value):
                    times.append(END.timestamp() - ago)
                    values.append(value)
            return windows.Series(tuple(times), tuple(values))

        nodes = {node: {signal: series(node, signal) for signal in self.signals} for node in self.nodes}
        start = END - timedelta(seconds=DETECTOR.window_seconds)
        return windows.Window("chat", start, END, STEP, {}, nodes, self.unknown)

    def said(self) -> Sequence[findings.Finding | findings.NotReady]:
        return DETECTOR.detect(CHAT, self.window())

    def found(self) -> list[findings.Finding]:
        return [one for one in self.said() if isinstance(one, findings.Finding)]


def during(first: float, last: float, node: str, shown: Mapping[str, float]) -> Change:
    """`node` shows these levels from `first` to `last` seconds before the end."""

    def change(at: str, signal: str, ago: float) -> float | None:
        return shown.get(signal) if at == node and last <= ago <= first else None

    return change


def both(*changes: Change) -> Change:
    """The first change that has something to say."""

    def change(node: str, signal: str, ago: float) -> float | None:
        return next((value for one in changes if (value := one(node, signal, ago)) is not None), None)

    return change


@pytest.mark.parametrize("name", [name for name, _ in checks.of(DETECTOR)])
def test_it_does_what_every_detector_must(name: str) -> None:
    """The shipped conformance checks hold with the default settings."""
    detector: ports.Detector = isolation_forest.IsolationForest()
    dict(checks.of(detector))[name]()


def test_the_checks_give_it_a_bad_node_to_find() -> None:
    """They would prove little if it declined or stayed calm on all of them."""
    [finding] = DETECTOR.detect(services.Service("checked", "dsctl", {}), checks.noisy(DETECTOR))
    assert isinstance(finding, findings.Finding)
    assert finding.node == "node-b"


@pytest.mark.parametrize(
    ("shown", "signals"), [(SLOW, set(SLOW)), (FAILING, {"failed_ratio"})], ids=["slow", "failing"]
)
def test_a_bad_node_is_found_ten_seconds_after_it_shows_with_a_minute_of_past(
    shown: Mapping[str, float], signals: set[str]
) -> None:
    """Two samples are enough, on a fleet of two that has been up for 70 s; the node and its signals are named."""
    [finding] = Fleet(seconds=70, change=during(5, 0, "node-1", shown)).found()
    assert (finding.kind, finding.node, finding.source) == (
        findings.FaultClass.BAD_NODE,
        "node-1",
        "isolation_forest",
    )
    assert finding.severity is findings.Severity.CRITICAL
    assert finding.signal in signals
    assert set(finding.labels) == signals
    assert finding.observed == shown[finding.signal]
    assert finding.expected == pytest.approx(CALM[finding.signal][0], rel=0.3)
    assert f"{finding.signal} is {finding.observed:.3g}, expected" in finding.summary


def test_one_odd_sample_is_not_enough() -> None:
    """Trouble has to last for the whole newest stretch."""
    assert not Fleet(change=during(0, 0, "node-1", SLOW)).found()


def test_trouble_does_not_become_normal_while_it_lasts() -> None:
    """Four minutes of it after one minute of health: still found, and judged by what was before."""
    [finding] = Fleet(change=during(240, 0, "node-1", SLOW)).found()
    assert finding.expected == pytest.approx(CALM[finding.signal][0], rel=0.3)


# What the demo shows of a node that fails a third of its requests: it fails fast, so that the gateway sends it more.
FAILING_A_THIRD = {"failed_ratio": 0.34, "request_rate": 6.3}


@pytest.mark.parametrize("lasting", [20.0, 30.0, 45.0, 90.0, 180.0])
def test_a_node_that_turns_bad_soon_after_the_window_begins_stays_found(lasting: float) -> None:
    """After 25 s of past, for as long as it lasts: its own bad samples are not taken for usual."""
    young = Fleet(seconds=25 + lasting, nodes=THREE, change=during(lasting - STEP, 0, "node-1", FAILING_A_THIRD))
    [finding] = young.found()
    assert (finding.node, finding.signal, finding.expected) == ("node-1", "failed_ratio", 0.0)


def test_a_node_that_was_slower_from_the_start_is_like_that() -> None:
    """There when the window begins, it has been there before: with half a minute of past it is no bad node yet."""
    for seconds in (35.0, 50.0, 90.0):
        assert not Fleet(seconds=seconds, nodes=THREE, change=slower_by_design).found()


@pytest.mark.parametrize("seconds_ago", [5.0, 60.0])
def test_it_falls_quiet_when_the_trouble_has_ended(seconds_ago: float) -> None:
    """One healthy sample ends it, and trouble in the past gives no afterglow."""
    assert not Fleet(change=during(200, seconds_ago, "node-1", SLOW)).found()


def test_trouble_that_comes_back_is_found_again() -> None:
    """The first time is not part of what is usual."""
    again = both(during(200, 120, "node-1", SLOW), during(10, 0, "node-1", SLOW))
    assert [one.node for one in Fleet(change=again).found()] == ["node-1"]


def surge(_node: str, signal: str, ago: float) -> float | None:
    risen = {"latency_p99": 2.5, "ttft_p95": 0.6, "queue_depth": 12.0, "queue_age": 1.5, "request_rate": 20.0}
    return risen.get(signal) if ago <= 60 else None


FLUSHED = {"cache_hit_ratio": 0.1, "latency_p99": 1.2, "running": 5.0, "engine_steps_rate": 45.0}
DRAINED = {"draining": 1.0, "failed_ratio": 1.0, "request_rate": 0.5}
TAKES_OVER = {"request_rate": 10.0, "latency_p99": 1.2, "queue_depth": 9.0, "queue_age": 0.9, "ttft_p95": 0.5}
IDLE_PEER = {"request_rate": 0.0, "latency_p99": float("nan"), "queue_depth": 0.0}


def slower_by_design(node: str, signal: str, ago: float) -> float | None:
    return 2.0 + 0.01 * (ago % 7) if node == "node-1" and signal == "latency_p99" else None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _node, _signal, _ago: None, id="nothing"),
        pytest.param(surge, id="the whole service slows down in a surge"),
        pytest.param(
            both(during(40, 0, "node-1", {"latency_p99": 4.5}), surge), id="a surge that hits one node harder"
        ),
        pytest.param(slower_by_design, id="an older machine, slower as ever"),
        pytest.param(during(40, 0, "node-1", FLUSHED), id="a flushed cache"),
        pytest.param(both(during(40, 0, "node-2", DRAINED), during(40, 0, "node-1", TAKES_OVER)), id="a drained node"),
        pytest.param(
            both(during(40, 0, "node-2", {"in_service": 0.0, **IDLE_PEER}), during(40, 0, "node-1", TAKES_OVER)),
            id="an ejected node, and the one that carries its load",
        ),
        pytest.param(
            both(during(40, 0, "node-2", IDLE_PEER), during(40, 0, "node-1", TAKES_OVER)),
            id="a peer that gets no requests",
        ),
        pytest.param(during(40, 0, "node-1", {"latency_p99": 0.1, "ttft_p95": 0.01}), id="a node that got better"),
        pytest.param(during(40, 0, "node-1", {"request_rate": 0.1, "failed_ratio": 1.0}), id="one failed request"),
        pytest.param(during(40, 0, "node-1", {"request_rate": 0.2, "latency_p99": 2.0}), id="two slow requests"),
    ],
)
def test_what_is_no_bad_node_is_not_reported(change: Change) -> None:
    """Changes that all share, that were always there, that were made on purpose, or that rest on too little."""
    assert not Fleet(change=change).found()


def test_a_node_that_just_started_is_left_alone() -> None:
    """It loads and compiles: slow for 20 s after it came back, which is nobody's business."""
    away = during(60, 25, "node-1", dict.fromkeys(CALM, float("nan")))
    assert not Fleet(change=both(away, during(20, 0, "node-1", SLOW))).found()


def test_a_restart_too_short_to_leave_a_hole_counts_as_a_start() -> None:
    """The counter of starts says so."""
    restarted = during(20, 10, "node-1", {"restarts": 1.0})
    assert not Fleet(change=both(restarted, during(10, 0, "node-1", SLOW))).found()


def test_a_new_node_is_judged_by_its_peers_once_it_has_settled() -> None:
    """Without a past of its own it has to deviate twice as far; expected is what its peers show."""
    late = during(300, 50, "node-3", dict.fromkeys(CALM, float("nan")))
    bad = Fleet(nodes=("node-1", "node-2", "node-3"), change=both(late, during(45, 0, "node-3", SLOW)))
    [finding] = bad.found()
    assert finding.node == "node-3"
    assert finding.expected == pytest.approx(CALM[finding.signal][0], rel=0.3)
    slower = {"inter_token_latency_p95": 0.068}
    assert not Fleet(nodes=bad.nodes, change=both(late, during(45, 0, "node-3", slower))).found()


@pytest.mark.parametrize("shown", [SLOW, FAILING_A_THIRD], ids=["slow", "failing"])
def test_a_bad_newcomer_does_not_hide_behind_what_it_does_to_the_median_of_its_neighbours(
    shown: Mapping[str, float],
) -> None:
    """One of two peers moves their median: for half of the time its neighbours seem restless, and they are not."""
    late = during(200, 140, "node-3", dict.fromkeys(CALM, float("nan")))
    bad = Fleet(seconds=200, nodes=THREE, change=both(late, during(100, 0, "node-3", shown)))
    assert [one.node for one in bad.found()] == ["node-3"]


def test_signals_that_an_engine_lacks_are_left_out() -> None:
    """With the time between tokens alone it still works; what is missing is nobody's zero."""
    unmapped = dict.fromkeys(set(CALM) - set(SLOW), sig.Unknown(sig.UnknownReason.NOT_IN_PROFILE))
    one = Fleet(signals=["inter_token_latency_p95"], change=during(10, 0, "node-1", SLOW), unknown=unmapped)
    assert [finding.signal for finding in one.found()] == ["inter_token_latency_p95"]
    assert len(one.said()) == 1


def test_a_large_fleet_is_judged_in_one_batch() -> None:
    """Forty nodes: the two bad ones, and only those."""
    nodes = [f"node-{number:02}" for number in range(40)]
    bad = both(during(15, 0, "node-07", SLOW), during(15, 0, "node-31", FAILING))
    assert sorted(one.node for one in Fleet(nodes=nodes, change=bad).found()) == ["node-07", "node-31"]


def test_an_hour_of_noise_raises_no_alarm() -> None:
    """An hour of two nodes, in windows of five minutes."""
    assert not [one for seed in range(12) for one in Fleet(seed=seed).found()]


def test_within_the_limits_a_moderate_deviation_is_a_warning() -> None:
    """Twice as slow and far from the promised 1.5 s; three seconds would break the promise."""
    [finding] = Fleet(change=during(15, 0, "node-1", {"latency_p99": 1.1})).found()
    assert finding.severity is findings.Severity.WARNING
    [worse] = Fleet(change=during(15, 0, "node-1", {"latency_p99": 3.0})).found()
    assert worse.severity is findings.Severity.CRITICAL


@pytest.mark.parametrize(
    ("fleet", "reason"),
    [
        (Fleet(nodes=("node-1",)), findings.NotReadyReason.NO_PEERS),
        (Fleet(seconds=40), findings.NotReadyReason.TOO_FEW_SAMPLES),
        (Fleet(nodes=()), findings.NotReadyReason.SIGNAL_UNKNOWN),
    ],
    ids=["one node", "just begun", "no node"],
)
def test_where_silence_would_prove_nothing_it_says_so(fleet: Fleet, reason: findings.NotReadyReason) -> None:
    """Alone, too early, or without samples it does not call anybody healthy."""
    assert [one.reason for one in fleet.said() if isinstance(one, findings.NotReady)] == [reason]
    assert not fleet.found()


def test_a_signal_that_the_store_hides_is_named_and_the_others_are_still_judged() -> None:
    """One query that failed must not close what it would have shown, nor blind the rest."""
    hidden = {"latency_p99": sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE, "timed out")}
    signals = [name for name in CALM if name != "latency_p99"]
    said = Fleet(signals=signals, unknown=hidden, change=during(15, 0, "node-1", FAILING)).said()
    assert [type(one) for one in said] == [findings.NotReady, findings.Finding]
    assert "latency_p99" in str(said[0])


def test_fewer_false_alarms_ask_for_more_rarity_up_to_what_certainty_can_give() -> None:
    """The setting moves the bar; a tenth of the alarms is one step of ten, and more nodes ask for more."""

    def asked(alarms: float, nodes: int = 2) -> float:
        return isolation_forest.IsolationForest(alarms, rate_seconds=10.0).rarity_asked(nodes)

    assert asked(10.0) < asked(1.0) < asked(0.1)
    assert asked(1.0) - asked(10.0) == pytest.approx(1.0)
    assert asked(1.0, 20) - asked(1.0, 2) == pytest.approx(1.0)
    assert asked(1e-9) == asked(1e-6)
