"""Plays one case: the real planner, run engine, verifier and conditions, on a fleet that a file describes.

Called by `rehearse`. The engine is stepped: everything that is due is done, then the clock jumps to the moment at which
the run wakes or somebody answers. Nothing but the given database is touched. Async; one case at a time, since the cases
share the clock.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from controlplane import expressions, strictyaml
from controlplane.domain import errors, outcomes, plans, ports, runs
from controlplane.engine import facts, verification
from controlplane.rehearsal import actors, files, fleet, jumping, models, stores
from controlplane.runs import config, engine, moves, planning
from controlplane.runs.language import checks, library, links
from controlplane.store import codec, tables

WHO = "rehearsal"
# Nobody takes over here, so the lease outlasts every jump. Verification and conditions over the time of day are looked at
# less often than in earnest; a condition over signals when one of them changes.
LOOK_SECONDS = 15.0
SETTINGS = config.RunSettings(
    replica_name=WHO, lease_seconds=1e8, wait_poll_seconds=LOOK_SECONDS, doubt_poll_seconds=LOOK_SECONDS
)
# The shortest time between two looks is a second; more jumps than this are a run that goes in circles.
_MAX_JUMPS = 100_000
_NOW = re.compile(r"\bnow\b")


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a case: the run with its log and what the actors noted, or why no plan was made."""

    notes: actors.Notes
    run: runs.Run | None = None
    events: tuple[runs.RunEvent, ...] = ()
    refused: str = ""
    troubles: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long the run took on its own clock."""
        if self.run is None or self.run.ended_at is None:
            return 0.0
        return (self.run.ended_at - self.run.created_at).total_seconds()


class Theatre:
    """Where cases are played: runbooks, words, a database and a clock."""

    def __init__(
        self, books: library.Library, words: checks.Vocabulary, store: stores.Store, clock: jumping.JumpingClock
    ) -> None:
        self._books = books
        self._words = words
        self._store = store
        self._clock = clock

    async def play(self, case: files.Case) -> Played:
        """Play a case to its end; raises NotFoundError for a runbook that is not there."""
        stage = actors.Stage(case, self._clock, fleet.Fleet(case, self._clock), actors.Script(case), actors.Notes())
        actions = self._actions(case, stage)
        try:
            plan = await self._draft(case, stage, actions)
        except errors.GiveUpError as error:
            return Played(stage.notes, refused=str(error))
        driven = self._engine(stage, actions)
        await driven.join()
        try:
            return await _Performance(stage, driven, self._store, plan).play()
        finally:
            await driven.stop()

    def _actions(self, case: files.Case, stage: actors.Stage) -> Mapping[str, actors.ScriptedAction]:
        """Return a scripted action for each one that the runbook, or the one it includes, names."""
        book = self._books.get(case.runbook)
        including = links.included_by(book.spec)
        steps = [*book.spec.steps, *(self._books.get(including.include or "").spec.steps if including else ())]
        named = {step.action for step in steps if step.action is not None}
        return {name: actors.ScriptedAction(self._words.actions[name].spec, stage) for name in named}

    async def _draft(
        self, case: files.Case, stage: actors.Stage, actions: Mapping[str, actors.ScriptedAction]
    ) -> plans.Plan:
        planner = planning.RunbookPlanner(
            runbooks=self._books,
            actions=actions,
            managed={case.service.name: case.service},
            where=stage.fleet,
            clock=self._clock,
        )
        return await planner.draft(
            plans.PlanRequest(case.runbook, case.service.name, case.node, WHO, case.name, inputs=case.inputs)
        )

    def _engine(self, stage: actors.Stage, actions: Mapping[str, actors.ScriptedAction]) -> engine.RunEngine:
        managed = {stage.case.service.name: stage.case.service}
        others = actors.Bystanders(stage.notes)
        rooms = config.RunPorts(
            clock=self._clock,
            actions=actions,
            guard=others,
            verifier=_PatientVerifier(verification.Verification(stage.fleet, managed, self._clock)),
            conditions=expressions.Conditions(),
            facts=facts.FleetFacts(stage.fleet, managed, self._clock),
            notifier=others,
            follow_up=others.follow_up,
            asker=others,
        )
        return engine.RunEngine(self._store.database, rooms, SETTINGS)


class _PatientVerifier:
    """The real verifier, asked as seldom as conditions are."""

    def __init__(self, real: ports.Verifier) -> None:
        self._real = real

    async def judge(self, plan: plans.Plan, acted_at: datetime, began_at: datetime) -> outcomes.Verification:
        """Return the real verdict, or when to look again; the deadline itself is met to the second."""
        answer = await self._real.judge(plan, acted_at, began_at)
        if isinstance(answer, outcomes.Judged) or answer.again_seconds < fleet.STEP_SECONDS:
            return answer
        return outcomes.Watching(answer.sentence, LOOK_SECONDS)


class _Performance:
    """One plan being carried out."""

    def __init__(self, stage: actors.Stage, driven: engine.RunEngine, store: stores.Store, plan: plans.Plan) -> None:
        self._stage = stage
        self._clock = stage.clock
        self._engine = driven
        self._store = store
        self._people = list(stage.case.people)
        self._plan = plan
        self._troubles: list[str] = []

    async def play(self) -> Played:
        """Carry the plan out and return what came of it; a run that does not end is cancelled, and that is a trouble."""
        self._troubles += _misnamed(self._stage.case, self._plan)
        run_id = await self._engine.submit(self._plan)
        limit = self._clock.now() + timedelta(seconds=models.MAX_SECONDS)
        for _ in range(_MAX_JUMPS):
            await self._settle()
            state, wakes_at = await self._standing(run_id)
            if state.is_final or self._clock.now() >= limit:
                break
            await self._jump(run_id, min(wakes_at, limit))
        return await self._close(run_id)

    async def _settle(self) -> None:
        """Do everything that is due at this instant, to the last errand."""
        while await self._engine.claim_due():
            await self._engine.settle()

    async def _standing(self, run_id: str) -> tuple[outcomes.RunState, datetime]:
        """Return a run's state, and when something can happen to it by itself."""
        run = tables.RUN.c
        query = sa.select(run.state, run.wake_at, run.cursor).where(run.id == run_id)
        row = await self._store.database.read(lambda connection: connection.execute(query).one())
        cursor = codec.from_json(moves.Cursor, row.cursor)
        return outcomes.RunState(row.state), max(row.wake_at, self._nothing_new_before(cursor) or row.wake_at)

    def _nothing_new_before(self, cursor: moves.Cursor) -> datetime | None:
        """Return until when a condition that was not met cannot change its answer: looking before would tell nothing."""
        if cursor.phase is not moves.Phase.STEPS or cursor.deadline_at is None:
            return None
        step = self._plan.steps[cursor.step]
        asked = step.until if cursor.is_open else step.when
        if not asked or _NOW.search(asked):
            return None
        changes = self._stage.fleet.changes_after(self._clock.now())
        return cursor.deadline_at if changes is None else min(changes, cursor.deadline_at)

    async def _jump(self, run_id: str, wakes_at: datetime) -> None:
        """Let time pass until the run wakes, or until somebody answers before that."""
        at, person = min(await self._answers(run_id), default=(wakes_at, None), key=lambda one: one[0])
        if person is None or at > wakes_at:
            self._clock.jump((wakes_at - self._clock.now()).total_seconds())
            return
        self._clock.jump((at - self._clock.now()).total_seconds())
        self._people.remove(person)
        await self._answer(run_id, person)

    async def _answers(self, run_id: str) -> list[tuple[datetime, models.Person]]:
        """Return who will answer the questions that were asked, and when."""
        if not self._people:
            return []
        events = await self._store.runs.events(run_id)
        asked = {one.step: one.at for one in events if one.kind is runs.RunEventKind.STEP_STARTED}
        return [(asked[one.step] + timedelta(seconds=one.at), one) for one in self._people if one.step in asked]

    async def _answer(self, run_id: str, person: models.Person) -> None:
        try:
            await self._engine.answer(
                run_id,
                person.by,
                is_approved=person.answer == "approve",
                reason=person.reason,
                plan_hash=self._plan.hash,
            )
        except errors.ConflictError as error:
            self._troubles.append(f"the answer of {person.by} to step {person.step} did not count: {error}")

    async def _close(self, run_id: str) -> Played:
        run = await self._store.runs.get(run_id)
        if not run.state.is_final:
            await self._engine.cancel(run_id, WHO)
            limit = models.MAX_SECONDS / 3600
            self._troubles.append(f"the run does not end within {limit:g} h of its own time; it is {run.state}")
        events = tuple(await self._store.runs.events(run_id))
        return Played(self._stage.notes, run, events, troubles=tuple(self._troubles))


def _misnamed(case: files.Case, plan: plans.Plan) -> list[str]:
    """Return what the case says about steps that the plan does not have: a slip that would go unnoticed otherwise."""
    names = [step.name for step in plan.steps]
    said = {
        "answers": list(case.answers),
        "undos": list(case.undos),
        "people": [one.step for one in case.people],
        "signals": [one.after for one in case.samples if one.after],
        "expect.waited": list(case.expect.waited),
        "expect.asked": list(case.expect.asked),
        "expect.acts": [one.step for one in case.expect.acts or ()],
        "expect.skipped": list(case.expect.skipped or ()),
        "expect.undone": list(case.expect.undone or ()),
    }
    return [
        f"{where}: no step is named {name!r}{strictyaml.suggest(name, names)}"
        for where, found in said.items()
        for name in dict.fromkeys(found)
        if name not in names
    ]
