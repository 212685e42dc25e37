"""The leak detector: what it finds, what it must not find, and when it declines."""

import math
import random
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta

import pytest

from controlplane.domain import findings, services, windows
from controlplane.domain import signals as sig
from detectors import checks, leak

END = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
HOURS = 4.0
STEP = 60.0
CHAT = services.Service("chat", "dsctl", {"service": "chat"})
PRODUCTION = leak.Leak()
DEMO = leak.Leak(window_seconds=60.0)
GIGABYTE = 1e9
NOISE = random.Random(5)  # noqa: S311  # made-up samples, no secret


def series(detector: leak.Leak, value: Callable[[float], float], step: float) -> windows.Series:
    """Samples of `value` over the window; it is given the seconds from the window's start."""
    number = int(detector.window_seconds / step)
    times = [END.timestamp() - step * (number - n) for n in range(number + 1)]
    return windows.Series(tuple(times), tuple(value(detector.window_seconds - END.timestamp() + t) for t in times))


def window(
    nodes: Mapping[str, Mapping[str, windows.Series]], unknown: Mapping[str, sig.Unknown] | None = None
) -> windows.Window:
    return windows.Window("chat", END - timedelta(hours=HOURS), END, STEP, {}, nodes, unknown or {})


def memory(
    value: Callable[[float], float],
    *,
    limit: float = 8 * GIGABYTE,
    detector: leak.Leak = PRODUCTION,
    step: float = STEP,
) -> dict[str, windows.Series]:
    """A node's memory and its limit, in bytes."""
    return {
        "host_memory_used": series(detector, value, step),
        "host_memory_limit": series(detector, lambda _: limit, step),
        "restarts": series(detector, lambda _: 0.0, step),
    }


def found(
    node: Mapping[str, windows.Series], *, detector: leak.Leak = PRODUCTION, service: services.Service = CHAT
) -> list[findings.Finding]:
    said = detector.detect(service, window({"node-1": node}))
    return [one for one in said if isinstance(one, findings.Finding)]


def breathing(level: float, swing: float) -> Callable[[float], float]:
    """Memory that is taken and given back with the load, ten minutes each, with noise."""
    return lambda t: level + (swing if int(t / 600) % 2 else 0.0) + NOISE.gauss(0, swing / 20)


@pytest.mark.parametrize(("name", "check"), list(checks.of(leak.Leak(900.0))))
def test_it_does_what_every_detector_must(name: str, check: Callable[[], None]) -> None:
    """The shipped conformance checks hold."""
    check()


def test_a_leak_is_found_beside_the_breathing_of_the_load_and_the_time_left_is_told() -> None:
    """Half a gigabyte an hour for two hours, on top of memory that swings by 300 MB: found, with its slope."""
    base = breathing(3 * GIGABYTE, 3e8)
    [finding] = found(memory(lambda t: base(t) + max(0.0, t - 7200) * 0.5 * GIGABYTE / 3600))
    assert (finding.kind, finding.node, finding.signal) == (findings.FaultClass.LEAK, "node-1", "host_memory_used")
    assert float(finding.labels["slope_per_second"]) == pytest.approx(0.5 * GIGABYTE / 3600, rel=0.35)
    assert float(finding.labels["seconds_to_limit"]) == pytest.approx(8 * 3600, rel=0.4)
    assert finding.severity is findings.Severity.WARNING
    assert "MB a minute" in finding.summary
    assert "8000 MB in " in finding.summary
    assert finding.at == END


def test_a_leak_that_is_about_to_kill_is_critical() -> None:
    """Less than four cold starts left, or four fifths full."""
    [soon] = found(memory(lambda t: 2 * GIGABYTE + t * 1e5, limit=5 * GIGABYTE))
    assert soon.severity is findings.Severity.WARNING
    [sooner] = found(memory(lambda t: 2 * GIGABYTE + t * 1e5, limit=3.7 * GIGABYTE))
    assert (sooner.severity, sooner.score > soon.score) == (findings.Severity.CRITICAL, True)
    [full] = found(memory(lambda t: 6.9 * GIGABYTE + t * 2e4))
    assert full.severity is findings.Severity.CRITICAL
    assert float(full.labels["seconds_to_limit"]) > 4 * CHAT.capacity.cold_start_seconds


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(lambda _: 3 * GIGABYTE, id="a constant"),
        pytest.param(breathing(3 * GIGABYTE, 1e9), id="work that is given back"),
        pytest.param(lambda t: GIGABYTE * (3 + (t % 2400) / 2400), id="a sawtooth of garbage collection"),
        pytest.param(lambda t: GIGABYTE * (2 if t < 9000 else 5), id="a model that was loaded"),
        pytest.param(lambda t: GIGABYTE * (3 - 2 * math.exp(-t / 3000)), id="a cache that fills and then is full"),
        pytest.param(lambda t: GIGABYTE * (5 - t / 7200), id="memory that is given back slowly"),
        pytest.param(lambda t: 3 * GIGABYTE + t * 7000, id="a rise of less than a fiftieth of the limit"),
        pytest.param(lambda t: GIGABYTE * (3 + math.sin(t / 14_400 * math.tau)), id="a tide"),
    ],
)
def test_what_is_no_leak_is_not_reported(value: Callable[[float], float]) -> None:
    """What comes back, what comes at once, what ends, and what is too little."""
    assert not found(memory(value))


def test_a_leak_too_slow_for_the_horizon_waits() -> None:
    """2 % of the limit within four hours at two fifths of it: a hundred hours are left, and that is tomorrow's news."""
    assert not found(memory(lambda t: 3 * GIGABYTE + t * 1.3e4))
    assert found(memory(lambda t: 7 * GIGABYTE + t * 1.3e4))


def restarted(at: float, ramp: float) -> dict[str, windows.Series]:
    """Memory that rises all the time, of a process that was started anew `at` seconds into the window."""
    node = memory(lambda t: 2 * GIGABYTE + (t if t < at else t - at) * ramp)
    return node | {"restarts": series(PRODUCTION, lambda t: 1.0 if at <= t < at + 60 else 0.0, STEP)}


def test_a_restart_begins_the_window_anew_and_the_time_after_it_is_skipped() -> None:
    """An hour after the start nothing is judged, however steep; with five blocks after that hour it is."""
    ramp = 4e5
    assert not found(restarted(at=14_400 - 3600, ramp=ramp))
    assert not found(restarted(at=14_400 - 3600 - 4 * 1200, ramp=ramp))
    assert found(restarted(at=14_400 - 3600 - 5 * 1200 - 120, ramp=ramp))


def test_a_node_that_appears_within_the_window_has_just_started() -> None:
    """Where nobody counts restarts, the first sample is the start."""
    node = memory(lambda t: 2 * GIGABYTE + t * 4e5)
    del node["restarts"]
    late = {name: one.since(END.timestamp() - 2 * 3600) for name, one in node.items()}
    assert found(node)
    assert not found(late)


def test_a_young_node_does_not_silence_the_others() -> None:
    """One that cannot be judged yet is passed over; only where nobody can be judged, that is said."""
    young = {name: one.since(END.timestamp() - 1800) for name, one in memory(lambda t: t * 4e5).items()}
    old = memory(lambda _: 3 * GIGABYTE)
    assert PRODUCTION.detect(CHAT, window({"node-1": young, "node-2": old})) == []
    [said] = PRODUCTION.detect(CHAT, window({"node-1": young}))
    assert isinstance(said, findings.NotReady)
    assert said.reason is findings.NotReadyReason.TOO_FEW_SAMPLES


def test_without_a_limit_nothing_can_be_foretold() -> None:
    """And a limit of zero is none."""
    node = memory(lambda t: 2 * GIGABYTE + t * 4e5)
    bare = {name: one for name, one in node.items() if name != "host_memory_limit"}
    zero = node | {"host_memory_limit": series(PRODUCTION, lambda _: 0.0, STEP)}
    for each in (bare, zero):
        [said] = PRODUCTION.detect(CHAT, window({"node-1": each}))
        assert isinstance(said, findings.NotReady)
        assert "with a known limit" in said.detail


def test_unreadable_signals_are_said_and_those_nobody_has_are_not() -> None:
    """A node without a GPU lacks nothing; a metrics store that does not answer hides a leak."""
    node = {"node-1": memory(lambda _: 3 * GIGABYTE)}
    absent = {"gpu_memory_used_ratio": sig.Unknown(sig.UnknownReason.NOT_IN_PROFILE)}
    assert PRODUCTION.detect(CHAT, window(node, absent)) == []
    silent = {"open_files": sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE, "refused")}
    [said] = PRODUCTION.detect(CHAT, window(node, silent))
    assert isinstance(said, findings.NotReady)
    assert (said.reason, "refused" in said.detail) == (findings.NotReadyReason.SIGNAL_UNKNOWN, True)
    blind = {"restarts": sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE, "refused")}
    leaking = {"node-1": memory(lambda t: 2 * GIGABYTE + t * 4e5)}
    assert all(isinstance(one, findings.NotReady) for one in PRODUCTION.detect(CHAT, window(leaking, blind)))


def test_files_threads_and_gpu_memory_leak_too() -> None:
    """Each against its own limit, in its own words."""
    rising = {
        "open_files": series(PRODUCTION, lambda t: 100 + t / 20, STEP),
        "open_files_limit": series(PRODUCTION, lambda _: 1024.0, STEP),
        "threads": series(PRODUCTION, lambda t: 20 + t / 30, STEP),
        "gpu_memory_used_ratio": series(PRODUCTION, lambda t: 0.5 + t / 3600 * 0.05, STEP),
    }
    said = {finding.signal: finding for finding in found(rising)}
    assert said.keys() == {"open_files", "threads", "gpu_memory_used_ratio"}
    assert "180 files an hour" in said["open_files"].summary
    assert said["threads"].labels["limit"] == "1000"
    assert "5 % an hour" in said["gpu_memory_used_ratio"].summary


@pytest.mark.parametrize("offset", [0.0, 0.4, 0.9])
def test_a_window_of_a_minute_works_like_one_of_four_hours(offset: float) -> None:
    """500 MB a minute, a sample every five seconds: found within 27 s, and not while the node is at rest."""
    rate = 500e6 / 60

    def at(seconds: float) -> list[findings.Finding]:
        node = memory(
            lambda t: 6e8 + NOISE.gauss(0, 2e5) + max(0.0, t - 60 + seconds - offset) * rate,
            limit=1.5 * GIGABYTE,
            detector=DEMO,
            step=5.0,
        )
        said = DEMO.detect(CHAT, window({"node-1": node}))
        return [one for one in said if isinstance(one, findings.Finding)]

    assert not at(0.0)
    [finding] = at(27.0)
    assert float(finding.labels["slope_per_second"]) == pytest.approx(rate, rel=0.3)
    assert finding.severity is findings.Severity.CRITICAL


def test_a_healthy_day_of_many_nodes_raises_no_alarm() -> None:
    """Random walks of small steps that are pulled back to their level, looked at every half hour."""

    def walk() -> Iterable[float]:
        value = 0.0
        while True:
            value = 0.8 * value + NOISE.gauss(0, 6e7)
            yield 3 * GIGABYTE + value

    alarms = 0
    for _ in range(5):
        values = [value for value, _ in zip(walk(), range(1440), strict=False)]
        for begin in range(0, 1440 - 241, 30):
            part = values[begin : begin + 241]
            alarms += bool(found(memory(lambda t, part=part: part[min(240, int(t / 60))])))
    assert alarms == 0
