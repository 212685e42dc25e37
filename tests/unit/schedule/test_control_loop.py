"""The clock of the control loop: who ticks, who only watches, and what is over when it has stopped."""

import asyncio

import pytest
from anyio import lowlevel
from structlog import testing

from controlplane import clock as clocks
from controlplane import schedule
from controlplane.domain import ticks
from tests.support.clock import FakeClock
from tests.support.loop import Loop

LEASE_SECONDS = 6.0


class Stage:
    """Counts what the loop does; the tick is a real one over fakes."""

    def __init__(self, epoch: int | None = 1) -> None:
        self.epoch = epoch
        self.engine = Loop(FakeClock())
        self.reports: list[ticks.TickReport] = []
        self.num_watched = 0
        self.happened = asyncio.Event()

    async def lead(self, role: str) -> int | None:
        return self.epoch

    async def after_tick(self, report: ticks.TickReport) -> None:
        self.reports.append(report)
        self.happened.set()

    async def watch(self) -> None:
        self.num_watched += 1
        self.happened.set()

    async def sweep(self) -> int:
        return 0

    async def refit(self) -> list[str]:
        return []

    def loop(self) -> schedule.Loop:
        clock = clocks.SystemClock()
        return schedule.Loop(
            schedule.Work(self.engine.tick, self.lead, self.after_tick, self.watch, self.sweep, self.refit),
            schedule.Leadership(clock, LEASE_SECONDS),
            clock,
            tick_seconds=3600.0,
            lease_seconds=LEASE_SECONDS,
        )


async def until(event: asyncio.Event) -> None:
    async with asyncio.timeout(20):
        await event.wait()


async def test_the_leader_ticks_at_once_and_when_it_is_woken() -> None:
    """An alert does not wait for the interval."""
    stage = Stage()
    loop = stage.loop()
    await loop.start()
    await until(stage.happened)
    stage.happened.clear()
    loop.wake()
    await until(stage.happened)
    await loop.stop()
    assert (len(stage.reports), stage.num_watched) == (2, 0)
    assert loop.report() is stage.reports[-1]


async def test_a_replica_that_does_not_lead_watches_and_decides_nothing() -> None:
    """It drives runs all the same, and has to know where the nodes are."""
    stage = Stage(epoch=None)
    loop = stage.loop()
    await loop.start()
    await until(stage.happened)
    await loop.stop()
    assert (stage.reports, stage.num_watched) == ([], 1)


async def test_stopping_waits_for_the_tick_under_way() -> None:
    """What closes after the loop, the database above all, must not be closed under a tick."""
    stage, entered, left = Stage(), asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    stage.engine.reader.read_now = hang  # type: ignore[method-assign,assignment]
    loop = stage.loop()
    await loop.start()
    await until(entered)
    await loop.stop()
    assert left.is_set()
    report = loop.report()
    assert report is not None
    assert "stopped before its end" in report.problems[0]


@pytest.mark.parametrize(("moved", "is_held"), [(4.7, True), (4.9, False)])
def test_leadership_ends_before_anybody_else_may_take_the_lease(moved: float, is_held: bool) -> None:
    """At 0.8 of its length, counted from before the question."""
    clock = FakeClock()
    leadership = schedule.Leadership(clock, LEASE_SECONDS)
    assert not leadership.is_held()
    leadership.note(1, clock.monotonic())
    clock.move(moved)
    assert leadership.is_held() is is_held
    leadership.note(None, clock.monotonic())
    assert not leadership.is_held()


async def test_a_stop_in_the_middle_of_a_fit_is_no_trouble() -> None:
    """What `stop` cancels ends quietly: nobody has to look into the log for it."""
    stage, began = Stage(), asyncio.Event()

    async def refit() -> list[str]:
        began.set()
        await asyncio.Event().wait()
        return []

    stage.refit = refit
    loop = stage.loop()
    with testing.capture_logs() as lines:
        await loop.start()
        await until(began)
        await loop.stop()
        for _ in range(5):
            await lowlevel.checkpoint()
    assert [line for line in lines if line["event"] == "job_trouble"] == []
