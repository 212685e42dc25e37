"""Benchmark `approvals`: what a thousand runs that wait for people cost, and how soon an answer is followed.

One process with the real engine on SQLite takes in runs that ask first, each on a target of its own, and is measured while
they wait: threads, asyncio tasks, memory, processor time of doing nothing, each also before the first of them. Some are
answered, one after the other: from the answer to the call of the next step's action. Then the process kills itself with a
run in its queue, and another goes on: from its start (the interpreter's, imports included) until the engine is live,
and until that run acts. Guard and notifier answer at once, so that nothing but the engine is measured.
"""

import argparse
import asyncio
import ctypes
import dataclasses
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import cast

import sqlalchemy as sa

from actions import api
from benchmarks import run_load, run_target, runner
from controlplane import clock as clocks
from controlplane.domain import plans
from controlplane.runs import config, engine
from controlplane.store import database as db
from controlplane.store import house, tables

# So many runs have ended, and so many wait, before anything is measured: by then the page caches of the database's
# connections (2 MB each), the pools of threads and the allocator have grown to what a process at work has anyway.
_ENDED = 500
_WARM = 32
_IDLE_SECONDS = 10.0
_LEASE_SECONDS = 6.0
_AT_ONCE = 50
_GIVE_UP_SECONDS = 120.0
_KILLED = -signal.SIGKILL
_MARK = "figures "
_QUEUED_NODE = "left-in-the-queue"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how many runs wait, and how many of them are answered."""
    parser.add_argument("--waiting", type=int, default=1000, help="how many runs wait for people (1000)")
    parser.add_argument("--answers", type=int, default=50, help="how many of them are answered before the kill (50)")


def measure(context: runner.Context) -> dict[str, runner.Figure]:
    """Let one process wait and die, and another go on."""
    options = context.options
    with tempfile.TemporaryDirectory(prefix="dsctl-approvals-") as folder:
        first, status = _run(folder, "wait", options.waiting, options.answers)
        if status != _KILLED:
            raise RuntimeError(f"the first process ended with status {status} instead of killing itself")
        context.say(f"{options.waiting} runs waited; killed, starting again")
        started = clocks.SystemClock().monotonic()
        second, _ = _run(folder, "go-on", options.waiting, options.answers)
    live_at, acted_at = float(second.pop("live_at")), float(second.pop("acted_at"))
    return {
        "waiting": options.waiting,
        **first,
        **{f"restarted_{name}": figure for name, figure in second.items()},
        "restart_live_s": round(live_at - started, 3),
        "restart_step_s": round(acted_at - started, 3),
    }


def _run(folder: str, phase: str, waiting: int, answers: int) -> tuple[dict[str, float], int]:
    """Run one phase in a process of its own; return its figures and its exit status."""
    command = [sys.executable, "-m", "benchmarks.approvals", folder, phase, str(waiting), str(answers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=20 * _GIVE_UP_SECONDS)
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if not lines:
        raise RuntimeError(f"the phase {phase} ended with status {done.returncode} and told nothing")
    return cast("dict[str, float]", json.loads(lines[-1].removeprefix(_MARK))), done.returncode


class _Acting(run_load.TargetAction):
    """The one action: notes when it is called for which node."""

    def __init__(self, clock: clocks.SystemClock, folder: Path) -> None:
        super().__init__("note", plans.Reentry.IDEMPOTENT, run_target.Target(folder), clock, 0.0)
        self.called_at: dict[str, float] = {}
        self.news = asyncio.Event()

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Note it."""
        del params
        self.called_at[context.scope.node] = self._clock.monotonic()
        self.news.set()
        return api.ActionResult("noted")


class _Callers:
    """Hears of every call for approval."""

    def __init__(self) -> None:
        self.num_called = 0

    async def ask(self, run_id: str, service: str, node: str, to: str, sentence: str, until: datetime) -> None:
        """Count it."""
        del run_id, service, node, to, sentence, until
        self.num_called += 1


def make_plan(node: str, *, asks: bool = True) -> plans.Plan:
    """Return a plan as policies make them: a step that asks, one that acts, a few kilobytes of runbook."""
    act = plans.PlannedStep("act", plans.StepKind.ACTION, 30.0, "note", {"tier": "l1"})
    ask = plans.PlannedStep("approval", plans.StepKind.APPROVAL, 3600.0, prompt=f"May policy cache run on {node}?")
    return plans.Plan(
        id=f"plan-{node}",
        created_at=clocks.SystemClock().now(),
        request=plans.PlanRequest("flush-cache", "chat", node, "policy:cache", reason="wrong answers"),
        runbook_digest="sha256:runbook",
        runbook_source="# a line of a runbook, as long as they usually are, with its comment\n" * 30,
        steps=(ask, act) if asks else (act,),
        changes=(plans.Change(f"chat/{node}", "cache entries", 812, 0),),
        blast=plans.BlastRadius(touched=(node,)),
        verify=None,
        on_failure=(plans.FailureEdge(plans.EdgeKind.ESCALATE, "oncall"),),
        hash=f"hash-{node}",
    )


async def _follow_nothing(plan: plans.Plan, runbook: str, dedup_key: str) -> str:
    del plan, runbook, dedup_key
    return ""


@dataclass
class _Process:
    """One process: the store and the engine."""

    folder: Path
    clock: clocks.SystemClock = field(default_factory=clocks.SystemClock)

    def __post_init__(self) -> None:
        self.store = house.open_house(db.DatabaseSettings(f"sqlite:///{self.folder / 'dsctl.db'}"), self.clock)
        self.acting = _Acting(self.clock, self.folder)
        self.callers = _Callers()
        rooms = run_load.Rooms(self.clock, self.folder, 0.0).ports({"note": self.acting}, _follow_nothing)
        ports = dataclasses.replace(rooms, asker=self.callers)
        settings = config.RunSettings(replica_name="approvals", lease_seconds=_LEASE_SECONDS)
        self.engine = engine.RunEngine(self.store.database, ports, settings)

    async def fill(self, first: int, last: int) -> None:
        """Submit runs that ask, and wait until all of them do and people were told of each."""
        for start in range(first, last, _AT_ONCE):
            names = [f"node-{number}" for number in range(start, min(start + _AT_ONCE, last))]
            await asyncio.gather(*(self.engine.submit(make_plan(name)) for name in names))
        deadline = self.clock.monotonic() + _GIVE_UP_SECONDS
        while self.callers.num_called < last or await self.num_asking() < last:
            if self.clock.monotonic() > deadline:
                raise RuntimeError(f"after {_GIVE_UP_SECONDS:g} s not all of {last} runs wait")
            await self.clock.sleep(0.1)

    async def work(self, number: int) -> None:
        """Let so many runs that ask nobody come to their end."""
        for start in range(0, number, _AT_ONCE):
            names = [f"worked-{one}" for one in range(start, min(start + _AT_ONCE, number))]
            await asyncio.gather(*(self.engine.submit(make_plan(name, asks=False)) for name in names))
            await asyncio.gather(*(self.acted(name) for name in names))

    async def num_asking(self) -> int:
        """Return how many runs wait for people; counted, since reading them would fill the store's memory."""
        count = sa.select(sa.func.count()).where(tables.RUN.c.awaits.is_not(None))
        return await self.store.database.read(lambda connection: connection.execute(count).scalar_one())

    async def standing(self) -> dict[str, float]:
        """Return threads, tasks, memory, and the share of a core that doing nothing takes."""
        await self.clock.sleep(1.0)
        gc.collect()
        peak, size = _resident_bytes(), _held_bytes()
        used, began = sum(os.times()[:2]), self.clock.monotonic()
        await self.clock.sleep(_IDLE_SECONDS)
        idle_ratio = (sum(os.times()[:2]) - used) / (self.clock.monotonic() - began)
        tasks = len(asyncio.all_tasks())
        return {
            "threads": threading.active_count(),
            "tasks": tasks,
            "objects": len(gc.get_objects()),
            "rss": size,
            "rss_untrimmed": peak,
            "idle_cpu": round(idle_ratio, 4),
        }

    async def read_mb(self) -> float:
        """Read every unfinished run, as each tick and each guard do, and return what is kept of it in memory."""
        before = _held_bytes()
        await self.store.runs.find(state="unfinished", limit=1000)
        return round((_held_bytes() - before) / 1e6, 2)

    async def answer(self, number: int) -> float:
        """Approve one run and return the seconds until its next step acts."""
        node = f"node-{number}"
        query = sa.select(tables.RUN.c.id).where(tables.RUN.c.node == node)
        run_id = await self.store.database.read(lambda connection: connection.execute(query).scalar_one())
        began = self.clock.monotonic()
        await self.engine.answer(run_id, "anna", is_approved=True, reason="seen", plan_hash=f"hash-{node}")
        return await self.acted(node) - began

    async def acted(self, node: str) -> float:
        """Return when the action was called for a node."""
        async with asyncio.timeout(_GIVE_UP_SECONDS):
            while node not in self.acting.called_at:
                self.acting.news.clear()
                await self.acting.news.wait()
        return self.acting.called_at[node]


async def _wait(folder: Path, waiting: int, answers: int) -> None:
    """Be the process that takes the runs in, and dies."""
    process = _Process(folder)
    await process.engine.start()
    await process.work(_ENDED)
    await process.fill(0, _WARM)
    before = await process.standing()
    await process.fill(_WARM, waiting)
    after = await process.standing()
    taken = [await process.answer(number) for number in range(answers)]
    read = {"rss_read_mb": await process.read_mb()}
    _tell(_compared(before, after) | read | _answers(taken))
    await process.engine.submit(make_plan(_QUEUED_NODE, asks=False))
    os.kill(os.getpid(), signal.SIGKILL)


async def _go_on(folder: Path, answers: int) -> None:
    """Be the process that comes after it."""
    process = _Process(folder)
    await process.engine.start()
    live_at = process.clock.monotonic()
    acted_at = await process.acted(_QUEUED_NODE)
    standing = await process.standing()
    taken = [await process.answer(number) for number in range(answers, 2 * answers)]
    names = ("threads", "tasks", "idle_cpu")
    _tell({"live_at": live_at, "acted_at": acted_at} | {one: standing[one] for one in names} | _answers(taken))
    await process.engine.stop()
    process.store.close()


def _compared(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {
        "threads": after["threads"],
        "threads_added": after["threads"] - before["threads"],
        "tasks": after["tasks"],
        "tasks_added": after["tasks"] - before["tasks"],
        "objects_added": after["objects"] - before["objects"],
        "rss_added_mb": round((after["rss"] - before["rss"]) / 1e6, 2),
        "rss_untrimmed_added_mb": round((after["rss_untrimmed"] - before["rss_untrimmed"]) / 1e6, 2),
        "idle_cpu_ratio_before": before["idle_cpu"],
        "idle_cpu_ratio": after["idle_cpu"],
    }


def _answers(taken: list[float]) -> dict[str, float]:
    return {"answer_p50_s": round(statistics.median(taken), 4), "answer_max_s": round(max(taken), 4)}


def _resident_bytes() -> int:
    """Return how much memory this process has in use."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _held_bytes() -> int:
    """Return the same once the allocator has given back what nobody holds: a burst leaves its high-water mark behind."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; elsewhere the two figures are one
    if trim is not None:
        trim(0)
    return _resident_bytes()


def _tell(figures: Mapping[str, float]) -> None:
    sys.stdout.write(_MARK + json.dumps(figures) + "\n")
    sys.stdout.flush()


def main(folder: str, phase: str, waiting: str, answers: str) -> None:
    """Be one of the two processes."""
    if phase == "wait":
        asyncio.run(_wait(Path(folder), int(waiting), int(answers)))
    else:
        asyncio.run(_go_on(Path(folder), int(answers)))


if __name__ == "__main__":
    main(*sys.argv[1:])
