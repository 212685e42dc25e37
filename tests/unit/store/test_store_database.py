"""The database's contract: durable answers, isolation of failures, bounds."""

import asyncio
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event, exc

from controlplane.domain import errors
from controlplane.store import house, tables
from tests.support import store as support
from tests.support.clock import FakeClock

_BRAKE = tables.AUTOMATION_BRAKE


def _insert(who: str, clock: FakeClock) -> sa.Insert:
    return _BRAKE.insert().values(who=who, reason="", at=clock.now())


async def _count(store: house.House) -> int:
    return await store.database.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(_BRAKE)).scalar_one())


async def test_failing_work_does_not_spoil_its_group(store: house.House, clock: FakeClock) -> None:
    """Work that raises half-way leaves nothing behind, while its neighbours of the same commit are stored."""

    def fails(connection: sa.Connection) -> None:
        connection.execute(_insert("half", clock))
        raise errors.GiveUpError("changed my mind")

    good = [store.database.write(lambda c, n=n: c.execute(_insert(f"good {n}", clock))) for n in range(20)]
    answers = await asyncio.gather(*good[:10], store.database.write(fails), *good[10:], return_exceptions=True)
    assert [type(one) for one in answers if isinstance(one, Exception)] == [errors.GiveUpError]
    assert await _count(store) == 20


async def test_queued_writes_share_a_commit(store: house.House, clock: FakeClock) -> None:
    """Writes that wait together are committed together: one disk flush instead of one for each."""
    started, go_on = threading.Event(), threading.Event()

    def hold(connection: sa.Connection) -> None:
        started.set()
        go_on.wait(10)

    commits: list[object] = []
    event.listen(store.database._write_engine, "commit", commits.append)
    holder = asyncio.ensure_future(store.database.write(hold))
    await asyncio.to_thread(started.wait, 10)
    rest = [
        asyncio.ensure_future(store.database.write(lambda c, n=n: c.execute(_insert(str(n), clock)))) for n in range(50)
    ]
    await asyncio.to_thread(go_on.set)
    await asyncio.gather(holder, *rest)
    assert len(commits) <= 2
    assert await _count(store) == 50


async def test_full_queue_refuses_at_once(tmp_path: Path, clock: FakeClock) -> None:
    """When too many writes wait, the next is told so instead of waiting without end; the waiting ones are kept."""
    started, go_on = threading.Event(), threading.Event()

    def hold(connection: sa.Connection) -> None:
        started.set()
        go_on.wait(10)

    with support.opened(tmp_path, clock, max_queue=2) as store:
        holder = asyncio.ensure_future(store.database.write(hold))
        await asyncio.to_thread(started.wait, 10)
        waiting = [
            asyncio.ensure_future(store.database.write(lambda c, n=n: c.execute(_insert(n, clock)))) for n in "ab"
        ]
        await asyncio.to_thread(lambda: None)
        with pytest.raises(errors.OverloadedError, match="nothing was accepted"):
            await store.database.write(lambda c: c.execute(_insert("c", clock)))
        go_on.set()
        await asyncio.gather(holder, *waiting)
        assert await _count(store) == 2


async def test_write_after_close_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    """A closed database says so instead of leaving the caller waiting."""
    with support.opened(tmp_path, clock) as store:
        pass
    with pytest.raises(errors.OverloadedError, match="closed"):
        await store.database.write(lambda c: None)
    with pytest.raises(errors.OverloadedError, match="closed"):
        await store.database.read(lambda c: None)


async def test_failed_commit_is_told_to_every_caller_of_the_group(store: house.House, clock: FakeClock) -> None:
    """When the commit itself fails, nobody is told that something was stored."""

    def refuse(connection: sa.Connection) -> None:
        raise exc.OperationalError("COMMIT", None, Exception("disk is full"))

    event.listen(store.database._write_engine, "commit", refuse)
    with pytest.raises(errors.RetryLaterError, match="disk is full"):
        await store.database.write(lambda c: c.execute(_insert("a", clock)))
    event.remove(store.database._write_engine, "commit", refuse)
    assert await _count(store) == 0
    await store.database.write(lambda c: c.execute(_insert("a", clock)))
    assert await _count(store) == 1


async def test_readers_cannot_write(store: house.House, clock: FakeClock) -> None:
    """A read that tries to write is refused by the database: there is one writer."""
    with pytest.raises(errors.RetryLaterError, match="readonly"):
        await store.database.read(lambda c: c.execute(_insert("a", clock)))


async def test_commits_are_flushed_to_disk(store: house.House) -> None:
    """The writing connection runs in WAL mode with synchronous=FULL and foreign keys on."""

    def pragmas(connection: sa.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]

    assert await store.database.write(pragmas) == ["wal", 2, 1]


async def test_threads_may_write_too(store: house.House, clock: FakeClock) -> None:
    """The heartbeat's thread writes through the same queue."""
    await asyncio.to_thread(store.database.write_blocking, lambda c: c.execute(_insert("thread", clock)))
    assert await _count(store) == 1


async def test_naive_time_is_refused(store: house.House, clock: FakeClock) -> None:
    """A time without a zone cannot be stored by mistake."""
    naive = clock.now().replace(tzinfo=None)
    with pytest.raises(exc.StatementError, match="naive"):
        await store.database.write(lambda c: c.execute(_BRAKE.insert().values(who="a", reason="", at=naive)))
