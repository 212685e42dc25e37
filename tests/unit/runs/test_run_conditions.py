"""Steps with a condition: asked when their turn has come, left out where it is false, never guessed."""

import dataclasses
from collections.abc import Mapping

import pytest

from controlplane import expressions
from controlplane.domain import errors, outcomes, plans, runs
from controlplane.runs import engine
from controlplane.store import house
from tests.support import runs as support
from tests.support.clock import FakeClock

State = outcomes.RunState
UNKNOWN = errors.InvalidInputError("signal 'queue_depth' is unknown")


def when(step: plans.PlannedStep, condition: str = "is_slow", **more: object) -> plans.PlannedStep:
    return dataclasses.replace(step, when=condition, **more)


async def test_a_step_whose_condition_holds_is_carried_out_and_its_log_says_why(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction
) -> None:
    """It is announced after the question, with the condition; nothing else is different."""
    run_id = await driven.submit(support.plan(when(support.act("flush"))))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent()) == (State.SUCCEEDED, ["flush"])
    started = next(one for one in await store.runs.events(run_id) if one.kind is runs.RunEventKind.STEP_STARTED)
    assert started.data["when"] == "is_slow"


async def test_a_step_whose_condition_is_false_is_left_out_and_is_neither_done_nor_failed(
    driven: engine.RunEngine,
    store: house.House,
    clock: FakeClock,
    stage: support.Stage,
    note: support.NotingAction,
) -> None:
    """It is never announced; the run goes on, says so, and an undo passes over it."""
    stage.is_ready = False
    run_id = await driven.submit(support.plan(when(support.act("eject")), support.act("flush")))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent()) == (State.SUCCEEDED, ["flush"])
    assert run.sentence == "done but for eject, left out by condition; nothing is verified"
    assert await support.kinds(store, run_id) == [
        "submitted",
        "step_skipped",
        "step_started",
        "step_finished",
        "ended",
    ]
    note.answers["apply"] = [errors.GiveUpError("no")]
    undo = [support.edge("undo", "eject")]
    failed_id = await driven.submit(support.plan(when(support.act("eject")), support.act("flush"), on_failure=undo))
    failed = await support.play_to_end(driven, store, clock, failed_id)
    assert (failed.state, note.sent("undo")) == (State.FAILED, [])


async def test_what_failed_and_what_was_left_out_are_told_apart(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> None:
    """The last sentence names both."""
    stage.is_ready = False
    note.answers["apply"] = [errors.GiveUpError("no")]
    may_fail = dataclasses.replace(support.act("drain"), continue_on_failure=True)
    run_id = await driven.submit(support.plan(may_fail, when(support.act("eject")), support.act("flush")))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert run.sentence.startswith("done but for drain, which failed and may and for eject, left out by condition")


@pytest.mark.parametrize(("decided", "sent"), [(True, ["flush"]), (False, [])])
async def test_what_the_request_decided_is_not_asked_again(
    driven: engine.RunEngine,
    store: house.House,
    clock: FakeClock,
    stage: support.Stage,
    note: support.NotingAction,
    decided: bool,
    sent: list[str],
) -> None:
    """The dry run has said what would happen, and that is what happens: also while nobody can read anything."""
    stage.is_ready = UNKNOWN
    run_id = await driven.submit(support.plan(when(support.act("flush"), decided=decided)))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent()) == (State.SUCCEEDED, sent)


async def test_an_unknown_condition_waits_until_it_is_known(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> None:
    """The run says once what it waits for, holds, and goes on by itself; the step's own time begins only then."""
    stage.is_ready = UNKNOWN
    run_id = await driven.submit(support.plan(when(support.wait("settle", timeout=30.0))))
    await support.play(driven)
    clock.move(100.0)
    await support.play(driven)
    assert (await store.runs.get(run_id)).state is State.WAITING
    assert await support.kinds(store, run_id) == ["submitted", "waiting"]
    [waits] = [one for one in await store.runs.events(run_id) if one.kind is runs.RunEventKind.WAITING]
    assert "waits until it is known whether is_slow: signal 'queue_depth' is unknown" in str(waits.data["sentence"])
    stage.is_ready = True
    clock.move(6.0)
    await support.play(driven)
    events = {one.kind: one for one in await store.runs.events(run_id)}
    assert (await store.runs.get(run_id)).state is State.SUCCEEDED
    assert str(events[runs.RunEventKind.WAITING].data["deadline"]).startswith("2026-03-02T09:02:16")


async def test_a_condition_that_stays_unknown_fails_the_step_and_walks_its_edges(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> None:
    """After two minutes nothing is guessed: what was done before is undone, and people read the reason."""
    stage.is_ready = UNKNOWN
    edges = [support.edge("undo", "eject"), support.edge("escalate", "oncall")]
    run_id = await driven.submit(support.plan(support.act("eject"), when(support.act("flush")), on_failure=edges))
    await support.play(driven)
    clock.move(119.0)
    await support.play(driven)
    assert (await store.runs.get(run_id)).state is State.WAITING
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent(), note.sent("undo")) == (State.ROLLED_BACK, ["eject"], ["eject:undo"])
    assert "step flush: nobody can tell whether is_slow: signal 'queue_depth' is unknown" in run.sentence
    assert run.ended_at is not None
    assert (run.ended_at - run.created_at).total_seconds() == 120
    assert [to for to, _ in stage.escalated] == ["oncall"]


async def test_a_step_that_may_fail_is_passed_over_when_its_condition_stays_unknown(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> None:
    """The log says that it failed, not that it was left out."""
    stage.is_ready = UNKNOWN
    may_fail = when(support.act("drain"), continue_on_failure=True)
    run_id = await driven.submit(support.plan(may_fail, support.act("flush")))
    await support.play(driven)
    clock.move(120.0)
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent()) == (State.SUCCEEDED, ["flush"])
    assert run.sentence.startswith("done but for drain, which failed and may")


async def test_a_process_that_dies_between_question_and_effect_leaves_no_doubt(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> None:
    """The next one asks again, and what was not announced is sent once, without looking for it first."""
    run_id = await driven.submit(support.plan(when(support.act("flush"))))
    [lost] = await store.database.write(lambda connection: driven._claim(connection, 10))
    assert (lost.is_in_doubt, lost.cursor.is_open) == (False, False)
    restarted = support.make_engine(store, clock, stage, {"note": note})
    await restarted._member.join()
    run = await support.play_to_end(restarted, store, clock, run_id)
    assert (run.state, [one.verb for one in note.told]) == (State.SUCCEEDED, ["apply"])
    assert (await support.kinds(store, run_id)).count("step_started") == 1


async def test_a_retry_does_not_ask_again(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> None:
    """What was begun because the condition held is finished, whatever it says meanwhile."""
    note.answers["apply"] = [errors.RetryLaterError("busy")]
    run_id = await driven.submit(support.plan(when(support.act("flush", attempts=2))))
    await support.play(driven)
    stage.is_ready = False
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent()) == (State.SUCCEEDED, ["flush", "flush"])


class Reading(support.Stage):
    """Evaluates conditions for real."""

    def is_true(self, expression: str, variables: Mapping[str, object]) -> bool:
        return expressions.Conditions().is_true(expression, variables)

    async def variables(self, plan: plans.Plan) -> Mapping[str, object]:
        return {"inputs": {"replicas": 1}}


async def test_conditions_of_included_steps_read_inputs_of_their_own(
    store: house.House, clock: FakeClock, note: support.NotingAction
) -> None:
    """Of a step and of its wait: the included runbook's inputs, not those of the request."""
    driven = support.make_engine(store, clock, Reading(), {"note": note})
    await driven.join()
    own: Mapping[str, outcomes.Json] = {"replicas": 5}
    run_id = await driven.submit(
        support.plan(
            when(support.act("back.return"), "inputs.replicas == 5", inputs=own),
            dataclasses.replace(support.wait("back.warm", "inputs.replicas == 5"), inputs=own),
            when(support.act("flush"), "inputs.replicas == 5"),
        )
    )
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent()) == (State.SUCCEEDED, ["back.return"])
    await driven.stop()
