"""A step's own failure edges, steps that may fail, and plain pauses."""

import dataclasses

import pytest

from actions import api
from controlplane.domain import errors, outcomes, plans, runs
from controlplane.store import house
from tests.support import runs as support
from tests.support.clock import FakeClock

Kind = runs.RunEventKind


async def drive(
    store: house.House, clock: FakeClock, stage: support.Stage, action: support.NotingAction, plan: plans.Plan
) -> runs.Run:
    engine = support.make_engine(store, clock, stage, {"note": action})
    await engine.start()
    run_id = await engine.submit(plan)
    run = await support.play_to_end(engine, store, clock, run_id)
    await engine.stop()
    return run


class FailsSecond(support.NotingAction):
    """Refuses the step `two`."""

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        if context.step == "two":
            raise errors.GiveUpError("no")
        return await super().apply(params, context)


def own(step: plans.PlannedStep, *edges: plans.FailureEdge) -> plans.PlannedStep:
    return dataclasses.replace(step, on_failure=edges)


def optional(step: plans.PlannedStep) -> plans.PlannedStep:
    return dataclasses.replace(step, continue_on_failure=True)


async def test_a_steps_own_edges_replace_the_runbooks(store: house.House, clock: FakeClock) -> None:
    """The second step fails: its own edges undo the first and tell somebody else; nothing of the runbook's is done."""
    stage, action = support.Stage(), FailsSecond()
    plan = support.plan(
        support.act("one"),
        own(support.act("two"), support.edge("undo", "one"), support.edge("escalate", "owners")),
        on_failure=[support.edge("run", "other"), support.edge("escalate", "oncall")],
    )
    run = await drive(store, clock, stage, action, plan)
    assert run.state is outcomes.RunState.ROLLED_BACK
    assert action.sent("undo") == ["one:undo"]
    assert [to for to, _ in stage.escalated] == ["owners"]
    assert stage.follow_ups == []


async def test_other_steps_keep_the_runbooks_edges(store: house.House, clock: FakeClock) -> None:
    """A step without edges of its own, and verification, walk those of the runbook."""
    stage, action = support.Stage(), support.NotingAction()
    stage.verdicts = [outcomes.Judged(outcomes.Verdict.NOT_RECOVERED, "still bad", has_control=True)]
    plan = support.plan(
        own(support.act("one"), support.edge("escalate", "owners")),
        on_failure=[support.edge("run", "quarantine")],
        verify=plans.VerifySpec(("latency_p99",), 60.0, 10.0),
    )
    run = await drive(store, clock, stage, action, plan)
    assert run.state is outcomes.RunState.FAILED
    assert [name for name, _ in stage.follow_ups] == ["quarantine"]
    assert stage.escalated == []


@pytest.mark.parametrize(
    ("answers", "probed"),
    [
        ([errors.GiveUpError("refused")], api.NotApplied("not there")),
        ([errors.RetryLaterError("cannot be reached")], api.NotApplied("not there")),
        ([errors.OutcomeUnknownError("no answer came")], api.CannotTell("it does not answer")),
        ([errors.OutcomeUnknownError("no answer came")], api.NotApplied("not there")),
    ],
)
@pytest.mark.parametrize("reentry", [plans.Reentry.IDEMPOTENT, plans.Reentry.PROBE, plans.Reentry.MANUAL])
async def test_a_step_that_may_fail_does_not_stop_the_run(
    store: house.House, clock: FakeClock, answers: list[Exception], probed: api.Probed, reentry: plans.Reentry
) -> None:
    """Refused, not reached or in doubt: the next step is done, the log says that the run went on, nobody is told."""
    stage, action = support.Stage(), support.NotingAction(reentry)
    action.answers["apply"], action.probed = list(answers), probed
    plan = support.plan(
        optional(support.act("drain")), support.act("restart"), on_failure=[support.edge("escalate", "oncall")]
    )
    run = await drive(store, clock, stage, action, plan)
    assert run.state is outcomes.RunState.SUCCEEDED, run.sentence
    assert run.sentence == "done but for drain, which failed and may; nothing is verified"
    assert action.sent() == ["drain", "restart"]
    (failed,) = [one for one in await store.runs.events(run.id) if one.kind is Kind.STEP_FAILED]
    assert (failed.step, failed.data["continues"]) == ("drain", True)
    assert stage.escalated == []


async def test_a_step_that_failed_is_not_undone(store: house.House, clock: FakeClock) -> None:
    """What the run went on without did not take effect; only what did is put back."""
    stage, action = support.Stage(), support.NotingAction()
    action.answers["apply"] = [errors.GiveUpError("refused")]
    stage.verdicts = [outcomes.Judged(outcomes.Verdict.WORSE, "worse", has_control=True)]
    plan = support.plan(
        optional(support.act("drain")),
        support.act("restart"),
        on_failure=[support.edge("undo", "all")],
        verify=plans.VerifySpec(("latency_p99",), 60.0, 10.0),
    )
    run = await drive(store, clock, stage, action, plan)
    assert run.state is outcomes.RunState.ROLLED_BACK
    assert action.sent("undo") == ["restart:undo"]


async def test_a_wait_that_may_fail_lets_the_run_go_on(store: house.House, clock: FakeClock) -> None:
    """A condition that never comes true holds the run to the deadline and not for ever."""
    stage, action = support.Stage(), support.NotingAction()
    stage.is_ready = False
    plan = support.plan(support.act("eject"), optional(support.wait("idle", timeout=20.0)), support.act("restart"))
    start = clock.now()
    run = await drive(store, clock, stage, action, plan)
    assert run.state is outcomes.RunState.SUCCEEDED
    assert action.sent() == ["eject", "restart"]
    assert (clock.now() - start).total_seconds() >= 20.0


async def test_a_pause_ends_when_its_time_is_over(store: house.House, clock: FakeClock) -> None:
    """A wait without a condition succeeds; it evaluates nothing."""
    stage, action = support.Stage(), support.NotingAction()
    stage.is_ready = errors.InvalidInputError("there is no condition to evaluate")
    plan = support.plan(support.wait("settle", until="", timeout=5.0), support.act("go"))
    start = clock.now()
    run = await drive(store, clock, stage, action, plan)
    assert run.state is outcomes.RunState.SUCCEEDED, run.sentence
    assert 5.0 <= (clock.now() - start).total_seconds() <= 30.0  # the fake clock runs on while the store writes


async def test_the_guard_is_not_overruled_by_a_step_that_may_fail(store: house.House, clock: FakeClock) -> None:
    """A refusal is no failure: the run stops before the step."""
    stage, action = support.Stage(), support.NotingAction()
    stage.guard_answers = [support.ALLOWED, support.denied()]
    run = await drive(store, clock, stage, action, support.plan(support.act("one"), optional(support.act("two"))))
    assert run.state is outcomes.RunState.FAILED
    assert action.sent() == ["one"]
