"""What stands behind the door, for benchmark `intake`: the store alone, and the loop under a storm of alerts.

In this process, over a SQLite file. Every alert of the storm is about another node, so that each is an incident of its
own: no storm can give the loop more to do. Async.
"""

import asyncio
import statistics
from dataclasses import dataclass
from pathlib import Path

from benchmarks import burst_fleet as fleets
from benchmarks import burst_loop
from controlplane import clock
from controlplane.domain import policies
from controlplane.store import database as db
from controlplane.store import house as stores

_AT_ONCE = 16
_STORED_TOGETHER = 500
_NUM_STEADY = 5
_LOOK_SECONDS = 0.02
_PULSE_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Storm:
    """How long ticks take until each incident has been opened, those after that, and the longest stall of the loop."""

    alerts: int
    opening_ticks: int
    opening_s: float
    steady_s: float
    stall_max_s: float


async def commits(folder: Path, num_commits: int) -> float:
    """Return how many notifications of one alert a second the store takes from as many callers as there are clients."""
    time = clock.SystemClock()
    store = stores.open_house(db.DatabaseSettings(f"sqlite:///{folder / 'dsctl.db'}"), time)
    numbers = iter(range(num_commits))
    try:
        started = time.monotonic()

        async def keep() -> None:
            for number in numbers:
                name = f"n{number:05}"
                await store.alerts.store(fleets.notification(name, fleets.alerts([name], time.now())))

        await asyncio.gather(*(keep() for _ in range(_AT_ONCE)))
        return num_commits / (time.monotonic() - started)
    finally:
        store.close()


async def storm(folder: Path, num_alerts: int) -> Storm:
    """Let so many alerts fire at once, under a policy that observes, and time the ticks."""
    limit = policies.MaxUnavailable()
    offered = (burst_loop.policy("heal", limit, mode=policies.Mode.OBSERVE),)
    names = [f"n{number:05}" for number in range(num_alerts)]
    stalls: list[float] = []
    async with burst_loop.running(folder, 1, offered) as rig:
        fired = fleets.alerts(names, rig.clock.now())
        for first in range(0, num_alerts, _STORED_TOGETHER):
            some = fired[first : first + _STORED_TOGETHER]
            await rig.store.alerts.store(fleets.notification(f"storm-{first}", some))
        pulse = asyncio.create_task(_pulse(rig.clock, stalls), name="pulse")
        await rig.loop.start()
        num_opening = 0
        while len(await rig.store.incidents.unclosed()) < num_alerts or not num_opening:
            num_opening = await _next_tick(rig, num_opening)
        for number in range(num_opening, num_opening + _NUM_STEADY + 1):
            await _next_tick(rig, number)
        pulse.cancel()
    opening, steady = rig.reports[:num_opening], rig.reports[num_opening + 1 :]
    return Storm(
        alerts=num_alerts,
        opening_ticks=num_opening,
        opening_s=sum(one.duration_seconds for one in opening),
        steady_s=statistics.median(one.duration_seconds for one in steady),
        stall_max_s=max(stalls),
    )


async def _next_tick(rig: burst_loop.Rig, number: int) -> int:
    """Wait for tick `number`, wake the loop for the next one, and return that one's number."""
    while len(rig.reports) <= number:
        await rig.clock.sleep(_LOOK_SECONDS)
    rig.loop.wake()
    return number + 1


async def _pulse(time: clock.SystemClock, stalls: list[float]) -> None:
    while True:
        began = time.monotonic()
        await time.sleep(_PULSE_SECONDS)
        stalls.append(time.monotonic() - began - _PULSE_SECONDS)
