"""The effect of a run: the difference, its interval computed by hand, and everything that leaves none."""

import random
from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest

from controlplane.domain import outcomes, plans, windows
from controlplane.engine import effect, verify
from tests.support import builders as b
from tests.support.clock import START

STEP = 5.0
BEFORE, AFTER = 27, 30  # levels are then read at three instants before the run and at three after


def course(
    before: float = 0.0, after: float = 0.0, *, bump: float = 0.0, num_before: int = BEFORE, num_after: int = AFTER
) -> effect.Course:
    """A node that stands at one value before the run and at another since; `bump` is added a minute before the run."""
    earlier = [before] * num_before
    if bump:
        earlier[12:15] = [before + bump] * 3  # the three samples of the level 65 s before
    start = START - timedelta(seconds=STEP * num_before)
    return effect.Course(b.series(earlier, start=start), b.series([after] * num_after, start=START))


def measure(treated: effect.Course, *controls: effect.Course) -> effect.Effect | effect.NoEffect:
    return effect.measure(treated, controls, step_seconds=STEP, spacing_seconds=60.0)


def test_the_interval_is_the_one_computed_by_hand() -> None:
    """Two nodes, six instants, one of them off by 0.1 either way: variance 2 x 0.1² / 6, five degrees of freedom."""
    found = measure(course(1.0, 0.2), course(bump=0.1), course(bump=-0.1))
    assert isinstance(found, effect.Effect)
    half = 2.571 * (2 * 0.01 / 6 * 2 * 1.5) ** 0.5
    assert found.difference == pytest.approx(-0.8)
    assert (found.low, found.high) == pytest.approx((-0.8 - half, -0.8 + half))
    assert (found.num_controls, found.num_instants) == (2, 6)
    assert str(found) == "-0.8 against them (95 %: -1.06 to -0.543)"


def test_what_comes_over_everybody_is_not_the_run() -> None:
    """All nodes got slower by 0.5 meanwhile; the treated one by 0.1 more, for which the run may be to blame."""
    found = measure(course(1.0, 1.6), course(0.2, 0.7), course(0.3, 0.8))
    assert isinstance(found, effect.Effect)
    assert found.difference == pytest.approx(0.1)


def test_a_treated_node_that_flickers_more_than_the_others_widens_the_interval() -> None:
    """Quiet neighbours say nothing about the noise of a sick node: its own three samples then do."""
    flickering = b.series([*[1.0] * (BEFORE - 3), 0.5, 1.5, 1.0], start=START - timedelta(seconds=STEP * BEFORE))
    found = measure(effect.Course(flickering, course().after), course(), course())
    assert isinstance(found, effect.Effect)
    half = 2.571 * (0.25 / 2 * 2 * 1.5) ** 0.5  # variances 0.25 and 0 of three samples each
    assert (found.low, found.high) == pytest.approx((-1 - half, -1 + half))


@pytest.mark.parametrize(
    ("treated", "controls", "sentence"),
    [
        (course(), [], "no interval: 0 untouched nodes, and it takes 2"),
        (course(), [course()], "no interval: 1 untouched node, and it takes 2"),
        (course(num_before=2), [course()] * 3, "no interval: fewer than 3 samples in a row before the run, or since"),
        (course(num_after=0), [course()] * 3, "no interval: fewer than 3 samples in a row before the run, or since"),
        (course(num_after=2), [course()] * 3, "no interval: fewer than 3 samples in a row before the run, or since"),
        (course(), [course(), course(num_after=2)], "no interval: 1 untouched node seen at 6 instants"),
        (course(num_before=3, num_after=3), [course()] * 2, "no interval: 2 untouched nodes seen at 2 instants"),
        (course(num_before=0), [course()] * 2, "no interval: fewer than 3 samples in a row before the run, or since"),
    ],
)
def test_too_little_leaves_no_interval_and_says_what_is_missing(
    treated: effect.Course, controls: Sequence[effect.Course], sentence: str
) -> None:
    """Never a guess."""
    assert measure(treated, *controls) == effect.NoEffect(sentence)


def test_an_instant_that_some_node_was_not_seen_at_is_left_out() -> None:
    """A hole of one node takes its instant from all, and nothing else."""
    holey = course()
    kept = [at for at in range(BEFORE) if not 12 <= at < 15]
    times, values = (tuple(series[at] for at in kept) for series in (holey.before.times, holey.before.values))
    found = measure(course(1.0, 0.0), course(), effect.Course(windows.Series(times, values), holey.after))
    assert isinstance(found, effect.Effect)
    assert found.num_instants == 5


def test_many_nodes_are_judged_by_the_last_line_of_the_table() -> None:
    """Beyond thirty degrees of freedom Student's t hardly moves any more."""
    found = measure(course(1.0, 0.0), *[course(bump=0.1 if number % 2 else -0.1) for number in range(12)])
    assert isinstance(found, effect.Effect)
    assert found.high - found.difference < 0.15


def test_the_true_effect_lies_inside_the_interval_about_95_times_in_100() -> None:
    """Drawn with noise that a rate window of a minute smears over twelve samples, and waves that all nodes share."""
    draws, inside = random.Random(11), 0  # noqa: S311 - no secret, and the same at each run
    for _ in range(300):
        waves = smeared(draws, 0.5)
        found = measure(shaken(draws, waves, -3.0), *[shaken(draws, waves, 0.0) for _ in range(3)])
        assert isinstance(found, effect.Effect)
        inside += found.low <= -3.0 <= found.high
    assert 0.92 <= inside / 300 < 1.0


def smeared(draws: random.Random, deviation: float) -> list[float]:
    raw = [draws.gauss(0.0, deviation) for _ in range(BEFORE + AFTER + 11)]
    return [sum(raw[at : at + 12]) / 12**0.5 for at in range(BEFORE + AFTER)]


def shaken(draws: random.Random, waves: Sequence[float], change: float) -> effect.Course:
    noise = [own + wave for own, wave in zip(smeared(draws, 1.0), waves, strict=True)]
    start = START - timedelta(seconds=STEP * BEFORE)
    after = [value + change for value in noise[BEFORE:]]
    return effect.Course(b.series(noise[:BEFORE], start=start), b.series(after, start=START))


def judge(after: Mapping[str, Sequence[float]], before: Mapping[str, Sequence[float]], signal: str) -> verify.Case:
    """A run on node-a, with node-b and node-c untouched."""
    start = START - timedelta(seconds=STEP * BEFORE)
    return verify.Case(
        spec=plans.VerifySpec((signal,), within_seconds=120.0, hold_seconds=30.0),
        service=b.service(),
        before=b.window({node: {signal: b.series(values, start=start)} for node, values in before.items()}),
        after=b.window({node: {signal: b.series(values)} for node, values in after.items()}),
        targets=("node-a",),
        controls=("node-b", "node-c"),
        began_at=START,
        acted_at=START,
        now=START + timedelta(seconds=STEP * (len(after["node-a"]) - 1)),
    )


FINE = {"node-b": [0.2] * BEFORE, "node-c": [0.3] * BEFORE}


def test_the_verdict_says_the_effect_with_its_interval_and_keeps_it() -> None:
    """What a person reads first is what a program finds in the evidence."""
    after = {"node-a": [1.9, 1.2, *[0.31] * 28], "node-b": [0.2] * AFTER, "node-c": [0.3] * AFTER}
    before = {"node-a": [1.9] * BEFORE, "node-b": [*[0.2] * 12, *[0.4] * 3, *[0.2] * 12], "node-c": [0.3] * BEFORE}
    found = verify.judge(judge(after, before, "latency_p99"))
    assert isinstance(found, outcomes.Judged)
    assert found.verdict is outcomes.Verdict.RECOVERED
    said = "is 0.31 (at most 1.5), untouched nodes 0.25, -1.59 against them (95 %: -1.85 to -1.33), for 30 s"
    assert said in found.sentence
    kept = found.evidence["effect"]
    assert isinstance(kept, dict)
    stored = kept["node-a.latency_p99"]
    assert isinstance(stored, dict)
    assert (stored["num_controls"], stored["num_instants"]) == (2, 6)
    assert stored["difference"] == pytest.approx(-1.59)


def test_without_an_interval_the_evidence_says_why() -> None:
    """And the verdict is found as ever."""
    found = verify.judge(judge({"node-a": [0.3] * 10}, {"node-a": [1.9] * BEFORE}, "latency_p99"))
    assert isinstance(found, outcomes.Judged)
    assert found.evidence["effect"] == {"node-a.latency_p99": "no interval: 0 untouched nodes, and it takes 2"}
    assert found.sentence.endswith("(no control, before and after only)")


@pytest.mark.parametrize(("wobble", "is_worse"), [(0.01, True), (4.0, False)])
@pytest.mark.parametrize(
    ("signal", "bad", "fine"), [("latency_p99", (2.0, 6.0), 0.2), ("success_ratio", (0.9, 0.1), 1.0)]
)
def test_worse_only_when_the_whole_interval_says_so(
    signal: str, bad: tuple[float, float], fine: float, wobble: float, is_worse: bool
) -> None:
    """Where untouched nodes wobble as much by themselves, the harm may be chance: it keeps watching."""
    before = {"node-a": [bad[0]] * BEFORE, "node-b": [fine] * BEFORE, "node-c": [fine] * BEFORE}
    before["node-b"] = [*[fine] * 12, *[fine + wobble] * 3, *[fine] * 12]
    after = {"node-a": [bad[1]] * AFTER, "node-b": [fine] * AFTER, "node-c": [fine] * AFTER}
    found = verify.judge(judge(after, before, signal))
    assert (isinstance(found, outcomes.Judged) and found.verdict is outcomes.Verdict.WORSE) is is_worse
