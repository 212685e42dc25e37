"""The database: short transactions as plain functions, run where they may block, never on the event loop.

Opened by `house`; used by the repositories, the run engine's ledger and the migrations. Knows nothing of what is
stored. A unit of work is a function of a SQLAlchemy connection; it must only read and write the database, since it
may be run again by its caller after a failed commit.

Concurrency: `write` and `read` are for the event loop, `write_blocking` for threads such as the heartbeat. On SQLite
one thread writes in groups (see `writer`) and a few threads read on connections of their own; on PostgreSQL both go
through bounded thread pools. Every queue is bounded: when one is full the caller gets OverloadedError.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc

from controlplane.domain import errors, ports
from controlplane.store import lockfile, writer

T = TypeVar("T")
Work = Callable[[sa.Connection], T]

# A write that the database has not answered for this long is reported as not done; its caller may try again.
_BLOCKING_SECONDS = 30.0

# A server that hangs, or a network that swallows packets, must not hold a thread for the quarter of an hour that TCP
# would wait: our transactions take milliseconds. Whatever is cut off is rolled back, and its caller may try again.
_POSTGRES_LIMITS = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # A transaction of ours is never idle; one that is belongs to a replica that was paused in the midst of it, and holds
    # rows that others wait to take over.
    "options": "-c statement_timeout=20s -c lock_timeout=10s -c idle_in_transaction_session_timeout=3s",
}
# What a server that fails over, restarts or runs full says; InternalError is also what it says when it cuts off the idle.
_PASSING = (exc.OperationalError, exc.InternalError, exc.InterfaceError, exc.TimeoutError)


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Where the data lives. `url` is `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`."""

    url: str
    max_queue: int = 2000
    num_readers: int = 4
    pool_size: int = 8


class Database:
    """Runs units of work. Open with `open_database`, end with `close`."""

    def __init__(self, settings: DatabaseSettings, clock: ports.Clock) -> None:
        self._clock = clock
        self.url = url = _parse_url(settings.url)
        self._lock: lockfile.LockFile | None = None
        self._writer: writer.GroupWriter | None = None
        if url.get_backend_name() == "sqlite":
            self._open_sqlite(url, settings)
        else:
            self._open_postgres(url, settings)

    def _open_sqlite(self, url: sa.URL, settings: DatabaseSettings) -> None:
        path = _sqlite_path(url)
        self._lock = lockfile.LockFile(path.with_name(path.name + ".lock"))
        at = url.set(database=str(path))
        self._write_engine = _sqlite_engine(at, size=1, begin="BEGIN IMMEDIATE")
        self._read_engine = _sqlite_engine(at, size=settings.num_readers, begin="BEGIN")
        self._writer = writer.GroupWriter(self._write_engine, self._clock, settings.max_queue)
        self._readers = _BoundedPool("dsctl-reader", settings.num_readers, settings.max_queue)
        self._writers = self._readers

    def _open_postgres(self, url: sa.URL, settings: DatabaseSettings) -> None:
        self._write_engine = sa.create_engine(
            url, pool_size=settings.pool_size, max_overflow=2, pool_pre_ping=True, connect_args=dict(_POSTGRES_LIMITS)
        )
        self._read_engine = self._write_engine
        self._readers = _BoundedPool("dsctl-reader", settings.num_readers, settings.max_queue)
        self._writers = _BoundedPool(
            "dsctl-writer", max(1, settings.pool_size - settings.num_readers), settings.max_queue
        )

    @property
    def is_exclusive(self) -> bool:
        """True when this process is proven to be the only one that uses the database (SQLite)."""
        return self._lock is not None

    @property
    def write_engine(self) -> sa.Engine:
        """The engine whose connections write, for whoever watches or disturbs them."""
        return self._write_engine

    def now(self, connection: sa.Connection) -> datetime:
        """Return the time that decides leases: the server's on PostgreSQL, since replicas' clocks differ."""
        if self.is_exclusive:
            return self._clock.now()
        return connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one().astimezone(UTC)

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction and return its result once that is durable.

        Raises what `work` raised (then nothing of it is stored), RetryLaterError when the database does not
        commit, OverloadedError when too many writes wait.
        """
        return await asyncio.wrap_future(self._submit_write(work))

    def write_blocking(self, work: Work[T]) -> T:
        """Do the same as `write` from a thread; never call it on an event loop."""
        if self._writer is None:
            # In the caller's own thread: a heartbeat must not queue behind a burst of others' writes.
            return _run(self._write_engine, work)
        future = self._writer.submit(work)
        try:
            return future.result(_BLOCKING_SECONDS)
        except TimeoutError as error:
            # Unless it has begun, it must not happen after its caller was told that it did not.
            future.cancel()
            raise errors.RetryLaterError(f"the database did not answer for {_BLOCKING_SECONDS:g} s") from error

    async def read(self, work: Work[T]) -> T:
        """Run `work` on a connection that only reads one consistent state."""
        return await asyncio.wrap_future(self._readers.submit(lambda: _run(self._read_engine, work)))

    def _submit_write(self, work: Work[T]) -> "Future[T]":
        if self._writer is not None:
            return self._writer.submit(work)
        return self._writers.submit(lambda: _run(self._write_engine, work))

    def migrate(self, work: Callable[[sa.Connection], None]) -> None:
        """Run a schema change in one transaction; blocking, at start only."""
        with self._write_engine.connect() as connection, connection.begin():
            work(connection)

    def close(self) -> None:
        """Finish queued writes, close every connection, give the file back."""
        if self._writer is not None:
            self._writer.close()
        self._readers.close()
        self._writers.close()
        self._read_engine.dispose()
        self._write_engine.dispose()
        if self._lock is not None:
            self._lock.release()


class _BoundedPool:
    """A thread pool that refuses work instead of queueing without end."""

    def __init__(self, name: str, num_threads: int, max_queue: int) -> None:
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
        self._limit = max_queue + num_threads
        self._free = threading.BoundedSemaphore(self._limit)

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        if not self._free.acquire(blocking=False):
            raise errors.OverloadedError(f"{self._limit} requests already wait for the database; try again shortly")
        try:
            future = self._pool.submit(work)
        except RuntimeError as error:
            self._free.release()
            raise errors.OverloadedError("the database is closed") from error
        future.add_done_callback(lambda _: self._free.release())
        return future

    def close(self) -> None:
        self._pool.shutdown(wait=True)


def _run(engine: sa.Engine, work: Work[T]) -> T:
    try:
        with engine.connect() as connection, connection.begin():
            return work(connection)
    except _PASSING as error:
        raise writer.not_stored(error) from error


def _parse_url(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except exc.ArgumentError as error:
        raise errors.InvalidInputError(
            "the database url cannot be read; write sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
        ) from error
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite":
        raise errors.InvalidInputError(f"the database {url.get_backend_name()} is not known; use sqlite or postgresql")
    return url


def _sqlite_path(url: sa.URL) -> Path:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise errors.InvalidInputError("SQLite needs a plain file, as sqlite:///PATH; in memory nothing is durable")
    path = Path(url.database).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Tokens are stored only as hashes, but plans and alerts are nobody else's business either.
    path.touch(mode=0o600)
    return path


def _sqlite_engine(url: sa.URL, *, size: int, begin: str) -> sa.Engine:
    engine = sa.create_engine(url, pool_size=size, max_overflow=0, connect_args={"timeout": 30})
    is_reader = begin == "BEGIN"

    def prepare(connection: Any, _record: object) -> None:
        # SQLAlchemy then says BEGIN itself: Python's driver would begin late, and never for reads.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"query_only={int(is_reader)}"):
            connection.execute(f"PRAGMA {pragma}")

    def begin_transaction(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin_transaction)
    return engine
