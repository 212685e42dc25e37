"""What the crash harness has the engine do: plans of every shape, the actions they name, and rooms that answer.

Used by the harness's workers and by the tests that judge with the same oracle. The actions differ in what may be done when
their outcome was lost: `send` is recognised by its key, `look` can be looked at, `once` is never repeated. `refuse` always
fails, `busy` fails at first. Async, on the clock that is passed in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from actions import api
from benchmarks import run_target
from controlplane.domain import errors, outcomes, plans, ports
from controlplane.runs import config

ONCE = "once"
_TIMEOUT_SECONDS = 20.0
_PAUSE_SECONDS = 0.15
_LOOKS = 2
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class TargetAction:
    """Acts on the target that the plan names; dawdles before and after, so that a kill can come between."""

    def __init__(self, name: str, reentry: plans.Reentry, target: run_target.Target, clock: ports.Clock, dawdle: float):
        self._spec = api.ActionSpec(
            name, f"Does it, {reentry}.", reentry, is_reversible=True, is_destructive=False, parameters={}
        )
        self._target = target
        self._clock = clock
        self._dawdle = dawdle

    @property
    def spec(self) -> api.ActionSpec:
        """What it declares."""
        return self._spec

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Touch nothing."""
        del params, scope
        return plans.BlastRadius()

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Change nothing."""
        del params, scope
        return ()

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Let it arrive."""
        return await self._send(run_target.APPLY, params, context)

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Let the undo arrive."""
        del result
        return await self._send(run_target.UNDO, params, context)

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Look into the target's file."""
        if self._target.look(context.scope.node, self._arrival(run_target.PROBE, params, context)):
            return api.Applied(api.ActionResult("it is there"))
        return api.NotApplied("it is not there")

    async def _send(self, verb: str, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        self._target.send(context.scope.node, self._arrival(verb, params, context))
        await self._clock.sleep(self._dawdle)
        return api.ActionResult("it has arrived")

    def _arrival(self, verb: str, params: api.Params, context: api.ActionContext) -> run_target.Arrival:
        honours = self._spec.reentry is plans.Reentry.IDEMPOTENT
        payload = str(params.get("say"))
        return run_target.Arrival(verb, context.idempotency_key, context.token, context.attempt, payload, honours)


class RefusingAction(TargetAction):
    """Certainly does nothing: never, or not at the first two tries."""

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Refuse."""
        if self._spec.name == "refuse":
            raise errors.GiveUpError("the target refuses")
        if context.attempt % 3:
            raise errors.RetryLaterError("the target is busy", delay_seconds=0.05)
        return await super().apply(params, context)


def make_actions(target: run_target.Target, clock: ports.Clock, dawdle: float) -> Mapping[str, api.Action]:
    """Return every action by its name."""
    idempotent = plans.Reentry.IDEMPOTENT
    return {
        "send": TargetAction("send", idempotent, target, clock, dawdle),
        "look": TargetAction("look", plans.Reentry.PROBE, target, clock, dawdle),
        ONCE: TargetAction(ONCE, plans.Reentry.MANUAL, target, clock, dawdle),
        "refuse": RefusingAction("refuse", idempotent, target, clock, dawdle),
        "busy": RefusingAction("busy", idempotent, target, clock, dawdle),
    }


@dataclass
class Rooms:
    """Every room the engine asks: allows everything, after a moment; is ready at the second look; is told of ends."""

    clock: ports.Clock
    folder: Path
    dawdle: float

    async def recheck(self, plan: plans.Plan, run_id: str) -> outcomes.Allowed | outcomes.Denied:
        """Allow it, a moment later: here a pause hits between the question and the effect."""
        del plan, run_id
        await self.clock.sleep(self.dawdle)
        return outcomes.Allowed(())

    async def judge(self, plan: plans.Plan, acted_at: datetime, began_at: datetime) -> outcomes.Verification:
        """See it recovered at the second look."""
        del acted_at, began_at
        if self._looked(plan.id) < _LOOKS:
            return outcomes.Watching("too early", 0.05)
        return outcomes.Judged(outcomes.Verdict.RECOVERED, "it came back", has_control=True)

    def is_true(self, expression: str, variables: Mapping[str, object]) -> bool:
        """Come true at the second look."""
        del expression
        return self._looked(str(variables["plan"])) >= _LOOKS

    async def variables(self, plan: plans.Plan) -> Mapping[str, object]:
        """Tell which plan it is."""
        return {"plan": f"{plan.id}-wait"}

    async def escalate(self, incident_id: str, service: str, node: str, to: str, sentence: str) -> None:
        """Write it down."""
        del incident_id, service, sentence
        _append(self.folder / "told", f"{node} {to}")

    def _looked(self, name: str) -> int:
        path = self.folder / f"looked-{name}"
        _append(path, "x")
        return path.stat().st_size // 2

    def ports(self, actions: Mapping[str, api.Action], follow_up: config.FollowUp) -> config.RunPorts:
        """Return what an engine is given."""
        return config.RunPorts(
            clock=self.clock,
            actions=actions,
            guard=self,
            verifier=self,
            conditions=self,
            facts=self,
            notifier=self,
            follow_up=follow_up,
        )


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def _act(name: str, action: str, attempts: int = 1) -> plans.PlannedStep:
    return plans.PlannedStep(name, plans.StepKind.ACTION, _TIMEOUT_SECONDS, action, {"say": name}, attempts)


def _wait(name: str, until: str, seconds: float) -> plans.PlannedStep:
    return plans.PlannedStep(name, plans.StepKind.WAIT, seconds, until=until)


_VERIFY = plans.VerifySpec(("latency_p99",), 60, 30)
_UNDO_ALL = (plans.FailureEdge(plans.EdgeKind.UNDO, "all"), plans.FailureEdge(plans.EdgeKind.ESCALATE, "anna"))
_FOLLOW_UP = (plans.FailureEdge(plans.EdgeKind.RUN, "follow-up"), *_UNDO_ALL)
_Shape = tuple[tuple[plans.PlannedStep, ...], plans.VerifySpec | None, tuple[plans.FailureEdge, ...]]
# Every shape a run's life may have: steps alone, waits, verification, retries, undo with a person told, a follow-up.
SHAPES: Sequence[_Shape] = (
    ((_act("one", "send"), _act("two", "send"), _act("three", "look")), None, ()),
    ((_act("one", "look"), _wait("ready", "is_ready", 60.0), _act("two", "look")), None, ()),
    ((_act("one", "send"), _wait("rest", "", _PAUSE_SECONDS), _act("two", ONCE)), _VERIFY, ()),
    ((_act("one", "send"), _act("two", "send"), _act("three", "refuse")), None, _UNDO_ALL),
    ((_act("one", "busy", 9), _act("two", "look"), _act("three", "send")), _VERIFY, _UNDO_ALL),
    ((_act("one", "send"), _act("two", "refuse")), None, _FOLLOW_UP),
)


def make_plan(number: int, target: str, dedup_key: str | None = None) -> plans.Plan:
    """Return the plan of a number: its shape follows from it, and nothing else."""
    steps, verify, edges = SHAPES[number % len(SHAPES)]
    key = dedup_key or f"load-{number}"
    request = plans.PlanRequest("load", "bench", target, "harness", dedup_key=key)
    return plans.Plan(
        id=f"plan_{number}",
        created_at=_EPOCH,
        request=request,
        runbook_digest="digest",
        runbook_source="kind: Runbook",
        steps=steps,
        changes=(),
        blast=plans.BlastRadius((target,)),
        verify=verify,
        on_failure=edges,
        hash=f"hash-{number}",
    )


def make_long_plan(number: int, target: str, num_steps: int) -> plans.Plan:
    """Return a plan of many steps of one kind, for whoever looks at how they follow each other."""
    steps = tuple(_act(f"step-{index:03}", "send") for index in range(num_steps))
    return replace(make_plan(0, target, f"long-{number}"), id=f"plan_long_{number}", steps=steps)


def make_follow_up(failed: plans.Plan, dedup_key: str) -> plans.Plan:
    """Return the plan that follows a failed one on its target."""
    plan = make_plan(0, failed.request.node, dedup_key)
    return replace(plan, id=f"{failed.id}-next", hash=f"{failed.hash}-next")
