"""Steps of a run: order, keys, retries, the guard, waits, verification."""

import asyncio
from datetime import timedelta

import pytest

from actions import api
from controlplane.domain import errors, outcomes, plans
from controlplane.runs import engine
from controlplane.store import house
from tests.support import runs as support
from tests.support.clock import FakeClock

State = outcomes.RunState


async def test_steps_run_in_order_each_announced_before_it_happens(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction
) -> None:
    """Two steps run once each, in order, and the log has an intention before every outcome."""
    run_id = await driven.submit(support.plan(support.act("flush"), support.act("warm")))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert run.state is State.SUCCEEDED
    assert note.sent() == ["flush", "warm"]
    assert await support.kinds(store, run_id) == [
        "submitted",
        "step_started",
        "step_finished",
        "step_started",
        "step_finished",
        "ended",
    ]


async def test_secrets_do_not_reach_the_log(driven: engine.RunEngine, store: house.House, clock: FakeClock) -> None:
    """What an action answers under a secret-looking name is blanked out before it is stored."""
    run_id = await driven.submit(support.plan())
    await support.play_to_end(driven, store, clock, run_id)
    finished = next(one for one in await store.runs.events(run_id) if one.kind == "step_finished")
    assert finished.data["data"] == {"step": "flush", "session_token": "***"}


async def test_retry_later_is_tried_again_after_its_delay_with_the_same_key(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction
) -> None:
    """A target that asks for patience gets it; the second try carries the same key and a higher attempt."""
    note.answers["apply"] = [errors.RetryLaterError("busy", delay_seconds=20.0)]
    run_id = await driven.submit(support.plan(support.act("flush", attempts=2)))
    await support.play(driven)
    assert (await store.runs.get(run_id)).state is State.WAITING
    clock.move(19.0)
    await support.play(driven)
    assert len(note.told) == 1
    clock.move(1.0)
    await support.play(driven)
    assert (await store.runs.get(run_id)).state is State.SUCCEEDED
    assert note.sent() == ["flush", "flush"]
    assert [one.attempt for one in note.told] == [1, 2]


async def test_attempts_are_bounded(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction
) -> None:
    """When the attempts are spent the run fails with the target's own words."""
    note.answers["apply"] = [errors.RetryLaterError("still busy")] * 5
    run_id = await driven.submit(support.plan(support.act("flush", attempts=3)))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, len(note.told)) == (State.FAILED, 3)
    assert "still busy" in run.sentence


async def test_refusal_is_not_repeated(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction
) -> None:
    """A target that refuses is not asked again, however many attempts are left; later steps do not run."""
    note.answers["apply"] = [errors.GiveUpError("no such node")]
    run_id = await driven.submit(support.plan(support.act("flush", attempts=3), support.act("warm")))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent()) == (State.FAILED, ["flush"])
    assert "no such node" in run.sentence


@pytest.mark.parametrize("error", [errors.OutcomeUnknownError("cut off"), ValueError("bug in the action")])
async def test_doubt_after_an_idempotent_try_is_repeated_with_the_same_key(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, error: Exception
) -> None:
    """An idempotent action whose outcome is unknown is sent again under its key while attempts are left."""
    note.answers["apply"] = [error]
    run_id = await driven.submit(support.plan(support.act("flush", attempts=2)))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent()) == (State.SUCCEEDED, ["flush", "flush"])


async def test_doubt_without_attempts_left_is_settled_by_looking(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction
) -> None:
    """The last try's outcome is unknown: the target is looked at, and what is there counts as done."""
    note.answers["apply"] = [errors.OutcomeUnknownError("cut off")]
    note.probed = api.Applied(api.ActionResult("the key is there"))
    run_id = await driven.submit(support.plan())
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent()) == (State.SUCCEEDED, ["flush"])
    assert "step_probed" in await support.kinds(store, run_id)


async def test_doubt_that_nobody_can_settle_goes_to_a_person(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """Neither the try nor the look gives an answer: nothing is repeated, nothing is undone, somebody is told."""
    note.answers["apply"] = [errors.OutcomeUnknownError("cut off")]
    note.probed = api.CannotTell("no log there")
    run_id = await driven.submit(support.plan(on_failure=[support.edge("undo", "flush")]))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert run.state is State.NEEDS_HUMAN
    assert run.acted_at is not None
    assert note.sent("undo") == []
    assert stage.escalated == [("oncall", run.sentence)]
    assert "chat/node-1" in run.sentence


async def test_step_timeout_is_doubt_and_not_failure(
    store: house.House, clock: FakeClock, stage: support.Stage
) -> None:
    """An action that does not answer in time may have acted: the target is looked at before the run fails."""
    slow = support.NotingAction(plans.Reentry.PROBE)
    slow.may_answer.clear()
    driven = support.make_engine(store, clock, stage, {"note": slow})
    await driven._member.join()
    run_id = await driven.submit(support.plan(support.act("flush", timeout=0.02)))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert run.state is State.FAILED
    assert [one.verb for one in slow.told] == ["apply", "probe"]
    assert "did not happen: no answer within 0.02 s" in run.sentence
    await driven.stop()


async def test_guard_is_asked_again_right_before_the_effect(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """A refusal at the last moment ends the run with the gate's sentence, and nothing is sent."""
    stage.guard_answers = [support.denied()]
    run_id = await driven.submit(support.plan())
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.told, run.acted_at) == (State.CANCELLED, [], None)
    assert run.sentence == "nothing was done: cooldown: 4 min left"
    assert "guard_denied" in await support.kinds(store, run_id)


async def test_guard_stops_a_run_between_two_steps(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """The brake pulled half-way: what is done stays, is named, and a person is told; undoing would be acting."""
    stage.guard_answers = [support.ALLOWED, support.denied(outcomes.Gate.KILL_SWITCH, "anna holds the brake")]
    two = support.plan(support.act("flush"), support.act("warm"), on_failure=[support.edge("undo", "flush")])
    run_id = await driven.submit(two)
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent(), note.sent("undo")) == (State.FAILED, ["flush"], [])
    assert "done and kept: flush" in run.sentence
    assert [to for to, _ in stage.escalated] == ["oncall"]


async def test_guard_that_cannot_answer_has_not_allowed(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """Trouble inside the guard costs an attempt and never lets an effect through."""
    stage.guard_answers = [errors.RetryLaterError("no metrics", delay_seconds=2.0), RuntimeError("bug")]
    run_id = await driven.submit(support.plan(support.act("flush", attempts=2)))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.told) == (State.FAILED, [])
    assert "the guard could not answer: bug" in run.sentence


async def test_wait_step_ends_when_its_condition_holds(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """A wait keeps the run parked without a task, and the next step starts once the condition is true."""
    stage.is_ready = False
    run_id = await driven.submit(support.plan(support.act("grow"), support.wait("ready"), support.act("warm")))
    for _ in range(5):
        await support.play(driven)
        clock.move(2.0)
    assert (await store.runs.get(run_id)).state is State.WAITING
    assert not driven._tasks
    stage.is_ready = True
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent()) == (State.SUCCEEDED, ["grow", "warm"])
    assert (await support.kinds(store, run_id)).count("waiting") == 1


@pytest.mark.parametrize("answer", [False, errors.InvalidInputError("unknown signal")])
async def test_wait_that_never_holds_fails_after_its_timeout(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, answer: bool | Exception
) -> None:
    """A condition that is false, or cannot be evaluated, does not hold; after its time the run fails."""
    stage.is_ready = answer
    run_id = await driven.submit(support.plan(support.wait("ready", timeout=30.0)))
    started = clock.now()
    run = await support.play_to_end(driven, store, clock, run_id)
    assert run.state is State.FAILED
    assert run.ended_at is not None
    assert timedelta(seconds=30) <= run.ended_at - started <= timedelta(seconds=31)
    assert "is_ready" in run.sentence


VERIFY = plans.VerifySpec(("latency_p99",), within_seconds=60, hold_seconds=30)


async def test_a_clock_that_was_stepped_back_does_not_park_runs_until_it_has_caught_up(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """A run parked before the step wakes at once, and so does what an ended run still owes."""
    note.answers["apply"] = [errors.RetryLaterError("busy", delay_seconds=5.0), errors.GiveUpError("refused")]
    stage.notifier_errors = [errors.RetryLaterError("Alertmanager is away")]
    edges = [support.edge("escalate", "anna")]
    run_id = await driven.submit(support.plan(support.act("flush", attempts=2), on_failure=edges))
    await support.play(driven)
    clock.step_wall(-3600)
    await support.play(driven)
    assert (await store.runs.get(run_id)).state is State.FAILED
    assert stage.escalated == []
    clock.step_wall(-3600)
    await support.play(driven)
    assert [to for to, _ in stage.escalated] == ["anna"]


async def test_runs_of_one_incident_sort_by_birth_however_the_clock_was_set(
    driven: engine.RunEngine, store: house.House, clock: FakeClock
) -> None:
    """The newest run is the one an incident follows; a clock stepped back must not bring an old one to the front."""
    first = await driven.submit(support.plan())
    await support.play(driven)
    clock.step_wall(-3600)
    second = await driven.submit(support.plan())
    assert [run.id for run in await store.runs.find(incident_id="inc_1")] == [second, first]


async def test_a_silent_alertmanager_does_not_collect_a_task_for_everything_owed(
    driven: engine.RunEngine, store: house.House, stage: support.Stage, note: support.NotingAction
) -> None:
    """So many escalations are under way at once, and the rest waits in the database."""
    note.answers["apply"] = [errors.GiveUpError("refused") for _ in range(30)]
    for number in range(30):
        await driven.submit(support.plan(node=f"node-{number}", on_failure=[support.edge("escalate", "anna")]))
    stage.is_answering.clear()
    while await driven.claim_due():
        await asyncio.gather(*(driven._tasks - driven._delivering))
    assert len(driven._delivering) == 20
    stage.is_answering.set()
    await driven.settle()
    await support.play(driven)
    assert len(stage.escalated) == 30


async def test_verification_is_waited_for_and_its_verdict_kept(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage
) -> None:
    """The run watches as long as the verifier says and ends with its verdict; the before and after meet at the act."""
    stage.verdicts = [outcomes.Watching("too early", 10.0), RuntimeError("no metrics"), support.RECOVERED]
    run_id = await driven.submit(support.plan(verify=VERIFY))
    acted_at = clock.now()
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, run.verdict, run.sentence) == (State.SUCCEEDED, outcomes.Verdict.RECOVERED, "it came back")
    assert set(stage.judged_at) == {acted_at}
    assert run.acted_at == acted_at
    assert stage.num_changes == 1


async def test_before_ends_with_the_first_effect_and_after_begins_with_the_last(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage
) -> None:
    """Between a drain and the return the node is neither sick nor well: that time says nothing of either."""
    stage.is_ready = False
    steps = (support.act("drain"), support.wait("empty"), support.act("restart"))
    run_id = await driven.submit(support.plan(*steps, verify=VERIFY))
    began_at = clock.now()
    await support.play(driven)
    clock.move(10)
    stage.is_ready = True
    await support.play_to_end(driven, store, clock, run_id)
    assert (stage.began_at, stage.judged_at) == ([began_at], [began_at + timedelta(seconds=10)])


async def test_verifier_that_never_judges_ends_as_unknown(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage
) -> None:
    """A verdict is due within the runbook's own limits; without one the run does not stay for ever."""
    stage.verdicts = [outcomes.Watching("still unknown", 5.0)] * 1000
    run_id = await driven.submit(support.plan(verify=VERIFY, on_failure=[support.edge("escalate", "anna")]))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, run.verdict) == (State.FAILED, outcomes.Verdict.UNKNOWN)
    assert [to for to, _ in stage.escalated] == ["anna"]


async def test_unknown_action_is_refused_at_submission(driven: engine.RunEngine, store: house.House) -> None:
    """A plan that could not be driven is refused before anything is stored."""
    with pytest.raises(errors.InvalidInputError, match=r"steps\[0\].action.*'fly'"):
        await driven.submit(support.plan(support.act("flush", action="fly")))
    with pytest.raises(errors.InvalidInputError, match="different names"):
        await driven.submit(support.plan(support.act("flush"), support.act("flush")))
    assert not await store.runs.find()
