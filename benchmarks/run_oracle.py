"""The judge of the run engine, from outside: what was promised, what the database holds, what arrived at the target.

Used by the crash harness and by the tests that play the engine in process. Knows the log's format, and nothing of how the
engine works. Everything it counts must be nought; `sentences` says what is behind a count.

Pure, but for `read`, which blocks.
"""

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from benchmarks import run_target
from controlplane.domain import outcomes, plans, runs
from controlplane.store import tables

_Kind = runs.RunEventKind
_Fate = run_target.Fate
# A row by the names of its columns.
_Row = Mapping[Any, Any]
_STARTS = (_Kind.STEP_STARTED, _Kind.UNDO_STARTED)
_OWED = sa.select(sa.func.count()).select_from(tables.RUN_ERRAND).where(tables.RUN_ERRAND.c.done_at.is_(None))
# More sentences than this tell nothing new.
_MAX_SENTENCES = 40


@dataclass(frozen=True, slots=True)
class Log:
    """What the database holds: rows of runs, of their events in order, and of what is still owed."""

    runs: Mapping[str, _Row]
    events: Mapping[str, Sequence[_Row]]
    num_owed: int


def read(connection: sa.Connection) -> Log:
    """Read everything there is."""
    found = {row["id"]: row for row in connection.execute(sa.select(tables.RUN)).mappings()}
    events: dict[str, list[_Row]] = defaultdict(list)
    query = sa.select(tables.RUN_EVENT).order_by(tables.RUN_EVENT.c.run_id, tables.RUN_EVENT.c.number)
    for row in connection.execute(query).mappings():
        events[row["run_id"]].append(row)
    return Log(found, events, connection.execute(_OWED).scalar_one())


@dataclass
class Verdict:
    """How often each promise was broken.

    `stuck` counts runs that are not final at the end, and what is owed and was not delivered; `invented` steps that are
    written down as done and never arrived; `refinished` steps and runs that ended twice; `stale_sends` calls sent by an owner
    that another had replaced.
    """

    lost: int = 0
    stuck: int = 0
    out_of_order: int = 0
    unannounced_repeats: int = 0
    double_effects: int = 0
    changed_payloads: int = 0
    invented: int = 0
    refinished: int = 0
    tokens_backwards: int = 0
    log_gaps: int = 0
    over_slot: int = 0
    stale_sends: int = 0
    sentences: list[str] = field(default_factory=list[str])

    def blame(self, what: str, sentence: str, count: int = 1) -> None:
        """Count a broken promise."""
        if count <= 0:
            return
        setattr(self, what, getattr(self, what) + count)
        if len(self.sentences) < _MAX_SENTENCES:
            self.sentences.append(f"{what}: {sentence}")

    def counts(self) -> dict[str, int]:
        """Return the counts by name."""
        return {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "sentences"}

    @property
    def is_clean(self) -> bool:
        """True when every promise was kept."""
        return not any(self.counts().values())


def judge(log: Log, arrivals: Sequence[run_target.Arrival], accepted: Collection[str], *, is_over: bool) -> Verdict:
    """Compare the three; `is_over` says that everything should have come to its end."""
    verdict = Verdict()
    for run_id in accepted:
        if run_id not in log.runs:
            verdict.blame("lost", f"{run_id} was accepted and is not stored")
    by_run: dict[str, list[run_target.Arrival]] = defaultdict(list)
    for one in arrivals:
        by_run[one.run_id].append(one)
    for run_id in by_run.keys() - log.runs.keys():
        verdict.blame("lost", f"{run_id} has acted and is not stored")
    for run_id, row in log.runs.items():
        _judge_end(verdict, row, log.events[run_id], is_over=is_over)
        _judge_log(verdict, run_id, log.events[run_id])
        _judge_sends(verdict, run_id, log.events[run_id], by_run[run_id])
        _judge_order(verdict, row, log.events[run_id], by_run[run_id])
    if is_over:
        verdict.blame("stuck", f"{log.num_owed} errands were not delivered", log.num_owed)
    _judge_slots(verdict, log, arrivals)
    return verdict


def _judge_end(verdict: Verdict, row: _Row, events: Sequence[_Row], *, is_over: bool) -> None:
    is_final = outcomes.RunState(row["state"]).is_final
    if is_over and not is_final:
        verdict.blame("stuck", f"{row['id']} is {row['state']} at step {row['step']}, {_tail(events)}")
    num_ends = sum(one["kind"] == _Kind.ENDED for one in events)
    if num_ends != int(is_final):
        verdict.blame("refinished", f"{row['id']} is {row['state']} and has {num_ends} ends")


def _tail(events: Sequence[_Row]) -> str:
    return " ".join(str(one["kind"]) for one in events[-4:])


def _judge_log(verdict: Verdict, run_id: str, events: Sequence[_Row]) -> None:
    numbers = [one["number"] for one in events]
    if numbers != list(range(1, len(events) + 1)):
        verdict.blame("log_gaps", f"{run_id} has the events {numbers}")
    tokens = [one["token"] for one in events]
    falls = sum(later < earlier for earlier, later in itertools.pairwise(tokens))
    verdict.blame("tokens_backwards", f"{run_id} has the tokens {tokens}", falls)
    for kind in (_Kind.STEP_FINISHED, _Kind.UNDO_FINISHED):
        ends = Counter(one["step"] for one in events if one["kind"] == kind)
        for step, count in ends.items():
            verdict.blame("refinished", f"{run_id} {kind} {step} {count} times", count - 1)


def _judge_sends(verdict: Verdict, run_id: str, events: Sequence[_Row], arrivals: Sequence[run_target.Arrival]) -> None:
    """Each call needs a record of its own: the same key, by the same owner, at the same attempt, at most once."""
    announced = {
        (one["data"]["key"], one["token"], one["data"]["attempt"])
        for one in events
        if one["kind"] in _STARTS and "key" in one["data"]
    }
    calls = Counter((one.key, one.token, one.attempt) for one in arrivals if one.verb != run_target.PROBE)
    for call, count in calls.items():
        extra = count - (call in announced)
        verdict.blame("unannounced_repeats", f"{call} arrived {count} times, announced {call in announced}", extra)
    payloads: dict[str, set[str]] = defaultdict(set)
    for one in arrivals:
        payloads[one.key].add(one.payload)
    for key, seen in payloads.items():
        verdict.blame("changed_payloads", f"{key} carried {sorted(seen)}", len(seen) - 1)
    _judge_effects(verdict, run_id, arrivals)


def _judge_effects(verdict: Verdict, run_id: str, arrivals: Sequence[run_target.Arrival]) -> None:
    effects = Counter((one.verb, one.step) for one in arrivals if one.fate is _Fate.EFFECT)
    for (verb, step), count in effects.items():
        verdict.blame("double_effects", f"{run_id} {verb} {step} took effect {count} times", count - 1)
    for one in arrivals:
        if one.fate is _Fate.STALE:
            verdict.blame("stale_sends", f"{one.key} was sent with the old token {one.token}")


def _judge_order(
    verdict: Verdict,
    row: _Row,
    events: Sequence[_Row],
    arrivals: Sequence[run_target.Arrival],
) -> None:
    steps = row["plan"]["steps"]
    place = {step["name"]: index for index, step in enumerate(steps)}
    applied = _first(one.step for one in arrivals if one.fate is _Fate.EFFECT and one.verb == run_target.APPLY)
    undone = _first(one.step for one in arrivals if one.fate is _Fate.EFFECT and one.verb == run_target.UNDO)
    finished = _first(one["step"] for one in events if one["kind"] == _Kind.STEP_FINISHED)
    for seen in (applied, undone[::-1], finished):
        if seen != sorted(seen, key=place.__getitem__):
            verdict.blame("out_of_order", f"{row['id']} went {seen}")
    acting = {step["name"] for step in steps if step["kind"] == plans.StepKind.ACTION}
    for name in (name for name in finished if name in acting and name not in applied):
        verdict.blame("invented", f"{row['id']} says that {name} is done, and it never arrived")
    if row["state"] == outcomes.RunState.SUCCEEDED and len(finished) != len(steps):
        verdict.blame("invented", f"{row['id']} succeeded with only {finished} done")


def _first(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _judge_slots(verdict: Verdict, log: Log, arrivals: Sequence[run_target.Arrival]) -> None:
    """On one target the effects of two runs must not mix: A, B, A means that both were under way at once."""
    by_target: dict[str, list[str]] = defaultdict(list)
    for one in _settled(log, arrivals):
        by_target[one.target].append(one.run_id)
    for target, ids in by_target.items():
        seen: set[str] = set()
        for earlier, later in itertools.pairwise(ids):
            seen.add(earlier)
            if later != earlier and later in seen:
                verdict.blame("over_slot", f"{later} went on at {target} after {earlier} had begun there")


def _settled(log: Log, arrivals: Sequence[run_target.Arrival]) -> Iterator[run_target.Arrival]:
    """Yield the effects that the log knows as done; what was in flight when its run was cancelled may come late."""
    known = {
        (run_id, one["step"], one["kind"] == _Kind.UNDO_FINISHED)
        for run_id, events in log.events.items()
        for one in events
        if one["kind"] in {_Kind.STEP_FINISHED, _Kind.UNDO_FINISHED}
    }
    for one in arrivals:
        if one.fate is _Fate.EFFECT and (one.run_id, one.step, one.verb == run_target.UNDO) in known:
            yield one


_IS_OPEN = tables.RUN.c.state.in_([one for one in outcomes.RunState if not one.is_final])


def find_shared_targets(connection: sa.Connection) -> Sequence[tuple[str, int]]:
    """Return the targets that more than one unfinished run holds, with how many; there must never be one."""
    num_runs = sa.func.count()
    query = sa.select(tables.RUN.c.target, num_runs).where(_IS_OPEN).group_by(tables.RUN.c.target).having(num_runs > 1)
    return [(target, count) for target, count in connection.execute(query)]


def count_open(connection: sa.Connection) -> int:
    """Return how many runs and errands have not come to their end."""
    num_runs = sa.select(sa.func.count()).select_from(tables.RUN).where(_IS_OPEN)
    return connection.execute(num_runs).scalar_one() + connection.execute(_OWED).scalar_one()
