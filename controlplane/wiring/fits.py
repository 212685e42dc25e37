"""Fits forecasts in a worker process that can be killed, one at a time.

Owned by the service; asked by whoever refits, off the tick. Async on the event loop's side; pebble's threads and the
worker belong to the pool. A fit is seconds of computing, and Stan, a child of the worker, may search for minutes: so
each fit has a deadline, after which the worker and everything it started are killed, and the next fit gets a new worker.
This process never imports Prophet. Nothing is retried here: the caller keeps the older fit and asks again later.
"""

import asyncio
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import process as process_futures
from multiprocessing import connection

import pebble

from controlplane.domain import errors, forecasts
from detectors import forecast

Answer = forecast.Fitted | forecasts.NoForecast

# A fit takes half a second, the first one of a worker some seconds more for imports; a busy machine makes it many.
DEADLINE_SECONDS = 120.0
# For a worker to start and take the work, after the one before was killed.
_START_SECONDS = 60.0
_RETRY_SECONDS = 300.0
# Fits give way to whatever answers requests.
_NICENESS = 10


class FitPool:
    """Holds the worker; it is started by the first fit. `work` is for tests: a function that a worker can import."""

    def __init__(
        self,
        deadline_seconds: float = DEADLINE_SECONDS,
        work: Callable[[forecast.FitRequest], Answer] = forecast.fit,
    ) -> None:
        self._deadline_seconds = deadline_seconds
        self._work = work
        self._turn = asyncio.Lock()
        self._is_closed = False
        self._pool: pebble.ProcessPool | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._announced, self._announcing = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self._groups: set[int] = set()
        self._running: futures.Future[Answer] | None = None

    async def fit(self, request: forecast.FitRequest) -> Answer:
        """Return the fit; waits for its turn. Raises RetryLaterError at the deadline, or when the worker died.

        An error of the fit itself comes as it was raised: that is our bug.
        """
        async with self._turn:
            try:
                self._running = self._begin(request)
                async with asyncio.timeout(self._deadline_seconds + _START_SECONDS):
                    return await asyncio.wrap_future(self._running)
            except TimeoutError as error:
                raise errors.RetryLaterError(
                    f"the forecast of {request.service} was not fitted within {self._deadline_seconds:g} s; its worker"
                    " was stopped, and the last fit stays in use",
                    delay_seconds=_RETRY_SECONDS,
                ) from error
            except (asyncio.CancelledError, process_futures.BrokenProcessPool) as error:
                if isinstance(error, asyncio.CancelledError) and not self._is_closed:
                    raise  # the caller was cancelled, not the fit
                raise errors.RetryLaterError(
                    f"the worker went away while it fitted the forecast of {request.service}; the next fit starts another"
                ) from error
            except pebble.ProcessExpired as error:
                raise errors.RetryLaterError(
                    f"the worker that fitted the forecast of {request.service} died (exit code {error.exitcode});"
                    " look for an out-of-memory kill if it happens again",
                    delay_seconds=_RETRY_SECONDS,
                ) from error
            finally:
                self._end_orphans()

    async def close(self) -> None:
        """End the worker and everything it started, at once; a fit in progress raises. May be called again."""
        if self._is_closed:
            return
        self._is_closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
            await asyncio.to_thread(pool.join)
        if self._running is not None:
            self._running.cancel()  # who waits for it is told; nobody else would tell
        self._end_orphans()
        self._announced.close()
        self._announcing.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _begin(self, request: forecast.FitRequest) -> "futures.Future[Answer]":
        if self._is_closed:
            raise errors.RetryLaterError(f"dsctl is stopping: the forecast of {request.service} is not fitted any more")
        if self._pool is None or not self._pool.active:
            self._pool = self._start()
        return self._pool.schedule(self._work, args=(request,), timeout=self._deadline_seconds)

    def _start(self) -> pebble.ProcessPool:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="dsctl-fits-", ignore_cleanup_errors=True)
        return pebble.ProcessPool(
            max_workers=1,
            context=multiprocessing.get_context("spawn"),
            initializer=_prepare,
            initargs=(self._announcing, self._scratch.name),
        )

    def _end_orphans(self) -> None:
        """Kill what dead workers have left behind. A process group keeps its number while anything is in it."""
        if self._announced.closed:
            return
        while self._announced.poll():
            self._groups.add(self._announced.recv())
        for group in [one for one in self._groups if not _is_alive(one)]:
            self._groups.discard(group)
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it left nothing behind


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's by now, so nothing of ours is left in it
    return True


def _end_with_parent() -> None:
    """Kill this worker and all it started when the service is gone: nobody else would after a kill -9."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)


def _prepare(announce: "connection.Connection[int, int]", scratch: str) -> None:
    """Run in a new worker: lead a group of its own, say its number, and keep temporary files where they are removed."""
    os.setsid()
    announce.send(os.getpid())
    threading.Thread(target=_end_with_parent, name="dsctl-lifeline", daemon=True).start()
    os.nice(_NICENESS)
    # Before numpy is imported: its threads would take the cores from the tick, and gain nothing here.
    os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TMPDIR": scratch})
    tempfile.tempdir = scratch
