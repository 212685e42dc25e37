"""Workers as real processes: started quickly, killed, paused and replaced, and the database that they share.

Used by the benchmarks `crash`, `takeover` and `runs`. A fork server imports the worker once, so that a new one costs
tens of milliseconds. Blocking.
"""

import contextlib
import multiprocessing.connection
import multiprocessing.context
import os
import signal
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks import postgres, run_worker
from controlplane import clock as clocks
from controlplane.store import database as db
from controlplane.store import house

SQLITE, POSTGRESQL = "sqlite", "postgres"
_JOIN_SECONDS = 10.0


def start_server() -> multiprocessing.context.ForkServerContext:
    """Return the context that workers are started from."""
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(["benchmarks.run_worker", "controlplane.store.house", "psycopg", "benchmarks.runs"])
    return chosen


@dataclass(frozen=True, slots=True)
class Place:
    """Where the workers meet: a migrated database, and the folder with the target and the disturbances."""

    url: str
    folder: Path
    server: postgres.Server | None
    name: str

    def reader(self) -> sa.Engine:
        """Return an engine that reads beside the workers."""
        url = sa.make_url(self.url)
        if self.server is None:
            return sa.create_engine(url, connect_args={"timeout": 5})
        return sa.create_engine(
            url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, connect_args={"connect_timeout": 5}
        )


@contextlib.contextmanager
def placed(kind: str, server: postgres.Server | None = None, *, is_durable: bool = False) -> Generator[Place]:
    """Make a fresh database of a kind; for PostgreSQL on `server`, or on one of its own."""
    with tempfile.TemporaryDirectory(prefix="dsctl-bench-") as folder, contextlib.ExitStack() as stack:
        path = Path(folder)
        if kind == SQLITE:
            place = Place(f"sqlite:///{path / 'dsctl.db'}", path, None, "dsctl.db")
        else:
            ran = server or stack.enter_context(postgres.running(is_durable=is_durable))
            name = f"bench_{os.getpid()}_{path.name[-6:].lower()}"
            place = Place(ran.create_database(name), path, ran, name)
            if server is not None:
                stack.callback(ran.drop_database, name)
        house.open_house(db.DatabaseSettings(place.url), clocks.SystemClock()).close()
        yield place


class Worker:
    """One process with its pipe. Its end is visible as `sentinel`."""

    def __init__(
        self,
        ctx: multiprocessing.context.ForkServerContext | multiprocessing.context.SpawnContext,
        orders: run_worker.Orders,
    ) -> None:
        self.orders = orders
        self.pipe, theirs = ctx.Pipe()
        self._process = ctx.Process(target=run_worker.main, args=(orders, theirs), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def sentinel(self) -> int:
        """What becomes ready when the process ends."""
        return self._process.sentinel

    @property
    def pid(self) -> int:
        """The process's id."""
        pid = self._process.pid
        if pid is None:
            raise ProcessLookupError("the worker has not started")
        return pid

    @property
    def is_alive(self) -> bool:
        """True until the process has ended."""
        return self._process.is_alive()

    def kill(self) -> None:
        """Kill -9, and wait for the end."""
        self._process.kill()
        self._process.join(_JOIN_SECONDS)

    def pause(self) -> None:
        """Stop it where it stands, with all its threads."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on, late."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def say(self, *message: object) -> bool:
        """Tell it something; False when it cannot hear."""
        try:
            self.pipe.send(message)
        except OSError:
            return False
        return True

    def hear(self, seconds: float = 0.0) -> tuple[Any, ...] | None:
        """Return the next thing it says within `seconds`, or None."""
        try:
            return self.pipe.recv() if self.pipe.poll(seconds) else None
        except (EOFError, OSError):
            return None

    def wait_for(self, word: str, clock: clocks.SystemClock, seconds: float) -> bool:
        """Read until it says `word`; False when it does not within `seconds`."""
        end = clock.monotonic() + seconds
        while (left := end - clock.monotonic()) > 0:
            heard = self.hear(left)
            if heard is None:
                return False
            if heard[0] == word:
                return True
        return False

    def join(self, seconds: float) -> bool:
        """Wait for the process to end by itself; False when it does not."""
        self._process.join(seconds)
        return not self.is_alive

    def close(self) -> None:
        """Forget it; it has ended."""
        self.pipe.close()
        self._process.close()


def wait_any(things: list[Any], seconds: float) -> list[Any]:
    """Return which pipes can be read and which processes have ended, within `seconds`."""
    return multiprocessing.connection.wait(things, max(0.0, seconds))
