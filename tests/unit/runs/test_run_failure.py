"""What happens after a failure: undo, follow-up, escalation, cancel."""

import pytest

from controlplane.domain import errors, outcomes, plans
from controlplane.runs import config, engine
from controlplane.store import house
from tests.support import runs as support
from tests.support.clock import FakeClock

State = outcomes.RunState
NOT_RECOVERED = outcomes.Judged(outcomes.Verdict.NOT_RECOVERED, "still slow", has_control=True)
VERIFY = plans.VerifySpec(("latency_p99",), within_seconds=60, hold_seconds=30)


async def test_bad_verdict_undoes_then_runs_then_escalates(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """The failure edges are walked in order, and a run whose changes were all undone ends rolled back."""
    stage.verdicts = [NOT_RECOVERED]
    edges = [support.edge("undo", "grow"), support.edge("run", "degrade"), support.edge("escalate", "anna")]
    run_id = await driven.submit(support.plan(support.act("grow"), verify=VERIFY, on_failure=edges))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, run.verdict) == (State.ROLLED_BACK, outcomes.Verdict.NOT_RECOVERED)
    assert note.sent("undo") == ["grow:undo"]
    assert note.undone_results[0].sentence == "noted"
    assert stage.follow_ups == [("degrade", f"{run_id}:follow-up:1")]
    assert stage.escalated == [("anna", run.sentence)]
    assert run.sentence == "verdict not_recovered: still slow; undone: grow"
    assert (await support.kinds(store, run_id))[-6:] == [
        "verified",
        "undo_started",
        "undo_finished",
        "ended",
        "follow_up",
        "escalated",
    ]


async def test_undo_all_goes_backwards_over_what_was_done(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """Undoing everything starts with the newest change."""
    stage.is_ready = False
    three = support.plan(
        support.act("one"), support.act("two"), support.wait("ready"), on_failure=[support.edge("undo", "all")]
    )
    run_id = await driven.submit(three)
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent("undo")) == (State.ROLLED_BACK, ["two:undo", "one:undo"])


async def test_nothing_done_means_nothing_to_undo(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction
) -> None:
    """A first step that certainly did nothing is not undone; the run has failed, not rolled back."""
    note.answers["apply"] = [errors.GiveUpError("refused")]
    run_id = await driven.submit(support.plan(on_failure=[support.edge("undo", "flush")]))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent("undo")) == (State.FAILED, [])


async def test_undo_is_retried_and_then_reported(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """An undo that cannot be done is tried a bounded number of times, and the run says what is left."""
    stage.verdicts = [NOT_RECOVERED]
    note.answers["undo"] = [errors.RetryLaterError("busy")] * 9
    edges = [support.edge("undo", "grow")]
    run_id = await driven.submit(support.plan(support.act("grow"), verify=VERIFY, on_failure=edges))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert run.state is State.FAILED
    assert len(note.sent("undo")) == support.SETTINGS.max_undo_attempts
    assert "not undone: grow, look at the target" in run.sentence


async def test_undo_in_doubt_goes_to_a_person(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """When nobody knows whether an undo happened, no other runbook is started on top of it."""
    stage.verdicts = [NOT_RECOVERED]
    note.answers["undo"] = [errors.OutcomeUnknownError("cut off")] * 9
    edges = [support.edge("undo", "grow"), support.edge("run", "degrade")]
    run_id = await driven.submit(support.plan(support.act("grow"), verify=VERIFY, on_failure=edges))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, stage.follow_ups) == (State.NEEDS_HUMAN, [])
    assert [to for to, _ in stage.escalated] == ["oncall"]


async def test_kill_switch_stops_an_undo_and_other_gates_do_not(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """A held brake means no effect at all; a cooldown does not stand between a fleet and its former state."""
    edges = [support.edge("undo", "grow")]
    stage.verdicts = [NOT_RECOVERED, NOT_RECOVERED]
    stage.guard_answers = [support.ALLOWED, support.denied(), support.ALLOWED]
    stage.guard_answers += [support.denied(outcomes.Gate.KILL_SWITCH, "anna holds the brake")]
    for expected in (State.ROLLED_BACK, State.FAILED):
        run_id = await driven.submit(support.plan(support.act("grow"), verify=VERIFY, on_failure=edges))
        run = await support.play_to_end(driven, store, clock, run_id)
        assert run.state is expected
    assert len(note.sent("undo")) == 1


async def test_a_guard_that_never_reached_the_kill_switch_lets_no_undo_pass(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """The guard could not read the database: the refusal is another gate's, and the brake behind it may be held."""
    unread = outcomes.GateAnswer(outcomes.Gate.FRESHNESS, is_passed=False, sentence="the database does not answer")
    blind = outcomes.Denied(unread.gate, unread.sentence, (unread,))
    stage.verdicts = [NOT_RECOVERED]
    stage.guard_answers = [support.ALLOWED, blind]
    edges = [support.edge("undo", "grow")]
    run_id = await driven.submit(support.plan(support.act("grow"), verify=VERIFY, on_failure=edges))
    await support.play(driven)
    assert note.sent("undo") == []
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent("undo")) == (State.ROLLED_BACK, ["grow:undo"])


async def test_what_was_done_in_part_has_acted(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction
) -> None:
    """Some nodes took it and others refused: the run fails without another try, and its cooldown counts."""
    note.answers["apply"] = [errors.PartlyDoneError("done on n1, not on all: n2 refused")]
    run_id = await driven.submit(support.plan(support.act("flush", attempts=3)))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent()) == (State.FAILED, ["flush"])
    assert run.acted_at is not None
    assert "done in part" in run.sentence


async def test_an_undo_done_in_part_is_named_as_not_undone(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """It is not tried again, and the run says where to look."""
    stage.verdicts = [NOT_RECOVERED]
    note.answers["undo"] = [errors.PartlyDoneError("done on n1, not on all")]
    edges = [support.edge("undo", "grow")]
    run_id = await driven.submit(support.plan(support.act("grow"), verify=VERIFY, on_failure=edges))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, len(note.sent("undo"))) == (State.FAILED, 1)
    assert "not undone: grow" in run.sentence


@pytest.mark.parametrize(("node", "has_acted"), [("node-1", False), ("", True)])
async def test_a_probe_of_a_whole_service_does_not_say_that_nothing_happened(
    store: house.House, clock: FakeClock, stage: support.Stage, node: str, has_acted: bool
) -> None:
    """Some node lacks the effect: on one node that means nothing happened, on many it means that not all have it."""
    note = support.NotingAction(plans.Reentry.PROBE)
    note.answers["apply"] = [errors.OutcomeUnknownError("n2 gave no answer")]
    driven = support.make_engine(store, clock, stage, {"note": note})
    await driven._member.join()
    run_id = await driven.submit(support.plan(node=node))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, run.acted_at is not None) == (State.FAILED, has_acted)
    await driven.stop()


async def test_cancelling_between_two_tries_in_doubt_does_not_say_that_nothing_was_done(
    driven: engine.RunEngine, store: house.House, note: support.NotingAction
) -> None:
    """The first try may have happened: the run says so, and its cooldown counts."""
    note.answers["apply"] = [errors.OutcomeUnknownError("cut off")]
    run_id = await driven.submit(support.plan(support.act("flush", attempts=2)))
    await support.play(driven)
    assert await driven.cancel(run_id, "anna") is State.CANCELLED
    run = await store.runs.get(run_id)
    assert "may have happened" in run.sentence
    assert run.acted_at is not None


async def test_escalation_survives_a_silent_alertmanager(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """The run ends at once; the message is tried again, at a bounded distance, until it is delivered, once."""
    note.answers["apply"] = [errors.GiveUpError("refused")]
    stage.notifier_errors = [errors.RetryLaterError("no answer")] * 6
    stage.notifier_errors += [errors.GiveUpError("bad request")] * 4
    run_id = await driven.submit(support.plan(on_failure=[support.edge("escalate", "anna")]))
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, stage.escalated) == (State.FAILED, [])
    for _ in range(500):
        clock.move(1.0)
        await support.play(driven)
    assert stage.escalated == [("anna", run.sentence)]
    assert (await support.kinds(store, run_id)).count("escalated") == 1


async def test_refused_follow_up_is_written_down(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """The guard refuses the follow-up: the log says so with the reason, and the escalation goes out all the same."""
    note.answers["apply"] = [errors.GiveUpError("refused")]
    stage.follow_up_errors = [errors.ConflictError("cooldown")]
    edges = [support.edge("run", "degrade"), support.edge("escalate", "anna")]
    run_id = await driven.submit(support.plan(on_failure=edges))
    await support.play_to_end(driven, store, clock, run_id)
    await support.play(driven)
    follow_up = next(one for one in await store.runs.events(run_id) if one.kind == "follow_up")
    assert follow_up.data == {"runbook": "degrade", "refused": "cooldown"}
    assert [to for to, _ in stage.escalated] == ["anna"]


async def test_follow_up_is_not_started_long_after_the_failure(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """A follow-up whose target stays unreachable is given up when it would surprise more than help."""
    note.answers["apply"] = [errors.GiveUpError("refused")]
    stage.follow_up_errors = [errors.RetryLaterError("unreachable")] * 1000
    run_id = await driven.submit(support.plan(on_failure=[support.edge("run", "degrade")]))
    await support.play_to_end(driven, store, clock, run_id)
    for _ in range(int(config.RunSettings().follow_up_patience_seconds / 30) + 10):
        clock.move(30.0)
        await support.play(driven)
    assert (await support.kinds(store, run_id))[-1] == "follow_up"
    assert stage.follow_ups == []


@pytest.mark.parametrize("is_parked", [False, True])
async def test_cancel_ends_a_run_and_frees_its_target(
    driven: engine.RunEngine, store: house.House, stage: support.Stage, note: support.NotingAction, is_parked: bool
) -> None:
    """A queued or waiting run ends at once; what it did stays and is named; the target is free again."""
    stage.is_ready = False
    run_id = await driven.submit(support.plan(support.act("grow"), support.wait("ready")))
    if is_parked:
        await support.play(driven)
    assert await driven.cancel(run_id, "anna") is State.CANCELLED
    run = await store.runs.get(run_id)
    assert ("done and kept: grow" if is_parked else "nothing was done") in run.sentence
    assert stage.num_changes == 1
    assert await driven.cancel(run_id, "anna") is State.CANCELLED
    assert (await support.kinds(store, run_id)).count("ended") == 1
    assert await driven.submit(support.plan()) != run_id


async def test_cancel_of_a_driven_run_stops_it_before_the_next_step(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction
) -> None:
    """A run in the middle of a step finishes that step, and the next one is never sent."""
    run_id = await driven.submit(support.plan(support.act("one"), support.act("two")))
    note.may_answer.clear()
    assert await driven.claim_due() == 1
    await note.entered.wait()
    assert await driven.cancel(run_id, "anna") is State.RUNNING
    note.may_answer.set()
    await driven.settle()
    run = await support.play_to_end(driven, store, clock, run_id)
    assert (run.state, note.sent()) == (State.CANCELLED, ["one"])
    assert run.sentence == "cancelled on request; done and kept: one"


async def test_cancel_of_an_unknown_run_says_so(driven: engine.RunEngine) -> None:
    """A wrong id is an error, not a silent success."""
    with pytest.raises(errors.NotFoundError, match="run_nothing"):
        await driven.cancel("run_nothing", "anna")
