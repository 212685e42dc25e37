"""The ladder over any course of pressure: one rung at a time, never premium, never on unknown, never in a hurry."""

import itertools
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain import policies, rungs
from controlplane.engine import ladder

PACE = policies.Ladder(up_after_seconds=5.0, settle_seconds=10.0, down_below=0.7, down_after_seconds=20.0)
Course = list[tuple[float | None, float]]
COURSES = st.lists(
    st.tuples(st.one_of(st.none(), st.floats(0, 5, allow_nan=False)), st.floats(0.5, 15)), min_size=1, max_size=80
)


@dataclass(frozen=True)
class Change:
    """One step of a ladder that obeys every proposal at once."""

    at: float
    before: int
    after: int
    pressure: float | None


def play(course: Course, pace: policies.Ladder = PACE) -> list[Change]:
    """Return the changes of rung under pressures, each of which lasts for the seconds beside it."""
    rung, now, memory, changes = 0, 0.0, None, list[Change]()
    for value, seconds in course:
        now += seconds
        pressed = ladder.Pressure(value, "test")
        memory = ladder.remember(memory, rung, pressed, now, pace)
        step = ladder.propose(memory, pressed, now, pace)
        if isinstance(step, ladder.Step):
            changes.append(Change(now, rung, step.rung, value))
            rung = step.rung
    return changes


@given(COURSES)
def test_steps_are_single_and_within_the_ladder(course: Course) -> None:
    """Whatever the pressure, a step goes to a neighbour, and never below full service or above the top."""
    for change in play(course):
        assert abs(change.after - change.before) == 1
        assert 0 <= change.after <= PACE.top


@given(COURSES)
def test_nothing_moves_without_knowing_why(course: Course) -> None:
    """Up only while pressure is known to be high, down only while it is known to be low."""
    for change in play(course):
        assert change.pressure is not None
        if change.after > change.before:
            assert change.pressure >= PACE.up_above
        else:
            assert change.pressure < PACE.down_below


@given(COURSES)
def test_changes_keep_their_distance(course: Course) -> None:
    """A rung has its time to show what it does, and relief its time to last, before anything changes again."""
    changes = play(course)
    for before, after in itertools.pairwise(changes):
        if after.after < after.before:
            assert after.at - before.at >= PACE.down_after_seconds
        elif after.before > 0:
            assert after.at - before.at >= PACE.settle_seconds
        else:
            assert after.at - before.at >= PACE.up_after_seconds


@given(st.floats(1, 60), st.floats(1, 60))
def test_a_load_that_returns_with_every_step_down_is_tried_ever_more_rarely(high: float, low: float) -> None:
    """Pressure that answers each change the wrong way, the worst flapping there is, is bounded by doubling waits."""
    rung, now, memory, downs = 0, 0.0, None, list[float]()
    while now < 900:
        now += 1
        pressed = ladder.Pressure(high if rung == 0 else low / 100, "test")
        memory = ladder.remember(memory, rung, pressed, now, PACE)
        step = ladder.propose(memory, pressed, now, PACE)
        if isinstance(step, ladder.Step):
            downs += [now] if step.rung < rung else []
            rung = step.rung
    waits = [after - before for before, after in itertools.pairwise(downs)]
    assert waits == sorted(waits)
    assert waits[-1] >= PACE.down_after_seconds * 2**ladder.MAX_RELAPSES


@given(st.lists(st.one_of(st.none(), st.floats(0.7, 0.99)), max_size=100))
def test_between_the_marks_and_in_the_dark_the_rung_is_held(values: list[float | None]) -> None:
    """Neither half known nor half pressed moves a ladder that stands on a rung."""
    now, memory = 0.0, ladder.Memory(2, 0.0)
    for value in values:
        now += 60
        pressed = ladder.Pressure(value, "test")
        memory = ladder.remember(memory, 2, pressed, now, PACE)
        assert isinstance(ladder.propose(memory, pressed, now, PACE), ladder.Stay)


def test_no_rung_takes_anything_from_premium() -> None:
    """And each rung keeps what the one below it took from a level, or takes the level whole."""
    for rung in rungs.RUNGS:
        assert "premium" not in {*rung.capped, *rung.cached_only, *rung.shed}
    for below, above in itertools.pairwise(rungs.RUNGS):
        assert set(below.shed) <= set(above.shed)
        assert {*below.capped, *below.cached_only} <= {*above.capped, *above.cached_only, *above.shed}
    assert [rung.number for rung in rungs.RUNGS] == list(range(len(rungs.RUNGS)))


@given(COURSES, st.integers(1, rungs.TOP))
def test_a_lower_top_is_never_passed(course: Course, top: int) -> None:
    """Whoever allows the first rungs only gets the first rungs only."""
    pace = policies.Ladder(up_after_seconds=1, settle_seconds=1, top=top)
    assert all(change.after <= top for change in play(course, pace))
