"""One thread that owns all writes of a SQLite file and commits them in groups.

Called by `database` only. SQLite has one writer at a time; a queue in front of it is fair and cheap, while threads
that fight for its lock fall into its busy back-off. Each piece of work runs in a savepoint of its own, so that one
that fails does not spoil its neighbours, and every caller is answered only after the commit of the group.

Concurrency: one daemon thread, named `dsctl-writer`; callers may be any thread or event loop.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from controlplane.domain import errors, ports

Work = Callable[[sa.Connection], Any]

# How long a group may stay open for further work that is already queued. Longer would add to every caller's wait;
# much shorter would pay one disk flush per write under load.
GROUP_SECONDS = 0.010


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work
    future: "Future[Any]"


class GroupWriter:
    """Runs work on one connection of `engine` in order of arrival."""

    def __init__(self, engine: sa.Engine, clock: ports.Clock, max_queue: int) -> None:
        self._engine = engine
        self._clock = clock
        self._jobs: queue.Queue[_Job | None] = queue.Queue(max_queue)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dsctl-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> "Future[Any]":
        """Queue work; raises OverloadedError at once when the queue is full or the database is closed."""
        if self._is_closed.is_set():
            raise errors.OverloadedError("the database is closed; nothing was written")
        job = _Job(work, Future())
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise errors.OverloadedError(
                f"{self._jobs.maxsize} writes already wait for the database; nothing was accepted, try again shortly"
            ) from None
        return job.future

    def close(self) -> None:
        """Finish what is queued, then stop the thread."""
        if not self._is_closed.is_set():
            self._is_closed.set()
            self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not self._run_group(job):
                break
        self._refuse_rest()

    def _refuse_rest(self) -> None:
        """Answer those who slipped in behind the closing mark, so that nobody waits for ever."""
        while True:
            try:
                late = self._jobs.get_nowait()
            except queue.Empty:
                return
            if late is not None and late.future.set_running_or_notify_cancel():
                late.future.set_exception(errors.OverloadedError("the database was closed; nothing was written"))

    def _run_group(self, first: _Job) -> bool:
        """Run and commit one group; False when the closing mark was met."""
        group = _Group(self._clock.monotonic() + GROUP_SECONDS)
        group.take(first)
        try:
            with self._engine.connect() as connection, connection.begin():
                goes_on = self._fill_group(connection, group)
        except exc.SQLAlchemyError as error:
            group.fail(error)
            return True
        group.answer()
        return goes_on

    def _fill_group(self, connection: sa.Connection, group: "_Group") -> bool:
        while True:
            group.run_newest(connection)
            if self._clock.monotonic() >= group.until:
                return True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return True
            if job is None:
                return False
            group.take(job)


class _Group:
    """The work of one transaction and its answers, which are given only after the commit."""

    def __init__(self, until: float) -> None:
        self.until = until
        self._jobs: list[_Job] = []
        self._answers: list[tuple[Any, Exception | None]] = []

    def take(self, job: _Job) -> None:
        """Add work, unless its caller has gone."""
        if job.future.set_running_or_notify_cancel():
            self._jobs.append(job)

    def run_newest(self, connection: sa.Connection) -> None:
        """Run what was taken last and has no answer yet, in its savepoint."""
        for job in self._jobs[len(self._answers) :]:
            self._answers.append(_run_job(connection, job.work))

    def answer(self) -> None:
        """Tell every caller, after the commit."""
        for job, (value, error) in zip(self._jobs, self._answers, strict=True):
            if error is not None:
                job.future.set_exception(error)
            else:
                job.future.set_result(value)

    def fail(self, error: exc.SQLAlchemyError) -> None:
        """Tell every caller that nothing of the group was stored."""
        for job in self._jobs:
            job.future.set_exception(not_stored(error))


def _run_job(connection: sa.Connection, work: Work) -> tuple[Any, Exception | None]:
    try:
        with connection.begin_nested():
            return work(connection), None
    except exc.OperationalError as error:
        # After a full disk or an I/O error SQLite has rolled the whole group back by itself; going on would
        # silently write outside of it.
        if not _is_in_transaction(connection):
            raise
        return None, not_stored(error)
    except Exception as error:  # noqa: BLE001 - whatever the work raised belongs to its caller, not to this thread
        return None, error


def _is_in_transaction(connection: sa.Connection) -> bool:
    return bool(getattr(connection.connection.dbapi_connection, "in_transaction", True))


def not_stored(error: exc.SQLAlchemyError) -> errors.RetryLaterError:
    """Return the error a caller of a failed write sees."""
    refused = errors.RetryLaterError(f"the database did not commit ({_reason(error)}); nothing was stored, try again")
    refused.__cause__ = error
    return refused


def _reason(error: exc.SQLAlchemyError) -> str:
    return str(error.orig) if isinstance(error, exc.DBAPIError) else str(error)
