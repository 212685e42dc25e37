"""The batcher: who joins, when, and that nobody is lost."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_node.engine import batcher, generation
from tests.support import node_fakes

STANDARD, PREMIUM = generation.Rank.STANDARD, generation.Rank.PREMIUM
BATCH, BACKGROUND = generation.Rank.BATCH, generation.Rank.BACKGROUND
MODEL = node_fakes.model()


def make(max_size: int = 4, max_wait_seconds: float = 0.1, concurrency: int = 100) -> batcher.Batcher:
    return batcher.Batcher(batcher.Batch(max_size, max_wait_seconds), lambda rank: concurrency)


def fill(queue: batcher.Batcher, *arrivals: float, rank: generation.Rank = STANDARD) -> None:
    for at in arrivals:
        queue.add(node_fakes.waiting(len(queue) + 1, at, rank, MODEL))


def take(queue: batcher.Batcher, now: float, **running: int) -> list[int]:
    ranks = {generation.Rank[name.upper()]: count for name, count in running.items()}
    return [one.key for one in queue.take(now, MODEL, ranks)]


def test_waits_for_company_and_then_fires_on_time() -> None:
    """A lone request joins when it has waited long enough, not before, with nothing else happening."""
    queue = make()
    fill(queue, 10.0)
    assert take(queue, 10.05) == []
    assert queue.next_due_in(10.05, MODEL, {}) == pytest.approx(0.05)
    assert take(queue, 10.1) == [1]


def test_fires_at_once_when_full() -> None:
    """As many requests as there are places join without waiting; the rest stay, in order."""
    queue = make(max_size=2)
    fill(queue, 10.0, 10.0, 10.0)
    assert take(queue, 10.0) == [1, 2]
    assert [one.key for one in queue] == [3]


def test_joins_a_running_batch_up_to_its_free_places() -> None:
    """Running requests take places; what fits is full again."""
    queue = make(max_size=4)
    fill(queue, 10.0, 10.0)
    assert take(queue, 10.0, standard=3) == [1]
    assert take(queue, 99.0, standard=4) == []


def test_better_levels_go_first() -> None:
    """Order between levels is strict, order within a level is arrival."""
    queue = make(max_size=3)
    fill(queue, 10.0, rank=BATCH)
    fill(queue, 10.1, rank=STANDARD)
    fill(queue, 10.2, rank=PREMIUM)
    fill(queue, 10.3, rank=PREMIUM)
    assert take(queue, 10.3) == [3, 4, 2]


def test_a_level_runs_no_more_than_its_concurrency() -> None:
    """Places above a level's concurrency stay free for others."""
    queue = make(max_size=8, max_wait_seconds=0, concurrency=2)
    fill(queue, 10.0, 10.0, 10.0)
    assert take(queue, 10.0, standard=1) == [1]
    assert queue.next_due_in(10.0, MODEL, {STANDARD: 2}) is None


def test_background_takes_a_quarter_at_most() -> None:
    """Audits cannot fill the batch, and do not count as queue age."""
    queue = make(max_size=8, max_wait_seconds=0)
    fill(queue, *[10.0] * 6, rank=BACKGROUND)
    assert len(take(queue, 10.0)) == 2
    assert queue.oldest_age(99.0) == 0


def test_another_version_waits_for_its_model() -> None:
    """Requests tokenized for a new version do not join the old model's batch."""
    queue = make(max_wait_seconds=0)
    queue.add(node_fakes.waiting(1, 10.0, STANDARD, node_fakes.model("v2")))
    assert take(queue, 99.0) == []


def test_cancelled_requests_leave_the_queue() -> None:
    """A caller that went away takes no place."""
    queue = make(max_wait_seconds=0)
    fill(queue, 10.0, 10.0)
    next(iter(queue)).cancel()
    assert [one.key for one in queue.drop_cancelled()] == [1]
    assert take(queue, 10.0) == [2]


@given(
    max_size=st.integers(1, 5),
    events=st.lists(st.tuples(st.sampled_from(list(generation.Rank)), st.floats(0, 0.3)), max_size=40),
)
def test_nobody_is_lost_and_the_batch_never_overflows(
    max_size: int, events: list[tuple[generation.Rank, float]]
) -> None:
    """Whatever arrives when, everybody joins exactly once and never more than fit."""
    queue, now, joined = make(max_size=max_size), 0.0, list[int]()
    for key, (rank, pause) in enumerate(events):
        now += pause
        queue.add(node_fakes.waiting(key, now, rank, MODEL))
        taken = take(queue, now)
        assert len(taken) <= max_size
        joined += taken
    for _ in range(len(events)):
        joined += take(queue, now + 1)
    assert Counter(joined) == Counter(range(len(events)))
