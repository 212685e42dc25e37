"""The one that strikes: starts, kills, pauses and disturbs the workers of the benchmark `crash`, and asks the oracle at the end.

One thread. Whatever is due later lies in a heap; between two entries it listens to the workers. The seed decides what is done
to whom.
"""

import contextlib
import heapq
import itertools
import random
import resource
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import exc

from benchmarks import run_fleet, run_oracle, run_target, run_worker, runner
from controlplane import clock as clocks
from controlplane.runs import failpoints

_TARGETS = 6
_NUM_REPLICAS = {run_fleet.SQLITE: 1, run_fleet.POSTGRESQL: 3}
# Alone, nobody waits for the end of a lease; a pause only has to be longer.
_LEASE_SECONDS = {run_fleet.SQLITE: 1.0, run_fleet.POSTGRESQL: 2.0}
# A life: this long at most before it is killed, if no fail point came before.
_LIFE_SECONDS = 0.7
_SUBMIT_SECONDS = 0.06
_SAMPLE_SECONDS = 0.3
_DISTURB_SECONDS = 1.2
_STOP_SECONDS = 10.0
_ENDING_SECONDS = 90.0
_TICK_SECONDS = 0.05
# One life in so many ends at a fail point; the others at a random moment.
_FAIL_POINT_RATIO = 0.6
_CANCEL_RATIO = 0.05
_SKEWS_SECONDS = (3600.0, -3600.0, -5.0)


@dataclass
class Report:
    """What was done, and the verdict."""

    database: str
    seed: int
    kills: int = 0
    runs: int = 0
    finished: int = 0
    seconds: float = 0.0
    slowest_end: float = 0.0
    done: Counter[str] = field(default_factory=Counter[str])
    verdict: run_oracle.Verdict = field(default_factory=run_oracle.Verdict)

    def figures(self) -> dict[str, runner.Figure]:
        """Return them for the JSON line."""
        by_kind: dict[str, runner.Figure] = dict(sorted(self.done.items()))
        counts: dict[str, runner.Figure] = dict(self.verdict.counts())
        return {
            "database": self.database,
            "seed": self.seed,
            "kills": self.kills,
            "runs": self.runs,
            **counts,
            "seconds": round(self.seconds, 1),
            "until_quiet_s": round(self.slowest_end, 1),
            "by_kind": by_kind,
        }


class Harness:
    """Harasses the workers of one place. Use `run` once."""

    def __init__(
        self, place: run_fleet.Place, kind: str, num_kills: int, seed: int, say: Callable[[str], None]
    ) -> None:
        self._place, self._num_kills, self._say = place, num_kills, say
        self._clock = clocks.SystemClock()
        self._chance = random.Random(seed)  # noqa: S311 - to be repeatable, not secret
        self._report = Report(kind, seed)
        self._lease = _LEASE_SECONDS[kind]
        self._context = run_fleet.start_server()
        self._reader = place.reader()
        self._workers: dict[str, run_fleet.Worker] = {}
        self._born: dict[str, int] = {}
        self._paused: set[str] = set()
        self._old: list[run_fleet.Worker] = []
        self._gone: set[str] = set()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._counting = itertools.count()
        self._numbers = itertools.count()
        self._unanswered: dict[str, tuple[int, str]] = {}
        self._again: list[tuple[int, str]] = []
        self._accepted: list[str] = []
        self._is_calm = False
        self._folder = place.folder

    def run(self) -> Report:
        """Strike until enough have died, then wait for quiet, and judge."""
        began = self._clock.monotonic()
        try:
            for number in range(_NUM_REPLICAS[self._report.database]):
                self._start(f"replica-{number}")
            self._later(_SAMPLE_SECONDS, self._sample)
            self._later(_DISTURB_SECONDS, self._disturb)
            while self._report.kills < self._num_kills:
                self._turn()
            self._calm_down()
            quiet = self._clock.monotonic()
            self._wait_for_quiet()
            self._report.slowest_end = self._clock.monotonic() - quiet
            self._stop_all()
            self._judge()
        finally:
            for worker in (*self._workers.values(), *self._old):
                worker.resume()
                worker.kill()
            self._reader.dispose()
        self._report.seconds = self._clock.monotonic() - began
        return self._report

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self._clock.monotonic() + seconds, next(self._counting), what))

    def _turn(self) -> None:
        """Wait for whatever comes first: an answer, a death, or something that is due."""
        things: list[object] = [worker.pipe for worker in self._workers.values()]
        things += [worker.sentinel for worker in self._workers.values()]
        left = self._due[0][0] - self._clock.monotonic() if self._due else _TICK_SECONDS
        run_fleet.wait_any(things, min(left, _TICK_SECONDS))
        for name in list(self._workers):
            self._listen(name)
        while self._due and self._due[0][0] <= self._clock.monotonic():
            heapq.heappop(self._due)[2]()

    # Lives and deaths.

    def _start(self, name: str) -> None:
        self._born[name] = next(self._counting)
        orders = run_worker.Orders(self._place.url, self._folder, name, self._lease, failpoint=self._fate())
        self._workers[name] = run_fleet.Worker(self._context, orders)

    def _fate(self) -> str:
        if self._is_calm or self._chance.random() > _FAIL_POINT_RATIO:
            return ""
        return f"{self._chance.choice(list(failpoints.Point))}:{self._chance.randint(1, 4)}"

    def _on_ready(self, name: str) -> None:
        life, seconds = self._born[name], self._chance.uniform(0.0, _LIFE_SECONDS)
        if self._workers[name].orders.failpoint:
            seconds += _LIFE_SECONDS
        self._later(seconds, lambda: self._end_life(name, life))
        self._later(0.0, lambda: self._submit(name, life))

    def _is_current(self, name: str, life: int) -> bool:
        return name in self._workers and self._born[name] == life

    def _end_life(self, name: str, life: int) -> None:
        if self._is_calm or not self._is_current(name, life) or name in self._paused:
            return
        if self._report.kills < self._num_kills:
            self._workers[name].kill()
            self._bury(name, "random moment")

    def _bury(self, name: str, how: str, *, is_kill: bool = True) -> None:
        worker = self._workers.pop(name)
        while (heard := worker.hear()) is not None:
            if heard[0] == "accepted":
                self._on_answer(name, "accepted", list(heard[1:]))
        worker.close()
        if name in self._unanswered:
            # Nobody knows whether it is stored: it is asked for again under its key, as a client would.
            self._again.append(self._unanswered.pop(name))
        self._count(how, is_kill=is_kill)
        # With replicas beside it, a dead one is sometimes left dead until its lease has run out.
        if not self._is_calm and len(self._workers) > 1 and self._chance.random() < 0.1:  # noqa: PLR2004 - a chance
            self._count("left dead")
            self._later(1.5 * self._lease, lambda: self._start(name))
            return
        self._start(name)

    def _count(self, how: str, *, is_kill: bool = False) -> None:
        self._report.done[how] += 1
        self._report.kills += is_kill
        if is_kill and self._report.kills % 50 == 0:
            self._say(f"{self._report.kills} kills, {len(self._accepted)} runs accepted")

    # What workers say, and what they are asked.

    def _listen(self, name: str) -> None:
        worker = self._workers[name]
        while (heard := worker.hear()) is not None:
            self._take(name, heard)
        if not worker.is_alive:
            self._on_death(name)

    def _take(self, name: str, heard: tuple[object, ...]) -> None:
        word, *rest = heard
        if word == "ready":
            self._on_ready(name)
        elif word == "gone":
            self._on_gone(name)
        elif word in {"accepted", "busy", "refused"}:
            self._on_answer(name, str(word), rest)

    def _on_gone(self, name: str) -> None:
        """It gave way to an elder of its name, which had been held up at its own start; without one that is a defect."""
        self._gone.add(name)
        if not any(old.orders.name == name for old in self._old):
            self._report.verdict.blame("lost", f"{name} gave its name up to nobody")

    def _on_answer(self, name: str, word: str, rest: list[object]) -> None:
        asked = self._unanswered.pop(name, None)
        if word == "accepted":
            self._accepted.append(str(rest[1]))
            if name in self._workers and self._chance.random() < _CANCEL_RATIO:
                self._workers[name].say("cancel", str(rest[1]))
                self._count("cancel asked")
        elif word == "refused" and asked is not None:
            self._count("submission refused")
            self._again.append(asked)
        if name in self._workers:
            life = self._born[name]
            self._later(_SUBMIT_SECONDS, lambda: self._submit(name, life))

    def _submit(self, name: str, life: int) -> None:
        if not self._is_current(name, life) or name in self._unanswered or (self._is_calm and not self._again):
            return
        number = self._again.pop() if self._again else (next(self._numbers), f"node-{self._chance.randrange(_TARGETS)}")
        self._unanswered[name] = number
        self._workers[name].say("submit", *number)

    def _on_death(self, name: str) -> None:
        """It has ended by itself: at its fail point, or by a defect that must not look like a kill."""
        armed = self._workers[name].orders.failpoint
        if name in self._gone:
            self._gone.discard(name)
            self._bury(name, "gave way to an elder", is_kill=False)
            return
        self._bury(name, f"fail point {armed.split(':')[0]}" if armed else "died by itself")

    # Disturbances.

    def _disturb(self) -> None:
        if self._is_calm:
            return
        chosen = self._chance.choice(self._disturbances())
        try:
            chosen()
        finally:
            self._later(self._chance.uniform(0.5, 1.5) * _DISTURB_SECONDS, self._disturb)

    def _disturbances(self) -> list[Callable[[], None]]:
        common = [self._pause, self._step_clock, self._stop_in_order]
        if self._place.server is None:
            return [*common, self._fill_disk, self._break_writes, self._lock]
        return [*common, self._replace, self._cut, self._crash_server]

    def _victim(self) -> str | None:
        free = [name for name in sorted(self._workers) if name not in self._paused and self._workers[name].is_alive]
        return self._chance.choice(free) if free else None

    def _pause(self) -> None:
        name = self._victim()
        if name is None or len(self._paused) + 1 > max(1, len(self._workers) - 1):
            return
        self._count("paused beyond its lease")
        self._hold(name)
        life = self._born[name]
        self._later(1.5 * self._lease, lambda: self._go_on(name, life))

    def _hold(self, name: str) -> None:
        self._paused.add(name)
        self._workers[name].pause()

    def _go_on(self, name: str, life: int) -> None:
        self._paused.discard(name)
        if not self._is_current(name, life):
            return
        self._workers[name].resume()
        self._later(self._chance.uniform(0.0, _LIFE_SECONDS), lambda: self._end_life(name, life))

    def _replace(self) -> None:
        """Start its successor while it is paused: when it wakes it must find that it is gone, and change nothing."""
        name = self._victim()
        if name is None:
            return
        self._count("replaced while paused")
        old = self._workers.pop(name)
        old.pause()
        if name in self._unanswered:
            self._again.append(self._unanswered.pop(name))
        self._old.append(old)
        self._start(name)
        self._later(self._lease, old.resume)

    def _stop_in_order(self) -> None:
        name = self._victim()
        if name is None or self._report.kills >= self._num_kills:
            return
        self._count("stopped in order")
        worker = self._workers.pop(name)
        worker.say("stop")
        if name in self._unanswered:
            self._again.append(self._unanswered.pop(name))
        if self._place.server is None and not worker.join(_STOP_SECONDS):
            worker.kill()
        self._old.append(worker)
        self._start(name)

    def _step_clock(self) -> None:
        name = self._chance.choice(sorted(self._workers) or ["replica-0"])
        self._count("clock stepped")
        path = self._folder / f"{run_worker.CLOCK}-{name}"
        path.write_text(str(self._chance.choice(_SKEWS_SECONDS)), encoding="utf-8")
        self._later(2.0, lambda: path.unlink(missing_ok=True))

    def _fill_disk(self) -> None:
        self._count("disk full")
        path = self._folder / run_worker.FULL
        path.touch()
        self._later(0.8, lambda: path.unlink(missing_ok=True))

    def _break_writes(self) -> None:
        """Let the system refuse writes past the present end of the largest file: an input/output error for SQLite."""
        name = self._victim()
        if name is None:
            return
        self._count("write error")
        pid, life = self._workers[name].pid, self._born[name]
        size = max(path.stat().st_size for path in self._folder.glob("dsctl.db*"))
        with contextlib.suppress(ProcessLookupError):
            _soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))

        def mend() -> None:
            if self._is_current(name, life):
                with contextlib.suppress(ProcessLookupError):
                    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

        self._later(0.8, mend)

    def _lock(self) -> None:
        """Hold the write lock from outside for longer than the worker waits for it."""
        self._count("database locked")
        held = sqlite3.connect(self._folder / "dsctl.db", isolation_level=None, timeout=2.0)
        try:
            held.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            held.close()
            return
        self._later(1.0, held.close)

    def _cut(self) -> None:
        self._count("sessions cut")
        if self._place.server is not None:
            self._place.server.cut_sessions(self._place.name)

    def _crash_server(self) -> None:
        self._count("server crashed")
        if self._place.server is not None:
            self._place.server.crash()

    # The end.

    def _sample(self) -> None:
        """Ask the database, from outside, whether two runs hold one target."""
        with contextlib.suppress(exc.SQLAlchemyError), self._reader.connect() as connection:
            for target, count in run_oracle.find_shared_targets(connection):
                self._report.verdict.blame("over_slot", f"{count} runs hold {target}")
        if not self._is_calm:
            self._later(_SAMPLE_SECONDS, self._sample)

    def _calm_down(self) -> None:
        self._is_calm = True
        # What was to be lifted is lifted now; what was to strike finds that all is calm.
        while self._due:
            heapq.heappop(self._due)[2]()
        for name, worker in list(self._workers.items()):
            if worker.orders.failpoint:
                worker.kill()
                self._bury(name, "disarmed at the end", is_kill=False)

    def _wait_for_quiet(self) -> None:
        end = self._clock.monotonic() + _ENDING_SECONDS
        while self._clock.monotonic() < end and (self._unfinished() or self._again or self._unanswered):
            self._turn()

    def _unfinished(self) -> int:
        with self._reader.connect() as connection:
            return run_oracle.count_open(connection)

    def _read(self) -> run_oracle.Log:
        with self._reader.connect() as connection:
            return run_oracle.read(connection)

    def _stop_all(self) -> None:
        for worker in (*self._workers.values(), *self._old):
            worker.say("stop")
        for worker in (*self._workers.values(), *self._old):
            if not worker.join(_STOP_SECONDS):
                self._report.done["did not stop"] += 1

    def _judge(self) -> None:
        log = self._read()
        arrivals = run_target.Target(self._folder / "targets").arrivals()
        sampled = self._report.verdict
        self._report.verdict = run_oracle.judge(log, arrivals, self._accepted, is_over=True)
        for name, count in sampled.counts().items():
            self._report.verdict.blame(name, f"seen on the way: {sampled.sentences}", count)
        self._report.runs = len(log.runs)
