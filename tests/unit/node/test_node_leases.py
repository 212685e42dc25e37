"""Leases end by themselves; operations take effect once; levels count in the step that checks."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_node import errors, leases, levels, operations
from tests.support import node_fakes
from tests.support.clock import FakeClock


def hold(book: leases.LeaseBook, values: dict[str, int], kind: str, value: int, ttl: float) -> None:
    before = values[kind]
    values[kind] = value
    book.hold(kind, ttl_seconds=ttl, previous=before, restore=lambda: values.__setitem__(kind, before))


async def test_a_lease_ends_on_time_without_anybody_asking() -> None:
    """The old value returns when the time is over; an earlier lease added later wakes the task too."""
    clock, values = FakeClock(), {"a": 1, "b": 1}
    book = leases.LeaseBook(clock)
    task = asyncio.create_task(book.run())
    hold(book, values, "a", 2, 100)
    await node_fakes.settle()
    hold(book, values, "b", 2, 10)
    await node_fakes.settle()
    clock.move(10)
    await node_fakes.settle()
    assert values == {"a": 2, "b": 1}
    clock.move(90)
    await node_fakes.settle()
    assert values == {"a": 1, "b": 1}
    assert book.describe() == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_extending_keeps_the_value_from_before_the_first() -> None:
    """A second override of one kind does not make the first one permanent."""
    clock, values = FakeClock(), {"a": 1}
    book = leases.LeaseBook(clock)
    hold(book, values, "a", 2, 10)
    clock.move(5)
    hold(book, values, "a", 3, 10)
    clock.move(9)
    assert book.expire_due() == []
    clock.move(1)
    assert book.expire_due() == ["a"]
    assert values == {"a": 1}


async def test_a_value_set_for_good_outlives_the_lease() -> None:
    """Forgetting a lease puts nothing back."""
    clock, values = FakeClock(), {"a": 1}
    book = leases.LeaseBook(clock)
    hold(book, values, "a", 2, 10)
    assert book.forget("a")
    clock.move(99)
    book.expire_due()
    assert values == {"a": 2}


class Counter:
    """An effect that counts."""

    def __init__(self) -> None:
        self.count = 0
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def effect(self) -> dict[str, Any]:
        await self.gate.wait()
        if self.fails:
            raise errors.AdminError(422, "no", "no")
        self.count += 1
        return {"count": self.count}


async def test_the_same_key_takes_effect_once() -> None:
    """A repeat gets the first answer; another key takes effect again."""
    done, counter = operations.Operations(FakeClock()), Counter()
    first = await done.once("k", "op", {"a": 1}, counter.effect)
    assert await done.once("k", "op", {"a": 1}, counter.effect) == first
    assert (await done.once("l", "op", {"a": 1}, counter.effect))["count"] == 2
    found = done.find("k")
    assert (found["operation"], found["result"], found["boot_id"]) == ("op", first, done.boot_id)


async def test_a_key_belongs_to_one_call() -> None:
    """The key with other arguments is refused, and nothing happens."""
    done, counter = operations.Operations(FakeClock()), Counter()
    await done.once("k", "op", {"a": 1}, counter.effect)
    with pytest.raises(errors.AdminError) as refused:
        await done.once("k", "op", {"a": 2}, counter.effect)
    assert (refused.value.status, counter.count) == (409, 1)


async def test_a_repeat_during_the_effect_waits_for_it() -> None:
    """Two calls with one key at the same time take effect once, also when the first caller goes away."""
    done, counter = operations.Operations(FakeClock()), Counter()
    counter.gate.clear()
    first = asyncio.create_task(done.once("k", "op", 1, counter.effect))
    await node_fakes.settle()
    second = asyncio.create_task(done.once("k", "op", 1, counter.effect))
    await node_fakes.settle()
    first.cancel()
    counter.gate.set()
    assert (await second)["count"] == 1
    assert counter.count == 1


async def test_a_refusal_is_not_remembered() -> None:
    """After a refusal the same key may take effect."""
    done, counter = operations.Operations(FakeClock()), Counter()
    counter.fails = True
    with pytest.raises(errors.AdminError):
        await done.once("k", "op", 1, counter.effect)
    with pytest.raises(errors.AdminError):
        done.find("k")
    counter.fails = False
    assert (await done.once("k", "op", 1, counter.effect))["count"] == 1


async def test_the_memory_is_bounded() -> None:
    """The oldest keys are forgotten first."""
    done, counter = operations.Operations(FakeClock()), Counter()
    for number in range(operations.MAX_KEYS + 2):
        await done.once(str(number), "op", 1, counter.effect)
    await node_fakes.settle()
    assert done.find(str(operations.MAX_KEYS + 1))
    with pytest.raises(errors.AdminError):
        done.find("0")


def test_a_full_level_is_refused_with_a_delay() -> None:
    """Beyond concurrency and queue the answer is 429; a place given back twice is one place."""
    clock = FakeClock()
    places = levels.Levels(dict.fromkeys(levels.Level, levels.Limit(1, 1)), clock)
    first = places.admit(levels.Level.BATCH)
    places.admit(levels.Level.BATCH)
    with pytest.raises(errors.DataError) as refused:
        places.admit(levels.Level.BATCH)
    assert refused.value.status == 429
    assert refused.value.retry_after_seconds == 1
    places.admit(levels.Level.PREMIUM)
    first.give_back()
    first.give_back()
    assert places.held(levels.Level.BATCH) == 1


def test_the_delay_follows_the_rate_of_finishing() -> None:
    """Ten held and one finished every two seconds make twenty seconds."""
    clock = FakeClock()
    places = levels.Levels(dict.fromkeys(levels.Level, levels.Limit(1, 20)), clock)
    held = [places.admit(levels.Level.BATCH) for _ in range(15)]
    for place in held[:5]:
        place.give_back()
        clock.move(2)
    assert places.retry_after_seconds(levels.Level.BATCH) == 20


@given(st.lists(st.booleans(), max_size=80), st.integers(0, 3), st.integers(0, 3))
def test_a_level_never_holds_more_than_its_bound(arrivals: list[bool], concurrency: int, queue: int) -> None:
    """For any order of arrivals and ends the count stays between zero and the bound."""
    places = levels.Levels(dict.fromkeys(levels.Level, levels.Limit(concurrency, queue)), FakeClock())
    held: list[levels.Place] = []
    for arrives in arrivals:
        if arrives:
            try:
                held.append(places.admit(levels.Level.STANDARD))
            except errors.DataError:
                assert len(held) == concurrency + queue
        elif held:
            held.pop().give_back()
        assert places.held(levels.Level.STANDARD) == len(held) <= concurrency + queue
