"""Benchmark `takeover`: how long a run stands still when its replica dies, stops, sleeps or is started anew.

Real processes with the product's lease. On PostgreSQL the owner of a long run is killed at a random moment, and the time counts
until another replica's first step arrives at the target; a graceful stop is measured the same way. An owner that is paused
for longer than its lease is woken up after another has taken over, and what it still changes is counted. On SQLite the one
process is killed, and a fresh interpreter counts from its start to its first step.
"""

import argparse
import json
import random
import statistics
from collections.abc import Callable, Sequence
from multiprocessing import get_context

import sqlalchemy as sa

from benchmarks import run_fleet, run_worker, runner
from controlplane import clock as clocks
from controlplane.runs import config
from controlplane.store import tables

_NODE = "node-0"
# A run of some twenty seconds; who has done half of it is not killed any more.
_NUM_STEPS = 400
_DAWDLE_SECONDS = 0.02
_LOOK_SECONDS = 0.005
_LIMIT_SECONDS = 60.0
_PRODUCT = config.RunSettings()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how often it is tried."""
    parser.add_argument("--tries", type=int, default=20, help="kills of an owner on PostgreSQL (20)")
    parser.add_argument("--seed", type=int, default=1, help="decides when they strike (1)")


def measure(context: runner.Context) -> dict[str, runner.Figure]:
    """Measure all four."""
    tries, chance = context.options.tries, random.Random(context.options.seed)  # noqa: S311 - to be repeatable
    with run_fleet.placed(run_fleet.POSTGRESQL) as place:
        stage = _Stage(place, chance, context.say)
        try:
            killed = [stage.kill() for _ in range(tries)]
            stopped = [stage.stop() for _ in range(max(3, tries // 2))]
            late = sum(stage.pause() for _ in range(max(2, tries // 10)))
        finally:
            stage.close()
    restarted = _restart_on_sqlite(max(3, tries // 4), context.say)
    return {
        "lease_s": _PRODUCT.lease_seconds,
        "tries": len(killed),
        "takeover_p50_s": _median(killed),
        "takeover_max_s": round(max(killed), 2),
        "graceful_p50_s": _median(stopped),
        "graceful_max_s": round(max(stopped), 2),
        "late_changes": late,
        "sqlite_restart_p50_s": _median(restarted),
        "sqlite_restart_max_s": round(max(restarted), 2),
    }


def _median(seconds: Sequence[float]) -> float:
    return round(statistics.median(seconds), 2)


def _orders(place: run_fleet.Place, name: str) -> run_worker.Orders:
    return run_worker.Orders(
        place.url, place.folder, name, _PRODUCT.lease_seconds, _PRODUCT.poll_seconds, _DAWDLE_SECONDS
    )


class _Seen:
    """The tokens with which one run has arrived at the target; reads on from where it stopped."""

    def __init__(self, place: run_fleet.Place, run_id: str) -> None:
        self._run_id = run_id.encode()
        self._path = place.folder / "targets" / _NODE
        self._offset = 0
        self.tokens: list[int] = []

    def look(self) -> int:
        """Return the highest token that has arrived."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                news = file.read()
            whole = news[: news.rfind(b"\n") + 1]
            self._offset += len(whole)
            self.tokens += [json.loads(line)["token"] for line in whole.splitlines() if self._run_id in line]
        return max(self.tokens, default=0)


class _Stage:
    """Two replicas and one long run that one of them drives."""

    def __init__(self, place: run_fleet.Place, chance: random.Random, say: Callable[[str], None]) -> None:
        self._place, self._chance, self._say = place, chance, say
        self._clock = clocks.SystemClock()
        self._context = run_fleet.start_server()
        self._reader = place.reader()
        self._workers: dict[str, run_fleet.Worker] = {}
        self._num_born = 0
        self._num_runs = 0
        for _ in range(2):
            self._start()

    def kill(self) -> float:
        """Kill the owner and return the seconds until another's first step."""
        owner, run_id = self._wait_for_owner()
        run_fleet.wait_any([], self._chance.uniform(0.0, _PRODUCT.lease_seconds / 3))
        seen = _Seen(self._place, run_id)
        self._workers[owner].kill()
        began, token = self._clock.monotonic(), seen.look()
        took = self._wait_for_token(seen, token, began)
        self._replace(owner)
        self._say(f"killed: {took:.2f} s")
        return took

    def stop(self) -> float:
        """Stop the owner in order and return the seconds until another's first step."""
        owner, run_id = self._wait_for_owner()
        seen = _Seen(self._place, run_id)
        began, token = self._clock.monotonic(), seen.look()
        self._workers[owner].say("stop")
        took = self._wait_for_token(seen, token, began)
        self._workers[owner].join(_LIMIT_SECONDS)
        self._replace(owner)
        self._say(f"stopped: {took:.2f} s")
        return took

    def pause(self) -> int:
        """Pause the owner until another drives, wake it, and return how often it still acted or wrote."""
        owner, run_id = self._wait_for_owner()
        worker = self._workers[owner]
        worker.pause()
        seen = _Seen(self._place, run_id)
        token = seen.look()
        self._wait_for_token(seen, token, self._clock.monotonic())
        num_before = sum(one <= token for one in seen.tokens)
        worker.resume()
        run_fleet.wait_any([], _PRODUCT.lease_seconds / 2)
        seen.look()
        late = sum(one <= token for one in seen.tokens) - num_before + self._count_backwards()
        self._say(f"paused: {late} late changes")
        return late

    def _count_backwards(self) -> int:
        """Return how many events bear an older token than one before them."""
        event = tables.RUN_EVENT.c
        newest = sa.func.max(event.token).over(partition_by=event.run_id, order_by=event.number)
        ranked = sa.select(event.token, newest.label("newest")).subquery()
        query = sa.select(sa.func.count()).select_from(ranked).where(ranked.c.token < ranked.c.newest)
        with self._reader.connect() as connection:
            return connection.execute(query).scalar_one()

    def close(self) -> None:
        """End everything."""
        for worker in self._workers.values():
            worker.kill()
        self._reader.dispose()

    def _start(self) -> None:
        self._num_born += 1
        name = f"replica-{self._num_born}"
        worker = run_fleet.Worker(self._context, _orders(self._place, name))
        if not worker.wait_for("ready", self._clock, _LIMIT_SECONDS):
            raise RuntimeError(f"{name} did not start")
        self._workers[name] = worker

    def _replace(self, name: str) -> None:
        self._workers.pop(name).close()
        self._start()

    def _wait_for_owner(self) -> tuple[str, str]:
        """Return the name of the replica that drives a run now, and the run; a new one is begun when none is left."""
        end = self._clock.monotonic() + _LIMIT_SECONDS
        while self._clock.monotonic() < end:
            with self._reader.connect() as connection:
                is_young = sa.and_(tables.RUN.c.state == "running", tables.RUN.c.step < _NUM_STEPS // 2)
                row = connection.execute(sa.select(tables.RUN.c.owner, tables.RUN.c.id).where(is_young)).first()
                is_open = connection.execute(sa.select(tables.RUN.c.id).where(tables.RUN.c.ended_at.is_(None))).first()
            name = row.owner.split("/")[0] if row is not None else ""
            if row is not None and name in self._workers:
                return name, row.id
            if is_open is None:
                self._submit()
            run_fleet.wait_any([], 0.05)
        raise RuntimeError("nobody drives the run")

    def _submit(self) -> None:
        self._num_runs += 1
        next(iter(self._workers.values())).say("submit", self._num_runs, _NODE, _NUM_STEPS)
        run_fleet.wait_any([], 0.5)

    def _wait_for_token(self, seen: _Seen, token: int, began: float) -> float:
        while seen.look() <= token:
            if self._clock.monotonic() - began > _LIMIT_SECONDS:
                raise RuntimeError("nobody has taken over")
            run_fleet.wait_any([], _LOOK_SECONDS)
        return self._clock.monotonic() - began


def _wait_for_id(worker: run_fleet.Worker, clock: clocks.SystemClock) -> str:
    end = clock.monotonic() + _LIMIT_SECONDS
    while clock.monotonic() < end:
        heard = worker.hear(1.0)
        if heard is not None and heard[0] == "accepted":
            return str(heard[2])
    raise RuntimeError("the run was not accepted")


def _restart_on_sqlite(tries: int, say: Callable[[str], None]) -> list[float]:
    clock, fresh = clocks.SystemClock(), get_context("spawn")
    taken: list[float] = []
    with run_fleet.placed(run_fleet.SQLITE) as place:
        worker = run_fleet.Worker(fresh, _orders(place, "only"))
        worker.wait_for("ready", clock, _LIMIT_SECONDS)
        worker.say("submit", 0, _NODE, _NUM_STEPS)
        run_id = _wait_for_id(worker, clock)
        for _ in range(tries):
            run_fleet.wait_any([], 0.3)
            worker.kill()
            seen = _Seen(place, run_id)
            token, began = seen.look(), clock.monotonic()
            worker = run_fleet.Worker(fresh, _orders(place, "only"))
            while seen.look() <= token and clock.monotonic() - began < _LIMIT_SECONDS:
                run_fleet.wait_any([], _LOOK_SECONDS)
            taken.append(clock.monotonic() - began)
            say(f"restarted on SQLite: {taken[-1]:.2f} s")
        worker.kill()
    return taken
