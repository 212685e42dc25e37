"""Benchmark `runs`: how many five-step runs a second are drained, and what the engine adds to a step.

The action writes one line and nothing more, so that what is measured is the engine and the commits, flushed to disk as in
the product. All runs are stored first; then the replicas start, and the rate is taken from the first line to the last. On SQLite
one process; on PostgreSQL one, and two. Beside it DBOS Transact on SQLite drains the same in the same minutes, with as many at
once. `step_` figures are the time from one step to the next, in runs that are alone.
"""

import argparse
import asyncio
import dataclasses
import itertools
import logging
import os
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import process
from pathlib import Path

import structlog

from actions import api
from benchmarks import run_fleet, run_load, runner
from controlplane import clock as clocks
from controlplane.domain import plans
from controlplane.runs import config, engine
from controlplane.store import database as db

_NUM_STEPS = 5
_LONG_STEPS = 20
_LONG_RUNS = 20
_LIMIT_SECONDS = 180.0
# Their numbers, and so their keys, are no others'.
_FIRST_LONG = 1_000_000
_DBOS = Path("var/bench/bin/python")
_Lined = tuple[str, float]
_ADVICE = "DBOS is not measured: python3 -m venv var/bench && var/bench/bin/pip install -r requirements/bench.txt"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how many runs, and where DBOS is."""
    parser.add_argument("--runs", type=int, default=300, help="runs to drain for each figure (300)")
    parser.add_argument("--dbos", type=Path, default=_DBOS, help=f"interpreter that has DBOS ({_DBOS})")


def measure(context: runner.Context) -> dict[str, runner.Figure]:
    """Measure ours and the other, one after another."""
    num_runs, say = context.options.runs, context.say
    figures: dict[str, runner.Figure] = {"runs": num_runs, "steps": _NUM_STEPS}
    dbos = _measure_dbos(context.options.dbos, num_runs, say)
    sqlite, on_sqlite = _measure_ours(run_fleet.SQLITE, 1, num_runs, say)
    figures |= {"sqlite_per_s": sqlite, "dbos_sqlite_per_s": dbos["per_s"]}
    figures["dbos_ratio"] = round(sqlite / dbos["per_s"], 2) if dbos["per_s"] else None
    figures |= {f"sqlite_{name}": value for name, value in on_sqlite.items()}
    figures |= {f"dbos_sqlite_{name}": dbos[name] for name in on_sqlite}
    one, on_postgres = _measure_ours(run_fleet.POSTGRESQL, 1, num_runs, say)
    two, _ = _measure_ours(run_fleet.POSTGRESQL, 2, num_runs, say)
    figures |= {"postgres_per_s": one, "postgres_2_replicas_per_s": two}
    return figures | {f"postgres_{name}": value for name, value in on_postgres.items()}


@dataclass(frozen=True, slots=True)
class Orders:
    """What a draining process is told."""

    url: str
    log: Path
    name: str
    num_long: int = 0


class _Line:
    """The trivial action: one line with the time."""

    def __init__(self, log: Path, clock: clocks.SystemClock) -> None:
        self._file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._clock = clock

    @property
    def spec(self) -> api.ActionSpec:
        """Idempotent, and nothing else."""
        idempotent = plans.Reentry.IDEMPOTENT
        return api.ActionSpec("send", "A line.", idempotent, is_reversible=False, is_destructive=False, parameters={})

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Touch nothing."""
        del params, scope
        return plans.BlastRadius()

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Change nothing."""
        del params, scope
        return ()

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Write the line."""
        del params
        os.write(self._file, f"{context.idempotency_key} {self._clock.monotonic():.6f}\n".encode())
        return api.ActionResult("written")

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Never asked."""
        del params, context
        return api.CannotTell("nobody looks")

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Never asked."""
        del params, context
        return result


def drain(orders: Orders) -> None:
    """Be a process that drives whatever is due, or submits long runs one by one; ends when it is killed, or done."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    asyncio.run(_drain(orders))


async def _drain(orders: Orders) -> None:
    clock = clocks.SystemClock()
    database = db.Database(db.DatabaseSettings(orders.url), clock)
    ended: asyncio.Queue[str] = asyncio.Queue()
    driven = _make_engine(database, clock, orders, ended.put_nowait)
    await driven.start()
    for number in range(orders.num_long):
        run_id = await driven.submit(run_load.make_long_plan(_FIRST_LONG + number, "node-0", _LONG_STEPS))
        while await ended.get() != run_id:
            pass
    if not orders.num_long:
        await clock.sleep(_LIMIT_SECONDS)
    await driven.stop()
    database.close()


def _make_engine(
    database: db.Database, clock: clocks.SystemClock, orders: Orders, on_ended: Callable[[str], None]
) -> engine.RunEngine:
    async def follow_up(plan: plans.Plan, runbook: str, dedup_key: str) -> str:
        del plan, runbook
        return dedup_key

    rooms = run_load.Rooms(clock, orders.log.parent, 0.0)
    ports = rooms.ports({"send": _Line(orders.log, clock)}, follow_up)
    timed = dataclasses.replace(ports, on_ended=on_ended)
    return engine.RunEngine(database, timed, config.RunSettings(replica_name=orders.name))


async def _store_runs(url: str, folder: Path, num_runs: int) -> None:
    clock = clocks.SystemClock()
    database = db.Database(db.DatabaseSettings(url), clock)
    waiting = _make_engine(database, clock, Orders(url, folder / "nothing", "submitter"), lambda _: None)
    plans_ = [run_load.make_long_plan(number, f"node-{number}", _NUM_STEPS) for number in range(num_runs)]
    await asyncio.gather(*(waiting.submit(plan) for plan in plans_))
    database.close()


def _measure_ours(
    kind: str, num_replicas: int, num_runs: int, say: Callable[[str], None]
) -> tuple[float, dict[str, float]]:
    """Return runs a second, and the milliseconds of a step alone."""
    with run_fleet.placed(kind, is_durable=True) as place:
        server = run_fleet.start_server()
        asyncio.run(_store_runs(place.url, place.folder, num_runs))
        log = place.folder / "drained"
        names = [f"replica-{number}" for number in range(num_replicas)]
        drainers = [server.Process(target=drain, args=(Orders(place.url, log, name),)) for name in names]
        rate = _rate(_wait_for_lines(log, num_runs * _NUM_STEPS, drainers), num_runs)
        say(f"{kind}, {num_replicas} replicas: {rate} runs a second")
        alone = place.folder / "alone"
        orders = Orders(place.url, alone, "alone", _LONG_RUNS)
        lines = _wait_for_lines(alone, _LONG_RUNS * _LONG_STEPS, [server.Process(target=drain, args=(orders,))])
        return rate, _gaps(lines)


def _wait_for_lines(log: Path, count: int, drainers: Sequence[process.BaseProcess]) -> list[_Lined]:
    """Start the processes, kill them when `count` lines are there, and return these as (run, seconds)."""
    for one in drainers:
        one.start()
    clock = clocks.SystemClock()
    end = clock.monotonic() + _LIMIT_SECONDS
    while (not log.exists() or log.read_bytes().count(b"\n") < count) and clock.monotonic() < end:
        run_fleet.wait_any([], 0.1)
    for one in drainers:
        one.kill()
        one.join()
    lines = _read(log) if log.exists() else []
    if len(lines) < count:
        raise RuntimeError(f"only {len(lines)} of {count} steps were done within {_LIMIT_SECONDS:g} s")
    return lines


def _read(log: Path) -> list[_Lined]:
    pairs = (line.rsplit(" ", 1) for line in log.read_text(encoding="utf-8").splitlines())
    return [(key.split(":")[0], float(at)) for key, at in pairs]


def _rate(lines: Sequence[_Lined], num_runs: int) -> float:
    times = [at for _, at in lines]
    return round(num_runs / (max(times) - min(times)), 1)


def _gaps(lines: Sequence[_Lined]) -> dict[str, float]:
    by_run: dict[str, list[float]] = defaultdict(list)
    for run, at in lines:
        by_run[run].append(at)
    gaps = sorted((later - earlier) * 1000 for times in by_run.values() for earlier, later in itertools.pairwise(times))
    return {"step_p50_ms": round(statistics.median(gaps), 2), "step_p99_ms": round(gaps[int(len(gaps) * 0.99)], 2)}


def _measure_dbos(python: Path, num_runs: int, say: Callable[[str], None]) -> dict[str, float | None]:
    if not python.exists():
        say(_ADVICE)
        return {"per_s": None, "step_p50_ms": None, "step_p99_ms": None}
    with tempfile.TemporaryDirectory(prefix="dsctl-bench-") as folder:
        drained = _call_dbos(python, Path(folder), "drain", num_runs, _NUM_STEPS)
        rate = _rate(drained, num_runs)
        say(f"DBOS on SQLite: {rate} runs a second")
        return {"per_s": rate, **_gaps(_call_dbos(python, Path(folder), "steps", _LONG_RUNS, _LONG_STEPS))}


def _call_dbos(python: Path, folder: Path, mode: str, num_runs: int, num_steps: int) -> list[_Lined]:
    log = folder / mode
    program = Path(__file__).with_name("dbos_app.py")
    arguments = [f"sqlite:///{folder / mode}.db", str(log), mode, str(num_runs), str(num_steps)]
    command = [str(python), str(program), *arguments]
    done = subprocess.run(command, timeout=_LIMIT_SECONDS, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"DBOS failed: {done.stderr[-500:]}")
    return _read(log)
