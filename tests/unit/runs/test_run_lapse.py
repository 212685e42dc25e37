"""A lease that lapsed and came back, an event loop that was blocked, a clock that was stepped: nothing old is believed."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from controlplane.domain import errors, outcomes
from controlplane.runs import engine, ledger, moves, server_clock
from controlplane.store import database as db
from controlplane.store import house, tables
from tests.support import run_world
from tests.support import runs as support
from tests.support.clock import FakeClock

State = outcomes.RunState


@pytest.mark.parametrize("beats_first", [True, False])
async def test_replica_that_slept_through_its_lease_starts_no_effect(tmp_path: Path, beats_first: bool) -> None:
    """Held between the guard's answer and the effect; others drive the run meanwhile; the heartbeat may wake first."""
    async with run_world.opened(tmp_path) as world:
        await world.submit("a", "node-1")
        await world.oversleep("a", 0, beats_first=beats_first)
        assert (await world.finish()).sentences == []


async def test_replica_that_was_replaced_a_moment_ago_starts_no_effect(tmp_path: Path) -> None:
    """Its successor took its name and others its runs; its lease seems fresh until the next heartbeat."""
    async with run_world.opened(tmp_path) as world:
        await world.submit("a", "node-1")
        await world.outlive("a", 0, "b")
        assert (await world.finish()).sentences == []


async def test_effect_waits_for_a_database_that_does_not_answer(
    driven: engine.RunEngine,
    store: house.House,
    clock: FakeClock,
    note: support.NotingAction,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the run is still ours is asked until it is answered; what was not begun does not become a doubt."""
    await driven.submit(support.plan())
    (claim,) = await store.database.write(lambda connection: driven._claim(connection, 1))
    failures, read = [errors.RetryLaterError("down"), errors.RetryLaterError("still down")], store.database.read

    async def fail_first(work: db.Work[object]) -> object:
        if failures:
            raise failures.pop()
        return await read(work)

    monkeypatch.setattr(store.database, "read", fail_first)
    driving = asyncio.ensure_future(driven._driver.drive(claim))
    while not driving.done():
        clock.move(0.2)
        await asyncio.to_thread(lambda: None)
    assert await driving is State.SUCCEEDED
    assert (failures, note.sent()) == ([], ["flush"])


async def test_claim_that_memory_learns_of_too_late_is_not_driven(
    driven: engine.RunEngine, store: house.House, note: support.NotingAction
) -> None:
    """The event loop was blocked for two heartbeats after the claim: the run was given back, and is not begun here."""
    await driven.submit(support.plan())
    (claim,) = await store.database.write(lambda connection: driven._claim(connection, 1))
    for _ in range(2):
        await asyncio.to_thread(driven._member.beat)
    assert driven._member.is_held()
    assert await driven._driver.drive(claim) is None
    assert note.told == []


async def test_cancel_of_a_run_that_goes_to_sleep_wakes_it(
    driven: engine.RunEngine, store: house.House, clock: FakeClock
) -> None:
    """The request came while the run was driven, and its next commit parks it for minutes: it ends at once instead."""
    run_id = await driven.submit(support.plan(support.wait("rest", "", timeout=200.0)))
    (claim,) = await store.database.write(lambda connection: driven._claim(connection, 1))
    await driven.cancel(run_id, "anna")
    sleeps = moves.Move(State.WAITING, claim.cursor, wake_seconds=200.0)
    await store.database.write(lambda c: ledger.commit(c, driven._member.id, claim, sleeps, clock.now()))
    await support.play(driven)
    assert (await store.runs.get(run_id)).state is State.CANCELLED


async def test_short_wait_does_not_last_as_long_as_the_clock_was_stepped_back(
    driven: engine.RunEngine, store: house.House, clock: FakeClock
) -> None:
    """Ten seconds are ten seconds, also when the wall clock loses an hour meanwhile."""
    run_id = await driven.submit(support.plan(support.wait("rest", "", timeout=10.0)))
    await support.play(driven)
    clock.step_wall(-3600.0)
    for _ in range(12):
        await support.play(driven)
        clock.move(1.0)
    await support.play(driven)
    assert (await store.runs.get(run_id)).state is State.SUCCEEDED


async def test_write_whose_caller_was_told_that_it_failed_does_not_happen_later(
    store: house.House, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that gave up waiting for the database takes its place in the queue with it."""
    monkeypatch.setattr("controlplane.store.database._BLOCKING_SECONDS", 0.01)
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(connection: sa.Connection) -> None:
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)

    holder = asyncio.ensure_future(store.database.write(hold))
    await asyncio.to_thread(lambda: None)
    brake = tables.AUTOMATION_BRAKE.insert().values(who="late", reason="", at=clock.now())
    with pytest.raises(errors.RetryLaterError, match="did not answer"):
        await asyncio.to_thread(store.database.write_blocking, lambda connection: connection.execute(brake))
    go_on.set()
    await holder
    assert await store.automation.paused() == {}


def test_server_clock_is_carried_on_whatever_the_wall_clock_does(clock: FakeClock) -> None:
    """Between two looks the monotonic clock counts; before the first the local clock is all there is."""
    carried = server_clock.ServerClock(clock)
    assert carried.now() == clock.now()
    server = clock.now() + timedelta(seconds=90)
    carried.look(server)
    clock.step_wall(3600.0)
    clock.move(2.0)
    assert carried.now() == server + timedelta(seconds=2)
