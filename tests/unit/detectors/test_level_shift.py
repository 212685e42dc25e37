"""The level shift detector: what it finds, what it must not find, and when it declines."""

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from controlplane.domain import findings, ports, services, windows
from controlplane.domain import signals as sig
from detectors import checks, level_shift

END = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
STEP = 5.0
CHAT = services.Service("chat", "dsctl", {"service": "chat"})
DETECTOR: ports.Detector = level_shift.LevelShift()


def series(values: Sequence[float]) -> windows.Series:
    """Samples five seconds apart, the last one at the end of the window."""
    last = END.timestamp()
    return windows.Series(tuple(last - STEP * (len(values) - 1 - n) for n in range(len(values))), tuple(values))


def window(
    node: dict[str, Sequence[float]] | None = None,
    service: dict[str, Sequence[float]] | None = None,
    unknown: dict[str, sig.Unknown] | None = None,
) -> windows.Window:
    return windows.Window(
        "chat",
        END - timedelta(seconds=900),
        END,
        STEP,
        {name: series(values) for name, values in (service or {}).items()},
        {"node-1": {name: series(values) for name, values in (node or {}).items()}} if node else {},
        unknown or {},
    )


def found(seen: windows.Window) -> list[findings.Finding]:
    return [said for said in DETECTOR.detect(CHAT, seen) if isinstance(said, findings.Finding)]


@pytest.mark.parametrize(("name", "check"), list(checks.of(DETECTOR)), ids=[name for name, _ in checks.of(DETECTOR)])
def test_it_does_what_every_detector_must(name: str, check: Callable[[], None]) -> None:
    """The shipped conformance checks hold."""
    check()


def test_wrong_answers_on_one_node_are_critical_and_name_it() -> None:
    """From never to a third of the audited hits: a cache fault of that node, beyond what the service tolerates."""
    [finding] = found(window(node={"cache_wrong_ratio": [0.0] * 60 + [0.33] * 12}))
    assert (finding.kind, finding.node, finding.signal) == (findings.FaultClass.CACHE, "node-1", "cache_wrong_ratio")
    assert finding.severity is findings.Severity.CRITICAL
    assert (finding.expected, finding.observed) == (0.0, 0.33)
    assert finding.at == END
    assert finding.source == "level_shift"


def test_a_hit_ratio_that_collapses_is_a_warning_and_one_that_rises_is_good_news() -> None:
    """Only the bad direction counts; no limit is stated for hits, so it is not critical."""
    [finding] = found(window(node={"cache_hit_ratio": [0.8, 0.78, 0.82] * 20 + [0.1] * 12}))
    assert finding.severity is findings.Severity.WARNING
    assert not found(window(node={"cache_hit_ratio": [0.1] * 60 + [0.8] * 12}))


def test_latency_of_the_service_rises() -> None:
    """P99 from 0.3 s to 0.9 s is a shift, and within the promised 1.5 s only a warning; to 2 s it is critical."""
    [finding] = found(window(service={"latency_p99": [0.3, 0.31, 0.29] * 20 + [0.9] * 12}))
    assert (finding.node, finding.severity) == ("", findings.Severity.WARNING)
    [worse] = found(window(service={"latency_p99": [0.3] * 60 + [2.0] * 12}))
    assert worse.severity is findings.Severity.CRITICAL


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([0.3] * 60 + [0.34] * 12, id="too small to act on"),
        pytest.param([0.3] * 66 + [9.0] * 2 + [0.3] * 4, id="a short spike"),
        pytest.param([0.3, 1.5] * 30 + [1.5] * 12, id="within the noise it always had"),
        pytest.param([0.3 + 0.001 * n for n in range(72)], id="a slow drift"),
    ],
)
def test_what_is_no_shift_is_not_reported(values: list[float]) -> None:
    """Small, short, usual and slow changes are somebody else's business."""
    assert not found(window(service={"latency_p99": values}))


def test_noise_raises_no_alarm_in_a_day() -> None:
    """A day of lognormal latency, judged every three minutes: the least score is far out."""
    noise = random.Random(3)  # noqa: S311  # made-up samples
    values = [0.3 * noise.lognormvariate(0, 0.25) for _ in range(17_280)]
    alarms = sum(bool(found(window(service={"latency_p99": values[n : n + 180]}))) for n in range(0, 17_000, 36))
    assert alarms == 0


@pytest.mark.parametrize(("past", "recent"), [(19, 12), (60, 2)])
def test_too_few_samples_are_said_not_guessed(past: int, recent: int) -> None:
    """With 19 samples before, or two now, it declines and says how many there are."""
    values = [0.0] * past + [1.0] * recent
    stretched = windows.Series(
        tuple(END.timestamp() - 60 - 5 * (past - n) for n in range(past))
        + tuple(END.timestamp() - 5 * (recent - 1 - n) for n in range(recent)),
        tuple(values),
    )
    seen = window()
    said = DETECTOR.detect(
        CHAT,
        windows.Window("chat", seen.start, END, STEP, {"latency_p99": stretched}, {}, {}),
    )
    declined = [s for s in said if isinstance(s, findings.NotReady) and "latency_p99" in s.detail]
    assert [d.reason for d in declined] == [findings.NotReadyReason.TOO_FEW_SAMPLES]
    assert f"{past} before, {recent} now" in declined[0].detail


def test_an_unknown_signal_is_passed_on_with_its_reason() -> None:
    """Unknown is not fine: the reason of the reader is repeated."""
    seen = window(unknown={"latency_p99": sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE, "refused")})
    said = [s for s in DETECTOR.detect(CHAT, seen) if isinstance(s, findings.NotReady) and "latency_p99" in s.detail]
    assert said[0].reason is findings.NotReadyReason.SIGNAL_UNKNOWN
    assert "refused" in said[0].detail


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        ("silent", "says_when_it_has_nothing"),
        ("infinite", "findings_are_complete"),
        ("forgetful", "gives_the_same_answer_twice"),
    ],
)
def test_the_checks_catch_detectors_that_break_them(broken: str, check: str) -> None:
    """A check that nothing can fail is worth nothing."""
    with pytest.raises(AssertionError):
        dict(checks.of(_Broken(broken)))[check]()


class _Broken(level_shift.LevelShift):
    """Breaks one rule."""

    def __init__(self, how: str) -> None:
        super().__init__()
        object.__setattr__(self, "how", how)
        object.__setattr__(self, "calls", [])

    __slots__ = ("calls", "how")

    def detect(
        self, service: services.Service, window: windows.Window
    ) -> Sequence[findings.Finding | findings.NotReady]:
        self.calls.append(1)
        if self.how == "silent":
            return []
        if self.how == "infinite":
            return [
                findings.Finding(
                    findings.FaultClass.OTHER, service.name, "", "latency_p99", findings.Severity.INFO,
                    self.name, window.end, "odd", float("inf"),
                )
            ]  # fmt: skip
        return [findings.NotReady(self.name, service.name, findings.NotReadyReason.NO_PEERS, str(len(self.calls)))]
