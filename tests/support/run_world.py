"""Several replicas of the run engine in one process, on a clock that tests move, with an outside that remembers.

Each replica is paused, killed and resumed by hand; what an operating system does to threads, a gate does here: a replica's
dealings with the outside pass it, and wait at it while the replica is paused. Judged by the same oracle as the real processes
of the crash benchmark. Used by the state machine and the mutation checks.
"""

import asyncio
import contextlib
import random
import shutil
from collections.abc import AsyncGenerator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from benchmarks import run_load, run_oracle, run_target
from controlplane.domain import errors, plans
from controlplane.runs import config, engine
from controlplane.store import database as db
from tests.support import clock as clocks
from tests.support import store as stores

T = TypeVar("T")
LEASE_SECONDS = 6.0
NAMES = ("a", "b", "c")
TARGETS = ("node-1", "node-2", "node-3")
# A task that neither ends nor meets its gate within this long is a defect of the world, not of the engine.
_PATIENCE_SECONDS = 10.0


class SharedDatabase(db.Database):
    """A SQLite file that several replicas share as they would share a server: nobody is proven to be alone.

    After `num_told` answers to writes the next is lost on the way: it is committed, and the caller hears that it was not.
    """

    num_told: int | None = None

    @property
    def is_exclusive(self) -> bool:
        return False

    def now(self, connection: sa.Connection) -> datetime:
        del connection
        return self._clock.now()

    async def write(self, work: db.Work[T]) -> T:
        answer = await super().write(work)
        if self.num_told is None:
            return answer
        self.num_told -= 1
        if self.num_told < 0:
            self.num_told = None
            raise errors.RetryLaterError("the answer was lost")
        return answer


class Gate:
    """A replica's clock; where the outside takes its time, the replica may be held."""

    def __init__(self, clock: clocks.FakeClock) -> None:
        self._clock = clock
        self._left: int | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        del seconds
        if self._left is None:
            return
        if self._left > 0:
            self._left -= 1
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def hold_after(self, passers: int) -> None:
        self._left = passers

    def open(self) -> None:
        self._left = None
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()


class Replica:
    """One engine that is stepped by hand."""

    def __init__(self, world: "World", name: str) -> None:
        self.name = name
        self.gate = Gate(world.clock)
        self.is_paused = False
        self._world = world
        self._beaten = world.clock.monotonic()
        rooms = run_load.Rooms(self.gate, world.folder, 1.0)
        settings = config.RunSettings(
            replica_name=name,
            lease_seconds=LEASE_SECONDS,
            max_reentries=1000,
            wait_poll_seconds=0.5,
            retry_seconds=0.5,
        )
        actions = run_load.make_actions(world.target, self.gate, 1.0)
        self.engine = engine.RunEngine(world.database, rooms.ports(actions, self._follow_up), settings)

    async def _follow_up(self, plan: plans.Plan, runbook: str, dedup_key: str) -> str:
        del runbook
        return await self.engine.submit(run_load.make_follow_up(plan, dedup_key))

    async def play(self) -> None:
        """Do what is due, until nothing is left to do or everything waits at the gate."""
        while not self.is_paused and await self.engine.claim_due():
            await self._settle()

    async def _settle(self) -> None:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while len(self.engine._tasks) > self.gate.num_waiting:
                await asyncio.wait(set(self.engine._tasks), timeout=0.002, return_when=asyncio.FIRST_COMPLETED)

    async def beat(self) -> None:
        """Renew the lease, as its thread would."""
        self._beaten = self._world.clock.monotonic()
        if not self.engine.is_gone:
            await asyncio.to_thread(self.engine._member.beat)
            if self.engine.is_gone:
                self.engine._on_gone()

    async def beat_if_due(self) -> None:
        if not self.is_paused and self._world.clock.monotonic() - self._beaten >= LEASE_SECONDS / 3:
            await self.beat()

    async def resume(self, *, beats_first: bool) -> None:
        """Wake up late: either the heartbeat's thread comes first, or the others."""
        self.is_paused = False
        if beats_first:
            await self.beat()
        self.gate.open()
        await self._settle()
        if not beats_first:
            await self.beat()

    async def die(self) -> None:
        """Lose everything that was only in memory."""
        tasks = list(self.engine._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class World:
    """The replicas, the database they share, and what was promised so far."""

    def __init__(self, folder: Path) -> None:
        shutil.copyfile(stores._migrated_template(), folder / "dsctl.db")
        self.folder = folder
        self.clock = clocks.FakeClock()
        self.target = run_target.Target(folder / "targets")
        self.database = SharedDatabase(db.DatabaseSettings(stores.sqlite_url(folder)), self.clock)
        self.accepted: list[str] = []
        self.replicas: dict[str, Replica] = {}
        self.replaced: list[Replica] = []
        self._num_submitted = 0

    async def start(self, name: str) -> None:
        """Start a replica, or its successor: whoever had the name is fenced."""
        born = Replica(self, name)
        await born.engine._member.join()
        self.replicas[name] = born

    async def replace(self, name: str) -> None:
        """Start a successor while the replica still lives, awake or not."""
        self.replaced.append(self.replicas[name])
        await self.start(name)

    async def submit(self, name: str, target: str) -> None:
        plan = run_load.make_plan(self._num_submitted, target)
        with contextlib.suppress(errors.ConflictError):
            self.accepted.append(await self.replicas[name].engine.submit(plan))
            self._num_submitted += 1

    async def cancel(self, name: str, index: int) -> None:
        if self.accepted:
            await self.replicas[name].engine.cancel(self.accepted[index % len(self.accepted)], "tester")

    async def play(self, name: str) -> None:
        await self.replicas[name].play()

    async def pause(self, name: str, passers: int) -> None:
        """Play until `passers` have passed the gate, then hold the replica wherever it stands."""
        replica = self.replicas[name]
        replica.gate.hold_after(passers)
        await replica.play()
        replica.is_paused = True

    async def resume(self, name: str, *, beats_first: bool) -> None:
        await self.replicas[name].resume(beats_first=beats_first)

    async def kill(self, name: str, passers: int) -> None:
        """Kill a replica somewhere on its way, and start it again."""
        replica = self.replicas[name]
        if not replica.is_paused:
            replica.gate.hold_after(passers)
            await replica.play()
        await replica.die()
        await self.start(name)

    async def claim_and_die(self, name: str) -> None:
        """Kill it right after a claim is committed."""
        dying = self.replicas[name].engine
        await self.database.write(lambda connection: dying._claim(connection, 2))
        await self.replicas[name].die()
        await self.start(name)

    async def move(self, seconds: float) -> None:
        """Let time pass; those who are awake renew their leases meanwhile."""
        left = seconds
        while left > 0:
            self.clock.move(min(left, LEASE_SECONDS / 3))
            left -= LEASE_SECONDS / 3
            for replica in (*self.replicas.values(), *self.replaced):
                await replica.beat_if_due()

    async def oversleep(self, name: str, passers: int, *, beats_first: bool) -> None:
        """Pause a replica in the midst of its work, let the others take over and go on, and wake it late."""
        await self.pause(name, passers)
        await self.move(1.5 * LEASE_SECONDS)
        for other in NAMES:
            await self.play(other)
        await self.resume(name, beats_first=beats_first)

    async def contend(self, name: str, passers: int, heir: str, heirs_passers: int, *, beats_first: bool) -> None:
        """Pause a replica, have another take over and stop in the midst of it, wake the first, and then the other."""
        await self.pause(name, passers)
        await self.move(1.5 * LEASE_SECONDS)
        await self.pause(heir, heirs_passers)
        await self.resume(name, beats_first=beats_first)
        await self.resume(heir, beats_first=beats_first)

    async def outlive(self, name: str, passers: int, heir: str) -> None:
        """Start a successor while the replica is in the midst of its work: its runs go to others, and it does not know yet."""
        await self.pause(name, passers)
        replaced = self.replicas[name]
        await self.replace(name)
        await self.play(heir)
        await replaced.resume(beats_first=False)

    async def stall(self, name: str, passers: int) -> None:
        """Block a replica's event loop after a claim, for two heartbeats: the same replica claims the same runs again."""
        replica = self.replicas[name]
        if replica.is_paused:
            return
        claims = await self.database.write(lambda connection: replica.engine._claim(connection, 2))
        await replica.beat()
        await replica.beat()
        replica.gate.hold_after(passers)
        await replica.play()
        for claim in claims:
            replica.engine._begin(claim)
        await replica._settle()
        replica.gate.open()
        await replica._settle()

    async def play_losing(self, name: str, num_told: int) -> None:
        """Play while an answer of the database is lost: that to a claim, or to a later commit."""
        self.database.num_told = num_told
        with contextlib.suppress(errors.RetryLaterError):
            await self.play(name)
        self.database.num_told = None
        await self.replicas[name]._settle()

    async def call_slowly(self, name: str, heir: str) -> None:
        """Let a call take so long that the run is lost, taken by another who dies at once, and claimed here anew."""
        await self.pause(name, 1)
        await self.move(1.5 * LEASE_SECONDS)
        await self.claim_and_die(heir)
        replica = self.replicas[name]
        replica.is_paused = False
        await replica.beat()
        await replica.play()
        replica.gate.open()
        await replica._settle()

    async def judge(self, *, is_over: bool = False) -> run_oracle.Verdict:
        log = await self.database.read(run_oracle.read)
        verdict = run_oracle.judge(log, self.target.arrivals(), self.accepted, is_over=is_over)
        for target, count in await self.database.read(run_oracle.find_shared_targets):
            verdict.blame("over_slot", f"{count} runs hold {target}")
        return verdict

    async def finish(self) -> run_oracle.Verdict:
        """Wake everybody, let all end, and judge."""
        for replica in (*self.replicas.values(), *self.replaced):
            if replica.is_paused:
                await replica.resume(beats_first=True)
        for _ in range(400):
            for name in list(self.replicas):
                await self.play(name)
            if not await self.database.read(run_oracle.count_open):
                break
            await self.move(1.0)
        return await self.judge(is_over=True)

    async def close(self) -> None:
        for replica in (*self.replicas.values(), *self.replaced):
            await replica.die()
        await asyncio.to_thread(self.database.close)

    async def rehearse(self, number: int) -> None:
        """Go through one of the situations that chance alone meets too seldom."""
        first, second, third = NAMES
        for target in TARGETS:
            await self.submit(first, target)
        situations = (
            lambda: self.call_slowly(first, second),
            lambda: self.outlive(first, 0, second),
            lambda: self.oversleep(first, 0, beats_first=True),
            lambda: self.contend(first, 1, third, 0, beats_first=True),
            lambda: self.stall(first, 1),
            lambda: self.play_losing(first, 2),
        )
        await situations[number % len(situations)]()

    async def walk(self, chance: random.Random, num_steps: int) -> None:
        """Do anything, by chance."""
        for _ in range(num_steps):
            await self._do_something(chance)

    async def _do_something(self, chance: random.Random) -> None:
        name, heir = chance.sample(NAMES, 2)
        target, seconds = chance.choice(TARGETS), chance.choice((0.5, 2.0, 9.0))
        first, second, is_first = chance.randrange(4), chance.randrange(4), chance.random() < 0.5
        what = chance.choice(
            (
                lambda: self.submit(name, target),
                lambda: self.submit(name, target),
                lambda: self.play(name),
                lambda: self.move(seconds),
                lambda: self.pause(name, first),
                lambda: self.resume(name, beats_first=is_first),
                lambda: self.oversleep(name, first, beats_first=is_first),
                lambda: self.contend(name, first, heir, second, beats_first=is_first),
                lambda: self.outlive(name, first, heir),
                lambda: self.stall(name, first),
                lambda: self.play_losing(name, first),
                lambda: self.call_slowly(name, heir),
                lambda: self.kill(name, first),
                lambda: self.claim_and_die(name),
                lambda: self.cancel(name, first),
            )
        )
        await what()


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[World]:
    """A world with three replicas."""
    world = World(folder)
    try:
        for name in NAMES:
            await world.start(name)
        yield world
    finally:
        await world.close()
