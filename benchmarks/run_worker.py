"""A process that drives runs with the real engine, made to be killed: no API, no tick, nothing but store and engine.

Started by the crash and takeover benchmarks from a fork server that has imported this once. It is spoken to over a pipe:
submissions and cancellations come in, answers go out, and what was not answered has not been promised. Files in its folder
disturb it: `clock-NAME` holds seconds by which its wall clock is wrong, and while `full` exists its SQLite file may not grow.

Concurrency: asyncio; the pipe is read when the event loop says that something lies there.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy import event

from benchmarks import run_load, run_target
from controlplane import clock as clocks
from controlplane.domain import errors, plans
from controlplane.runs import config, engine, failpoints
from controlplane.store import database as db

FULL, CLOCK = "full", "clock"
# Of PostgreSQL's default of 100 connections, three replicas and the harness take a part.
_POOL_SIZE, _NUM_READERS = 5, 2
# So short that a database locked from outside is met as an error, and not only as a wait.
_BUSY_MILLISECONDS = 400
_MAX_PAGES = 1_000_000


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is told at its start. `dawdle` is how long the outside takes to answer."""

    url: str
    folder: Path
    name: str
    lease_seconds: float = 2.0
    poll_seconds: float = 0.05
    dawdle: float = 0.01
    failpoint: str = ""
    max_active: int = 8


class SkewedClock(clocks.SystemClock):
    """The system's clock, wrong by as many seconds as a file says."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def now(self) -> datetime:
        """Return the wrong time."""
        try:
            skew = float(self._path.read_text(encoding="utf-8") or 0.0)
        except OSError:
            skew = 0.0
        return super().now() + timedelta(seconds=skew)


def main(orders: Orders, pipe: Connection) -> None:
    """Be the process until it is told to stop, killed, or replaced by another of its name."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    asyncio.run(_Worker(orders, pipe).live())


class _Worker:
    def __init__(self, orders: Orders, pipe: Connection) -> None:
        self._orders = orders
        self._pipe = pipe
        self._ending = asyncio.Event()
        self._answering: set[asyncio.Task[None]] = set()

    async def live(self) -> None:
        """Start, answer, and stop in order when told to."""
        clock = SkewedClock(self._orders.folder / f"{CLOCK}-{self._orders.name}")
        database = _open(self._orders, clock)
        self._engine = self._make_engine(database, clock)
        await _insist(self._engine.start, clock)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pipe.fileno(), self._on_readable)
        self._tell("ready")
        while self._engine.is_live or not self._engine.is_gone:
            if self._ending.is_set():
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), 0.05)
        loop.remove_reader(self._pipe.fileno())
        await _insist(self._engine.stop, clock)
        database.close()
        self._tell("gone" if not self._ending.is_set() else "stopped")

    def _make_engine(self, database: db.Database, clock: clocks.SystemClock) -> engine.RunEngine:
        orders = self._orders
        target = run_target.Target(orders.folder / "targets")
        rooms = run_load.Rooms(clock, orders.folder, orders.dawdle)
        settings = config.RunSettings(
            replica_name=orders.name,
            lease_seconds=orders.lease_seconds,
            poll_seconds=orders.poll_seconds,
            max_active=orders.max_active,
            wait_poll_seconds=0.05,
            retry_seconds=0.05,
            # The harness kills far more often than any step does.
            max_reentries=1000,
            doubt_poll_seconds=0.1,
            errand_timeout_seconds=1.0,
            max_errand_retry_seconds=0.5,
        )
        actions = run_load.make_actions(target, clock, orders.dawdle)
        points = failpoints.read_environment({"DSCTL_FAILPOINT": orders.failpoint})
        return engine.RunEngine(database, rooms.ports(actions, self._follow_up), settings, points)

    async def _follow_up(self, plan: plans.Plan, runbook: str, dedup_key: str) -> str:
        del runbook
        return await self._engine.submit(run_load.make_follow_up(plan, dedup_key))

    def _on_readable(self) -> None:
        try:
            message: tuple[Any, ...] = self._pipe.recv()
        except (EOFError, OSError):
            # The harness is gone; nobody will ever ask again.
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            self._ending.set()
            return
        self._take(message)

    def _take(self, message: tuple[Any, ...]) -> None:
        verb, *rest = message
        if verb == "stop":
            self._ending.set()
            return
        work: Callable[..., Coroutine[None, None, None]] = {"submit": self._submit, "cancel": self._cancel}[verb]
        task = asyncio.create_task(work(*rest))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _submit(self, number: int, target: str, num_steps: int = 0) -> None:
        long = num_steps and run_load.make_long_plan(number, target, num_steps)
        try:
            run_id = await self._engine.submit(long or run_load.make_plan(number, target))
        except errors.ConflictError:
            self._tell("busy", number)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, nothing was promised, and the harness tells
            self._tell("refused", number, repr(error))
        else:
            self._tell("accepted", number, run_id)

    async def _cancel(self, run_id: str) -> None:
        with contextlib.suppress(errors.DsctlError):
            await self._engine.cancel(run_id, "harness")

    def _tell(self, *message: object) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(message)


async def _insist(call: Callable[[], Coroutine[None, None, None]], clock: clocks.SystemClock) -> None:
    """Repeat what needs a database that may be down just now, as whoever starts dsctl would."""
    while True:
        try:
            return await call()
        except errors.RetryLaterError:
            await clock.sleep(0.1)


def _open(orders: Orders, clock: clocks.SystemClock) -> db.Database:
    settings = db.DatabaseSettings(orders.url, num_readers=_NUM_READERS, pool_size=_POOL_SIZE)
    database = db.Database(settings, clock)
    if database.is_exclusive:
        _disturb_sqlite(database.write_engine, orders.folder / FULL)
    return database


def _disturb_sqlite(writes: sa.Engine, full: Path) -> None:
    def make_impatient(connection: Any, _record: object) -> None:
        connection.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")

    def bound(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={1 if full.exists() else _MAX_PAGES}")

    event.listen(writes, "connect", make_impatient)
    event.listen(writes, "begin", bound)
