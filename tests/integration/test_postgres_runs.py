"""What only a shared server shows: two replicas that claim, submit, lead and migrate at once; sessions that are cut."""

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import AsyncGenerator, Iterator
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from benchmarks import postgres
from controlplane import clock as clocks
from controlplane.domain import errors, outcomes, plans
from controlplane.domain import runs as stored
from controlplane.runs import config, engine
from controlplane.store import database as db
from controlplane.store import house, schema, tables
from tests.support import postgres as support
from tests.support import runs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

SETTINGS = config.RunSettings(lease_seconds=1.0, poll_seconds=0.05, wait_poll_seconds=0.05)
TIME = clocks.SystemClock()


@pytest.fixture
def url(postgres_server: postgres.Server) -> Iterator[str]:
    with support.database(postgres_server) as made:
        yield made


@contextlib.asynccontextmanager
async def replica(
    url: str, name: str, note: runs.NotingAction, settings: config.RunSettings = SETTINGS
) -> AsyncGenerator[tuple[engine.RunEngine, house.House]]:
    """A replica that has joined and is stepped by hand."""
    with support.opened(url, TIME) as store:
        made = runs.make_engine(
            store, TIME, runs.Stage(), {"note": note}, dataclasses.replace(settings, replica_name=name)
        )
        await made._member.join()
        yield made, store
        await made.stop()


def test_two_replicas_migrate_an_empty_database_at_once(postgres_server: postgres.Server) -> None:
    """Both start, one migrates, and the other finds it done."""
    with support.database(postgres_server, is_migrated=False) as url:
        failures: list[BaseException] = []

        def start() -> None:
            try:
                house.open_house(db.DatabaseSettings(url), TIME).close()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=start) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        with support.opened(url, TIME) as store, store.database.write_engine.connect() as connection:
            assert schema.revision(connection) == schema.newest_revision()


async def test_replicas_that_claim_at_once_never_get_the_same_run(url: str) -> None:
    """Forty due runs, two replicas that take them in handfuls: each run is claimed once, and nobody waits."""
    note = runs.NotingAction()
    async with replica(url, "a", note) as (first, store), replica(url, "b", note) as (second, other):
        for number in range(40):
            await first.submit(runs.plan(node=f"node-{number}"))
        taken: list[str] = []
        while handfuls := await asyncio.gather(
            store.database.write(lambda c: first._claim(c, 3)), other.database.write(lambda c: second._claim(c, 3))
        ):
            if not any(handfuls):
                break
            taken += [one.run_id for handful in handfuls for one in handful]
        assert (len(taken), len(set(taken))) == (40, 40)


async def test_a_row_that_is_locked_is_passed_over(url: str) -> None:
    """A replica that was paused in the midst of its claim does not hold up the claims of others."""
    note = runs.NotingAction()
    async with replica(url, "a", note) as (first, store), replica(url, "b", note) as (second, _other):
        held_id = await first.submit(runs.plan())
        free_id = await first.submit(runs.plan(node="node-2"))
        with store.database.write_engine.connect() as paused, paused.begin():
            paused.execute(sa.select(tables.RUN.c.id).where(tables.RUN.c.id == held_id).with_for_update())
            claims = await store.database.write(lambda connection: second._claim(connection, 10))
        assert [one.run_id for one in claims] == [free_id]


async def test_replicas_that_submit_at_once_share_one_place_on_a_target(url: str) -> None:
    """Ten submissions for one target from two replicas: one is accepted, the others are told whose turn it is."""
    note = runs.NotingAction()
    async with replica(url, "a", note) as (first, store), replica(url, "b", note) as (second, _):
        answers = await asyncio.gather(
            *(one.submit(runs.plan()) for one in (first, second) * 5), return_exceptions=True
        )
        accepted = [one for one in answers if isinstance(one, str)]
        refused = [one for one in answers if isinstance(one, errors.ConflictError)]
        assert (len(accepted), len(refused)) == (1, 9)
        assert [one.id for one in await store.runs.find(state="unfinished")] == accepted


async def test_one_key_submitted_by_two_replicas_is_one_run(url: str) -> None:
    """A schedule that fires on every replica starts one run; all are told the same id."""
    note = runs.NotingAction()
    async with replica(url, "a", note) as (first, _store), replica(url, "b", note) as (second, _):
        wanted = runs.plan(dedup_key="cron:nightly:2026-03-02")
        assert len(set(await asyncio.gather(*(one.submit(wanted) for one in (first, second) * 3)))) == 1


async def test_leadership_passes_on_with_a_higher_epoch_when_the_lease_ends(url: str) -> None:
    """One leads; the other is refused until the leader has died and its lease is over."""
    note = runs.NotingAction()
    async with replica(url, "b", note) as (second, _), replica(url, "a", note) as (first, _store):
        epochs = await asyncio.gather(first.lead("tick"), second.lead("tick"))
        assert set(epochs) == {1, None}
        leader, other = (first, second) if epochs[0] == 1 else (second, first)
        assert await leader.lead("tick") == 1
        assert await other.lead("tick") is None
        await leader._member.leave()
        assert await other.lead("tick") == 2


async def test_a_submission_wakes_the_other_replicas(url: str) -> None:
    """A replica that looks only twice a minute drives at once what another has accepted."""
    note = runs.NotingAction()
    lazy = dataclasses.replace(SETTINGS, poll_seconds=30.0, lease_seconds=60.0)
    async with replica(url, "b", note, lazy) as (sleepy, _), replica(url, "a", note) as (first, store):
        await sleepy.start()
        began = TIME.monotonic()
        run_id = await first.submit(runs.plan())
        while not (await store.runs.get(run_id)).state.is_final:
            await TIME.sleep(0.02)
        assert TIME.monotonic() - began < 5.0


async def test_runs_of_a_dead_replica_are_taken_over_when_its_lease_ends(url: str) -> None:
    """It claimed and died; the other waits for the end of the lease, by the server's clock, and ends the run."""
    note = runs.NotingAction()
    async with replica(url, "dead", note) as (dead, store):
        run_id = await dead.submit(runs.plan())
        await store.database.write(lambda connection: dead._claim(connection, 1))
        async with replica(url, "alive", note) as (alive, _):
            await alive.start()
            began = TIME.monotonic()
            while not (await store.runs.get(run_id)).state.is_final:
                await TIME.sleep(0.02)
            took = TIME.monotonic() - began
        assert 0.5 < took < 5.0
        assert (await store.runs.get(run_id)).state is outcomes.RunState.SUCCEEDED
        assert note.told[0].token == 2


async def test_a_replica_that_slept_through_its_lease_acts_no_more(url: str) -> None:
    """Its heartbeat wakes first and renews the lease: even so it starts no effect for a run that another drives."""
    stale, note = runs.NotingAction(), runs.NotingAction()
    async with replica(url, "asleep", stale) as (asleep, store):
        run_id = await asleep.submit(runs.plan())
        (claim,) = await store.database.write(lambda connection: asleep._claim(connection, 1))
        asleep._driving.add((claim.run_id, claim.token))
        await TIME.sleep(1.1)
        async with replica(url, "awake", note) as (awake, _):
            await asyncio.to_thread(awake._member.beat)
            await runs.play(awake)
            await asyncio.to_thread(asleep._member.beat)
            assert asleep._member.is_held()
            assert await asleep._driver.drive(claim) is None
        assert (stale.sent(), note.sent()) == ([], ["flush"])
        assert (await store.runs.get(run_id)).state is outcomes.RunState.SUCCEEDED


async def test_a_wait_ends_on_time_on_a_replica_whose_clock_is_wrong(url: str) -> None:
    """Deadlines are the server's: a replica that believes it is an hour earlier or later ends a short wait all the same."""
    for skew in (-3600.0, 3600.0):
        note = runs.NotingAction()
        wrong = _SkewedClock(skew)
        with support.opened(url, wrong) as store:
            made = runs.make_engine(store, wrong, runs.Stage(), {"note": note}, SETTINGS)
            await made.start()
            run_id = await made.submit(runs.plan(runs.act("one"), runs.wait("rest", "", 0.3), runs.act("two")))
            began = TIME.monotonic()
            while not (await store.runs.get(run_id)).state.is_final:
                await TIME.sleep(0.02)
            await made.stop()
            assert 0.25 < TIME.monotonic() - began < 5.0


class _SkewedClock(clocks.SystemClock):
    def __init__(self, skew: float) -> None:
        self._skew = skew

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._skew)


async def test_sessions_that_are_cut_lose_nothing(url: str, postgres_server: postgres.Server) -> None:
    """Every session is terminated again and again while runs are driven: each run ends, and no step acts unannounced."""
    note = runs.NotingAction()
    async with replica(url, "a", note) as (alive, store):
        await alive.start()
        name = sa.make_url(url).database or ""
        accepted: list[str] = []
        for number in range(12):
            with contextlib.suppress(errors.RetryLaterError):
                accepted.append(await alive.submit(runs.plan(*_steps(), node=f"node-{number}")))
            await asyncio.to_thread(postgres_server.cut_sessions, name)
        for run_id in accepted:
            while not (await _get(store, run_id)).state.is_final:
                await TIME.sleep(0.02)
            events = await store.runs.events(run_id)
            for step in _steps():
                sent = sum(one.key == f"{run_id}:{step.name}" for one in note.told)
                assert 1 <= sent <= sum(one.kind == "step_started" and one.step == step.name for one in events)


def _steps() -> tuple[plans.PlannedStep, ...]:
    return (runs.act("one"), runs.act("two"), runs.act("three"))


async def _get(store: house.House, run_id: str) -> stored.Run:
    while True:
        with contextlib.suppress(errors.RetryLaterError):
            return await store.runs.get(run_id)


async def test_a_transaction_that_is_left_open_is_cut_off(url: str) -> None:
    """Its replica was paused in the midst of it; the rows it locked are free after three seconds, and it is told."""
    with support.opened(url, TIME) as store:

        def sleeps(connection: sa.Connection) -> None:
            connection.execute(sa.select(tables.RUN).with_for_update())
            threading.Event().wait(4.0)
            connection.execute(sa.select(tables.RUN))

        with pytest.raises(errors.RetryLaterError, match="idle"):
            await store.database.write(sleeps)
        assert await store.database.read(lambda c: c.execute(sa.text("SELECT 1")).scalar_one()) == 1


async def test_the_heartbeat_does_not_queue_behind_other_writes(url: str) -> None:
    """Every writing thread waits for a lock that nobody gives back, and the lease is renewed all the same."""
    note = runs.NotingAction()
    async with replica(url, "a", note) as (alive, store):
        await alive.submit(runs.plan())
        lock = sa.select(tables.RUN).with_for_update()
        with store.database.write_engine.connect() as blocker, blocker.begin():
            blocker.execute(lock)
            waiting = [asyncio.ensure_future(store.database.write(lambda c: c.execute(lock).all())) for _ in range(20)]
            await asyncio.wait_for(asyncio.to_thread(alive._member.beat), 2.0)
        await asyncio.gather(*waiting)
