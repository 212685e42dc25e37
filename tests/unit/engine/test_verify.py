"""Verify: recovered, not recovered, worse and unknown, each with its numbers."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.domain import errors, outcomes, plans, windows
from controlplane.domain import signals as sig
from controlplane.engine import verification, verify
from tests.support import builders as b
from tests.support.clock import START, FakeClock
from tests.support.fakes import FakeSignalReader

Verdict = outcomes.Verdict
STEP = 5.0
SPEC = plans.VerifySpec(("cache_wrong_ratio",), within_seconds=120.0, hold_seconds=30.0)
BAD, GOOD = [0.4] * 24, [0.0] * 24  # two minutes


def samples(values: Sequence[float], *, before: bool = False) -> windows.Series:
    """After: from the action on. Before: up to the action."""
    start = START - timedelta(seconds=STEP * len(values)) if before else START
    return b.series(values, start=start, step_seconds=STEP)


def case(
    since: Mapping[str, Sequence[float]],
    until: Mapping[str, Sequence[float]] | None = None,
    *,
    seconds: float | None = None,
    signal: str = "cache_wrong_ratio",
    **fields: Any,
) -> verify.Case:
    """One signal by node; the newest sample is now unless `seconds` (since the action) says otherwise."""
    earlier = {"node-a": BAD, "node-b": GOOD} if until is None else until
    longest = max((len(values) for values in since.values()), default=1)
    defaults: dict[str, Any] = {
        "spec": SPEC,
        "service": b.service(),
        "before": b.window({node: {signal: samples(values, before=True)} for node, values in earlier.items()}),
        "after": b.window({node: {signal: samples(values)} for node, values in since.items()}),
        "targets": ("node-a",),
        "controls": ("node-b",),
        "began_at": START,
        "acted_at": START,
        "now": START + timedelta(seconds=STEP * (longest - 1) if seconds is None else seconds),
    }
    return verify.Case(**defaults | fields)


def judged(found: verify.Case, verdict: outcomes.Verdict) -> outcomes.Judged:
    answer = verify.judge(found)
    assert isinstance(answer, outcomes.Judged), answer
    assert answer.verdict is verdict, answer
    return answer


def watching(found: verify.Case) -> outcomes.Watching:
    answer = verify.judge(found)
    assert isinstance(answer, outcomes.Watching), answer
    return answer


def test_recovered_when_the_newest_samples_stayed_inside_for_the_hold_time() -> None:
    """Samples over a rate window still show the old trouble at first; that only delays the verdict."""
    found = judged(case({"node-a": [0.4, 0.2, *[0.0] * 7], "node-b": GOOD[:9]}), Verdict.RECOVERED)
    assert found.has_control
    assert found.sentence == (
        "recovered: cache_wrong_ratio of node-a was at worst 0.4, is 0 (at most 0.01), untouched nodes 0, for 30 s "
        "(control: 1 untouched node)"
    )
    assert found.evidence["node-a.cache_wrong_ratio"] == {
        "before": 0.4,
        "worst_before": 0.4,
        "after": 0.0,
        "control": 0.0,
        "limit": "at most 0.01",
        "held_seconds": 30.0,
    }


def test_trouble_of_a_few_seconds_before_the_action_is_told_at_its_worst() -> None:
    """We act within seconds; the median of two minutes would say that nothing was wrong."""
    short = {"node-a": [*[0.0] * 23, 0.42], "node-b": GOOD}
    found = judged(case({"node-a": GOOD[:8], "node-b": GOOD[:8]}, short), Verdict.RECOVERED)
    assert "cache_wrong_ratio of node-a was at worst 0.42, is 0" in found.sentence
    fallen = {"node-a": [1.0, 0.7, 0.99], "node-b": [1.0] * 3}
    rising = {"node-a": [1.0] * 8, "node-b": [1.0] * 8}
    spec = plans.VerifySpec(("success_ratio",), within_seconds=120.0, hold_seconds=30.0)
    found = judged(case(rising, fallen, signal="success_ratio", spec=spec), Verdict.RECOVERED)
    assert "success_ratio of node-a was at worst 0.7, is 1" in found.sentence


def test_one_sample_short_keeps_watching() -> None:
    """The hold time is a promise."""
    found = watching(case({"node-a": [0.4, 0.2, *[0.0] * 6], "node-b": GOOD[:8]}))
    assert found.sentence.endswith("held 25 s of 30 s; 1 min 25 s left")
    assert found.again_seconds == STEP


def test_a_relapse_starts_the_hold_time_anew() -> None:
    """Only the newest consecutive samples count."""
    watching(case({"node-a": [*[0.0] * 6, 0.4, *[0.0] * 5], "node-b": GOOD[:12]}))


def test_samples_from_before_the_action_do_not_count_as_held() -> None:
    """What was fine before says nothing about the cure."""
    early = b.series([0.0] * 12, start=START - timedelta(seconds=50), step_seconds=STEP)
    found = case({"node-a": []}, after=b.window({"node-a": {"cache_wrong_ratio": early}}), seconds=5.0)
    assert "held 0 s" in watching(found).sentence


def test_too_few_samples_are_no_proof() -> None:
    """Two samples far apart span the hold time and prove nothing."""
    sparse = b.series([0.0, 0.0], step_seconds=31.0)
    window = b.window({"node-a": {"cache_wrong_ratio": sparse}}, step_seconds=31.0)
    watching(case({}, after=window, seconds=31.0))


def test_a_hole_between_samples_breaks_the_row() -> None:
    """Nobody knows what happened in between."""
    times = tuple(START.timestamp() + at for at in (0.0, 5.0, 10.0, 40.0, 45.0, 50.0))
    window = b.window({"node-a": {"cache_wrong_ratio": windows.Series(times, (0.0,) * 6)}})
    assert "held 10 s of 45 s" in watching(case({}, after=window, seconds=50.0)).sentence


def test_without_untouched_nodes_the_hold_is_longer_and_that_is_said() -> None:
    """A lull can look like a cure."""
    alone: dict[str, Any] = {"controls": ()}
    watching(case({"node-a": GOOD[:9]}, **alone))
    found = judged(case({"node-a": GOOD[:10]}, **alone), Verdict.RECOVERED)
    assert not found.has_control
    assert found.sentence.endswith("for 45 s (no control, before and after only)")


def test_a_runbook_may_decline_the_control() -> None:
    """Then the untouched nodes are not looked at."""
    spec = plans.VerifySpec(("cache_wrong_ratio",), 120.0, 30.0, use_control=False)
    found = judged(case({"node-a": GOOD[:10], "node-b": BAD[:10]}, spec=spec), Verdict.RECOVERED)
    assert not found.has_control


def test_every_signal_of_every_target_must_recover() -> None:
    """One signal left outside is not recovered."""
    spec = plans.VerifySpec(("cache_wrong_ratio", "latency_p99"), 120.0, 30.0)
    after = {"node-a": {"cache_wrong_ratio": samples(GOOD), "latency_p99": samples([3.0] * 24)}}
    slow = samples([3.0] * 24, before=True)
    before = {"node-a": {"cache_wrong_ratio": samples(BAD, before=True), "latency_p99": slow}}
    found = case({}, spec=spec, before=b.window(before), after=b.window(after), seconds=115.0)
    assert "latency_p99 of node-a was at worst 3, is 3 (at most 1.5)" in watching(found).sentence


def test_not_recovered_at_the_deadline() -> None:
    """The sentence says what is still wrong, and since when."""
    found = judged(case({"node-a": [*BAD, 0.4], "node-b": [*GOOD, 0.0]}), Verdict.NOT_RECOVERED)
    assert found.sentence.startswith(
        "not recovered 2 min after the action: cache_wrong_ratio of node-a was at worst 0.4, is 0.4"
    )


def test_almost_held_at_the_deadline_is_not_recovered_and_says_how_long() -> None:
    """Near is not there."""
    found = judged(case({"node-a": [*BAD[:20], *[0.0] * 5], "node-b": [*GOOD, 0.0]}), Verdict.NOT_RECOVERED)
    assert "inside for 20 s of 30 s" in found.sentence


def test_worse_when_clearly_further_out_than_before_and_than_the_untouched() -> None:
    """Said as soon as the samples are the action's own, without waiting for the deadline."""
    after = {"node-a": [0.9] * 16, "node-b": [0.0] * 16}
    found = judged(case(after), Verdict.WORSE)
    assert found.sentence.startswith("worse: cache_wrong_ratio of node-a was at worst 0.4, is 0.9 (at most 0.01)")


def test_worse_waits_until_the_rate_window_has_passed() -> None:
    """Samples just after the action may still show what was before it."""
    watching(case({"node-a": [0.9] * 12, "node-b": [0.0] * 12}))


def test_trouble_everywhere_is_not_blamed_on_the_action() -> None:
    """The untouched nodes got as bad."""
    watching(case({"node-a": [0.9] * 16, "node-b": [0.9] * 16}))


def test_one_good_sample_is_reason_enough_to_keep_watching() -> None:
    """Worse means all of the newest samples."""
    watching(case({"node-a": [*[0.9] * 15, 0.0], "node-b": [0.0] * 16}))


def test_trouble_that_was_still_rising_when_we_acted_is_not_called_worse() -> None:
    """Fresh trouble fills the rate window after the action too: that rise is not ours."""
    rising = [*[0.0] * 14, *[0.05 * number for number in range(10)]]
    found = case({"node-a": [0.9] * 16, "node-b": [0.0] * 16}, {"node-a": rising, "node-b": GOOD})
    watching(found)


@pytest.mark.parametrize("before", [{}, {"node-a": BAD[:6]}])
def test_without_enough_of_the_time_before_nothing_is_called_worse(before: Mapping[str, Sequence[float]]) -> None:
    """There is nothing to compare with."""
    watching(case({"node-a": [0.9] * 16, "node-b": [0.0] * 16}, before))


def test_an_action_that_breaks_a_healthy_signal_is_worse() -> None:
    """The cure was dearer than the illness: latency was fine and is not any more."""
    spec = plans.VerifySpec(("latency_p99",), 120.0, 30.0)
    found = case(
        {"node-a": [4.0] * 16, "node-b": [0.2] * 16},
        {"node-a": [0.2] * 24, "node-b": [0.2] * 24},
        spec=spec,
        signal="latency_p99",
    )
    judged(found, Verdict.WORSE)


def test_a_lower_bound_is_judged_by_the_room_it_leaves() -> None:
    """A success ratio falls from 0.99 to 0.9: outside, and clearly worse."""
    spec = plans.VerifySpec(("success_ratio",), 120.0, 30.0)
    steady = {"node-a": [0.99] * 24, "node-b": [1.0] * 24}
    for now, verdict in ((0.9, Verdict.WORSE), (0.988, None)):
        found = case({"node-a": [now] * 16, "node-b": [1.0] * 16}, steady, spec=spec, signal="success_ratio")
        answer = verify.judge(found)
        assert (answer.verdict if isinstance(answer, outcomes.Judged) else None) is verdict


def test_unknown_at_the_deadline_is_unknown() -> None:
    """No samples, or none of late: neither recovered nor not."""
    silent = case({"node-a": []}, seconds=180.0)
    assert (
        "cache_wrong_ratio of node-a has no samples since the action at the deadline"
        in judged(silent, Verdict.UNKNOWN).sentence
    )
    stale = case({"node-a": GOOD[:3], "node-b": GOOD}, seconds=180.0)
    assert "has had no sample for 2 min 50 s" in judged(stale, Verdict.UNKNOWN).sentence


def test_old_good_samples_do_not_recover_what_is_unknown_now() -> None:
    """Thirty good seconds, then silence: it keeps watching."""
    found = watching(case({"node-a": GOOD[:9], "node-b": GOOD[:9]}, seconds=60.0))
    assert found.sentence.startswith("watching: cache_wrong_ratio of node-a has had no sample for 20 s")


def test_why_a_signal_is_unknown_is_passed_on() -> None:
    """The metrics store said so."""
    unknown = {"cache_wrong_ratio": sig.Unknown(sig.UnknownReason.SOURCE_UNREACHABLE)}
    found = case({}, after=b.window(unknown=unknown), seconds=180.0)
    assert (
        "cache_wrong_ratio of node-a is unknown: metrics store did not answer"
        in judged(found, Verdict.UNKNOWN).sentence
    )


def test_a_signal_only_the_service_has_is_judged_there() -> None:
    """Nodes do not measure everything; then there is no control for it."""
    spec = plans.VerifySpec(("success_ratio",), 120.0, 30.0)
    after = b.window(service_signals={"success_ratio": samples([1.0] * 10)})
    before = b.window(service_signals={"success_ratio": samples([0.5] * 24, before=True)})
    found = case({}, spec=spec, after=after, before=before, seconds=45.0)
    answer = judged(found, Verdict.RECOVERED)
    assert answer.sentence.startswith(
        "recovered: success_ratio of chat was at worst 0.5, is 1 (at least 0.995), for 45 s"
    )
    assert not answer.has_control


def test_the_service_does_not_stand_in_for_a_node_that_fell_silent() -> None:
    """The node had the signal before the action: its absence is unknown."""
    after = b.window(service_signals={"cache_wrong_ratio": samples(GOOD)})
    found = case({}, after=after, seconds=115.0)
    assert "cache_wrong_ratio of node-a has no samples" in watching(found).sentence


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (plans.VerifySpec(("gpu_power",), 60, 10), "states no limit for signal 'gpu_power'"),
        (plans.VerifySpec((), 60, 10), "names no signal"),
    ],
)
def test_what_nobody_can_verify_is_unknown_at_once(spec: plans.VerifySpec, reason: str) -> None:
    """Waiting would not help."""
    assert reason in judged(case({"node-a": GOOD}, spec=spec), Verdict.UNKNOWN).sentence


def test_a_clock_that_stepped_back_leaves_the_whole_time() -> None:
    """The deadline never comes early."""
    found = case({"node-a": BAD[:1]}, seconds=-3600.0)
    assert "2 min 15 s left" in watching(found).sentence


class TestVerification:
    """The `Verifier` port over a reader."""

    @staticmethod
    def reader(clock: FakeClock, after: Mapping[str, float], before: float = 0.4) -> FakeSignalReader:
        """Constant signals per node, from 120 s before the action."""
        reader = FakeSignalReader(clock)

        def make(service: str, signals: Sequence[str], start: Any, end: Any) -> windows.Window:
            number = int((end - start).total_seconds() // STEP) + 1
            is_before = start < START
            nodes = {
                node: {name: b.series([before if is_before else value] * number, start=start) for name in signals}
                for node, value in after.items()
            }
            return b.window(nodes, start=start, end=end)

        reader.make_window = make
        return reader

    async def test_reads_before_and_after_and_compares_with_untouched_nodes(self, clock: FakeClock) -> None:
        """Nodes the plan touched are no control."""
        plan = b.plan(blast=plans.BlastRadius(touched=("node-a", "node-c")))
        reader = self.reader(clock, {"node-a": 0.0, "node-b": 0.0, "node-c": 0.0})
        clock.move(40)
        answer = await verification.Verification(reader, {"chat": b.service()}, clock).judge(plan, START, START)
        assert isinstance(answer, outcomes.Judged)
        assert answer.verdict is Verdict.RECOVERED
        assert "(control: 1 untouched node)" in answer.sentence

    async def test_a_service_wide_plan_has_no_control(self, clock: FakeClock) -> None:
        """Everything was touched."""
        reader = self.reader(clock, {"node-a": 0.0})
        plan = b.plan(b.request(node=""))
        answer = await verification.Verification(reader, {"chat": b.service()}, clock).judge(plan, START, START)
        assert isinstance(answer, outcomes.Watching)

    async def test_a_store_that_does_not_answer_is_watched_then_unknown(self, clock: FakeClock) -> None:
        """Prometheus may come back before the deadline."""
        reader = self.reader(clock, {})
        reader.error = errors.RetryLaterError("Prometheus did not answer", delay_seconds=3.0)
        judge = verification.Verification(reader, {"chat": b.service()}, clock).judge
        assert await judge(b.plan(), START, START) == outcomes.Watching("watching: Prometheus did not answer", 3.0)
        clock.move(121)
        answer = await judge(b.plan(), START, START)
        assert isinstance(answer, outcomes.Judged)
        assert answer.verdict is Verdict.UNKNOWN

    async def test_before_is_the_time_before_the_first_effect(self, clock: FakeClock) -> None:
        """A node that was drained before it was restarted was not healthy before: the drain is ours too."""
        reader = FakeSignalReader(clock)
        asked: list[tuple[datetime, datetime]] = []

        def make(service: str, signals: Sequence[str], start: datetime, end: datetime) -> windows.Window:
            asked.append((start, end))
            return b.window({}, start=start, end=end)

        reader.make_window = make
        clock.move(90)
        judge = verification.Verification(reader, {"chat": b.service()}, clock).judge
        await judge(b.plan(), START + timedelta(seconds=60), START)
        assert asked == [(START - timedelta(seconds=120), START), (START + timedelta(seconds=60), clock.now())]

    async def test_nothing_to_verify_is_unknown(self, clock: FakeClock) -> None:
        """A runbook without verification, or a service that is gone."""
        reader = FakeSignalReader(clock)
        none = await verification.Verification(reader, {"chat": b.service()}, clock).judge(
            b.plan(verify=None), START, START
        )
        gone = await verification.Verification(reader, {}, clock).judge(b.plan(), START, START)
        assert isinstance(none, outcomes.Judged)
        assert isinstance(gone, outcomes.Judged)
        assert none.sentence == "unknown: the runbook verifies nothing"
        assert gone.sentence == "unknown: service chat is not managed"
