"""A stage for the run engine: rooms that answer as a test says, and actions that write down what they do."""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from actions import api
from controlplane.domain import errors, outcomes, plans, ports, runs
from controlplane.runs import config, engine, failpoints
from controlplane.store import house
from tests.support import clock as clocks

ALLOWED = outcomes.Allowed(())
RECOVERED = outcomes.Judged(outcomes.Verdict.RECOVERED, "it came back", has_control=True)


def denied(gate: outcomes.Gate = outcomes.Gate.COOLDOWN, sentence: str = "cooldown: 4 min left") -> outcomes.Denied:
    """Return a refusal; any other gate than the first was asked after the kill switch had passed."""
    first = outcomes.GateAnswer(outcomes.Gate.KILL_SWITCH, is_passed=True, sentence="automation is not paused")
    answers = (first,) if gate is not outcomes.Gate.KILL_SWITCH else ()
    return outcomes.Denied(gate, sentence, (*answers, outcomes.GateAnswer(gate, is_passed=False, sentence=sentence)))


def act(name: str, *, attempts: int = 1, timeout: float = 5.0, action: str = "note") -> plans.PlannedStep:
    """Return an action step."""
    return plans.PlannedStep(name, plans.StepKind.ACTION, timeout, action, {"say": name}, attempts)


def wait(name: str, until: str = "is_ready", timeout: float = 30.0) -> plans.PlannedStep:
    """Return a wait step."""
    return plans.PlannedStep(name, plans.StepKind.WAIT, timeout, until=until)


def ask(name: str = "agree", *, quorum: int = 1, timeout: float = 3600.0, prompt: str = "") -> plans.PlannedStep:
    """Return a step that asks people."""
    return plans.PlannedStep(name, plans.StepKind.APPROVAL, timeout, prompt=prompt, quorum=quorum)


def edge(kind: str, argument: str) -> plans.FailureEdge:
    """Return a failure edge."""
    return plans.FailureEdge(plans.EdgeKind(kind), argument)


def plan(
    *steps: plans.PlannedStep,
    node: str = "node-1",
    dedup_key: str | None = None,
    on_failure: Sequence[plans.FailureEdge] = (),
    verify: plans.VerifySpec | None = None,
) -> plans.Plan:
    """Return a plan for one node of the service `chat`; one action step unless told otherwise."""
    request = plans.PlanRequest("flush-cache", "chat", node, "tester", incident_id="inc_1", dedup_key=dedup_key)
    return plans.Plan(
        id="plan_1",
        created_at=clocks.START,
        request=request,
        runbook_digest="digest",
        runbook_source="kind: Runbook",
        steps=steps or (act("flush"),),
        changes=(),
        blast=plans.BlastRadius((node,)),
        verify=verify,
        on_failure=tuple(on_failure),
        hash="hash",
    )


@dataclasses.dataclass
class Told:
    """What a recording action was asked to do."""

    verb: str
    key: str
    token: int
    attempt: int


class NotingAction:
    """Notes every call. `answers` holds, per verb, what to raise in turn; an empty list means success.

    `apply` answers only while `may_answer` is set.
    """

    def __init__(self, reentry: plans.Reentry = plans.Reentry.IDEMPOTENT, *, is_reversible: bool = True) -> None:
        self._spec = api.ActionSpec(
            "note", "Notes what it is asked.", reentry, is_reversible, is_destructive=False, parameters={}
        )
        self.told: list[Told] = []
        self.answers: dict[str, list[Exception]] = {"apply": [], "undo": []}
        self.probed: api.Probed = api.NotApplied("not there")
        self.undone_results: list[api.ActionResult] = []
        self.entered = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    @property
    def spec(self) -> api.ActionSpec:
        return self._spec

    def sent(self, verb: str = "apply") -> list[str]:
        """Return the steps' part of the keys this verb was called with, in order."""
        return [one.key.split(":", 1)[1] for one in self.told if one.verb == verb]

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        return plans.BlastRadius()

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        return ()

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        self._note("apply", context)
        self.entered.set()
        await self.may_answer.wait()
        return api.ActionResult("noted", {"step": context.step, "session_token": "hush"})

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        self._note("probe", context)
        return self.probed

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        self._note("undo", context)
        self.undone_results.append(result)
        return api.ActionResult("undone")

    def _note(self, verb: str, context: api.ActionContext) -> None:
        self.told.append(Told(verb, context.idempotency_key, context.token, context.attempt))
        if self.answers.get(verb):
            raise self.answers[verb].pop(0)


class Stage:
    """Implements every port the engine asks; tests set the attributes."""

    def __init__(self) -> None:
        self.guard_answers: list[outcomes.Allowed | outcomes.Denied | Exception] = []
        self.verdicts: list[outcomes.Verification | Exception] = []
        self.is_ready: bool | Exception = True
        self.escalated: list[tuple[str, str]] = []
        self.asked: list[tuple[str, str, str, datetime]] = []
        self.is_answering = asyncio.Event()
        self.is_answering.set()
        self.notifier_errors: list[Exception] = []
        self.follow_ups: list[tuple[str, str]] = []
        self.follow_up_errors: list[Exception] = []
        self.num_changes = 0
        self.judged_at: list[datetime] = []
        self.began_at: list[datetime] = []

    async def recheck(self, plan: plans.Plan, run_id: str) -> outcomes.Allowed | outcomes.Denied:
        answer = self.guard_answers.pop(0) if self.guard_answers else ALLOWED
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def judge(self, plan: plans.Plan, acted_at: datetime, began_at: datetime) -> outcomes.Verification:
        self.judged_at.append(acted_at)
        self.began_at.append(began_at)
        answer = self.verdicts.pop(0) if self.verdicts else RECOVERED
        if isinstance(answer, Exception):
            raise answer
        return answer

    def is_true(self, expression: str, variables: Mapping[str, object]) -> bool:
        if isinstance(self.is_ready, Exception):
            raise self.is_ready
        return self.is_ready

    async def variables(self, plan: plans.Plan) -> Mapping[str, object]:
        return {}

    async def escalate(self, incident_id: str, service: str, node: str, to: str, sentence: str) -> None:
        await self.is_answering.wait()
        if self.notifier_errors:
            raise self.notifier_errors.pop(0)
        self.escalated.append((to, sentence))

    async def ask(self, run_id: str, service: str, node: str, to: str, sentence: str, until: datetime) -> None:
        await self.is_answering.wait()
        if self.notifier_errors:
            raise self.notifier_errors.pop(0)
        self.asked.append((run_id, to, sentence, until))

    async def follow_up(self, plan: plans.Plan, runbook: str, dedup_key: str) -> str:
        if self.follow_up_errors:
            raise self.follow_up_errors.pop(0)
        self.follow_ups.append((runbook, dedup_key))
        return "run_next"

    def on_ended(self, run_id: str) -> None:
        self.num_changes += 1


# A lease that a test's leaps in time cannot outrun; tests of leases set their own.
SETTINGS = config.RunSettings(lease_seconds=1e7)


def make_engine(
    store: house.House,
    clock: ports.Clock,
    stage: Stage,
    actions: Mapping[str, api.Action],
    settings: config.RunSettings = SETTINGS,
    fail_points: failpoints.FailPoints | None = None,
) -> engine.RunEngine:
    """Return an engine that is not started: tests step it with `play`."""
    rooms = config.RunPorts(
        clock=clock,
        actions=actions,
        guard=stage,
        verifier=stage,
        conditions=stage,
        facts=stage,
        notifier=stage,
        asker=stage,
        follow_up=stage.follow_up,
        on_ended=stage.on_ended,
    )
    return engine.RunEngine(store.database, rooms, settings, fail_points)


async def play(driven: engine.RunEngine) -> None:
    """Do everything that is due at this instant, to the last errand."""
    while await driven.claim_due():
        await driven.settle()


async def play_to_end(driven: engine.RunEngine, store: house.House, clock: clocks.FakeClock, run_id: str) -> runs.Run:
    """Move time on until the run is final and its errands are tried; fails after an hour of it.

    The engine's own loop claims too: it may end the run after `play` found nothing, and leave the errands due.
    """
    end = clock.now() + timedelta(hours=1)
    while clock.now() < end:
        await play(driven)
        run = await store.runs.get(run_id)
        if run.state.is_final:
            await play(driven)
            await driven.settle()
            return run
        clock.move(1.0)
    raise errors.InvariantBrokenError(f"run {run_id} does not end")


async def kinds(store: house.House, run_id: str) -> list[str]:
    """Return the kinds of a run's events, in order."""
    return [str(one.kind) for one in await store.runs.events(run_id)]


def read_notes(path: Path) -> list[tuple[str, int]]:
    """Return (key, token) of every effect that the noting target wrote to its file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(key, int(token)) for key, token in (line.split(" ") for line in lines)]
