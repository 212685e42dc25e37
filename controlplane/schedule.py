"""When things happen: the tick on its interval and on a wake, the lease of the loop, the nightly sweep.

`wiring` starts one `Loop` and hands it to the API as the `TickFeed`. APScheduler keeps the clocks, in memory; there is
no logic here beyond what runs when. Concurrency: everything on the event loop; one tick at a time.

The settings of the scheduler matter: without `misfire_grace_time=None` a tick that is late is dropped, and without
`coalesce` a stall is followed by several ticks at once.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any, cast

import structlog
from apscheduler import events
from apscheduler.schedulers import asyncio as asyncio_scheduler

from controlplane.domain import capacity, ports, ticks, windows
from controlplane.engine import tick

# Alerts arrive in bursts; one tick sees them all.
_DEBOUNCE_SECONDS = 0.25
# While alerts go on arriving, ticks get half of the event loop's time at most, and those who bring them the rest.
_MAX_REST_SECONDS = 5.0
# A tick is bounded by its parts (six seconds for the metrics store); this ends one that hangs all the same.
_TICK_TIMEOUT_SECONDS = 60.0
_SWEEP_SECONDS = 6 * 3600.0
# Soon after the start: a process that is restarted every day, or crashes often, would else never sweep.
_FIRST_SWEEP_SECONDS = 300.0
# How often it is looked whether a forecast is due; most looks do nothing.
_REFIT_CHECK_SECONDS = 5.0
_ROLE = "control-loop"
_TROUBLE = events.EVENT_JOB_MISSED | events.EVENT_JOB_MAX_INSTANCES | events.EVENT_JOB_ERROR


def rest_seconds(tick_seconds: float) -> float:
    """Return how long no further tick begins after one that took so long, whoever wakes the loop.

    >>> rest_seconds(0.05), rest_seconds(3.0), rest_seconds(60.0)
    (0.05, 3.0, 5.0)
    """
    return min(_MAX_REST_SECONDS, tick_seconds)


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done when.

    `lead` returns the epoch of the loop's lease or None; `after_tick` gets each report; `watch` is done in place of a
    tick while another replica leads; `sweep` deletes what is old; `refit` fits the forecasts that are due, and
    returns what came of each.
    """

    tick: tick.Tick
    lead: Callable[[str], Awaitable[int | None]]
    after_tick: Callable[[ticks.TickReport], Awaitable[None]]
    watch: Callable[[], Awaitable[None]]
    sweep: Callable[[], Awaitable[int]]
    refit: Callable[[], Awaitable[Sequence[str]]]


class Leadership:
    """Whether this process leads the control loop, by the last answer of the lease and its own monotonic clock."""

    def __init__(self, clock: ports.Clock, lease_seconds: float) -> None:
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._led_at: float | None = None

    def note(self, epoch: int | None, asked_at: float) -> None:
        """Remember an answer; `asked_at` is the monotonic time before asking."""
        self._led_at = None if epoch is None else asked_at

    def is_held(self) -> bool:
        """True while the lease is certainly ours; ends at 0.8 of its length, before anybody else may take it."""
        return self._led_at is not None and self._clock.monotonic() - self._led_at < 0.8 * self._lease_seconds


class Loop:
    """The control loop's clock; implements the `TickFeed` port."""

    def __init__(
        self, work: Work, leadership: Leadership, clock: ports.Clock, *, tick_seconds: float, lease_seconds: float
    ) -> None:
        self._work = work
        self._leadership = leadership
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._lease_seconds = lease_seconds
        self._woken = asyncio.Event()
        self._waker: asyncio.Task[None] | None = None
        self._log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("dsctl.schedule")
        self._scheduler: Any = asyncio_scheduler.AsyncIOScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )

    def view(self) -> windows.FleetView | None:
        """Return the newest fleet view, or None before the first tick."""
        return self._work.tick.view()

    def report(self) -> ticks.TickReport | None:
        """Return the newest report, or None before the first tick."""
        return self._work.tick.report()

    def outlooks(self) -> Mapping[str, capacity.Outlook]:
        """Return what is foretold and planned for each service, as of the newest tick."""
        return self._work.tick.outlooks()

    def seconds_since_good(self) -> float | None:
        """Return seconds since the last good tick ended, or None before the first."""
        return self._work.tick.seconds_since_good()

    def wake(self) -> None:
        """Ask for a tick soon; call it on the event loop."""
        self._woken.set()

    async def start(self) -> None:
        """Begin: the first tick runs at once."""
        self._scheduler.add_listener(self._on_trouble, _TROUBLE)
        now = self._clock.now()
        first_sweep = now + timedelta(seconds=_FIRST_SWEEP_SECONDS)
        self._scheduler.add_job(self._renew, "interval", seconds=self._lease_seconds / 3, id="lease")
        self._scheduler.add_job(self._on_time, "interval", seconds=self._tick_seconds, id="tick", next_run_time=now)
        self._scheduler.add_job(self._sweep, "interval", seconds=_SWEEP_SECONDS, id="sweep", next_run_time=first_sweep)
        self._scheduler.add_job(self._refit, "interval", seconds=_REFIT_CHECK_SECONDS, id="refit", next_run_time=now)
        await self._renew()
        self._scheduler.start()
        self._waker = asyncio.create_task(self._follow_wakes(), name="tick-waker")

    async def stop(self) -> None:
        """Start nothing new, and wait for the tick under way to be cancelled."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        if self._waker is not None:
            self._waker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._waker

    async def _on_time(self) -> None:
        # Not the tick itself: all ticks run in one task of ours, which `stop` can wait for.
        self.wake()

    async def _follow_wakes(self) -> None:
        rested_at = 0.0
        while True:
            await self._woken.wait()
            await self._clock.sleep(max(_DEBOUNCE_SECONDS, rested_at - self._clock.monotonic()))
            self._woken.clear()
            began = self._clock.monotonic()
            await self._tick()
            ended = self._clock.monotonic()
            rested_at = ended + rest_seconds(ended - began)

    async def _renew(self) -> None:
        asked_at = self._clock.monotonic()
        try:
            epoch = await self._work.lead(_ROLE)
        except Exception as error:  # noqa: BLE001 - without an answer the lease runs out by itself
            self._log.warning("lease_not_renewed", reason=repr(error))
            return
        self._leadership.note(epoch, asked_at)

    async def _tick(self) -> None:
        if not self._leadership.is_held():
            await self._renew()
        try:
            async with asyncio.timeout(_TICK_TIMEOUT_SECONDS):
                await self._tick_or_watch()
        except Exception:  # noqa: BLE001 - the waker must live; the age of the last good tick raises the alarm
            self._log.exception("tick_broken")

    async def _tick_or_watch(self) -> None:
        if not self._leadership.is_held():
            await self._work.watch()
            return
        await self._work.after_tick(await self._work.tick.run())

    async def _sweep(self) -> None:
        num_deleted = await self._work.sweep()
        self._log.info("swept", rows=num_deleted)

    async def _refit(self) -> None:
        for said in await self._work.refit():
            self._log.info("refitted", said=said)

    def _on_trouble(self, event: object) -> None:
        found = cast("Any", event)
        error = getattr(found, "exception", None)
        if isinstance(error, asyncio.CancelledError):
            return  # `stop` ends what runs
        reason = repr(error or "it was still running")
        self._log.warning("job_trouble", job=found.job_id, reason=reason)
