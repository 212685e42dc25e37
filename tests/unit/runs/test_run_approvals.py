"""Steps that ask people: who may answer, what the answers do, and what a run costs while it waits."""

from datetime import timedelta

import pytest

from controlplane.domain import errors, outcomes, runs
from controlplane.runs import asking, engine, failpoints, ledger
from controlplane.store import house, tables
from tests.support import clock as clocks
from tests.support import runs as support
from tests.support.clock import FakeClock

State = outcomes.RunState


@pytest.fixture
async def asked(driven: engine.RunEngine) -> str:
    """A run that waits for one person before it flushes."""
    run_id = await driven.submit(support.plan(support.ask(), support.act("flush")))
    await support.play(driven)
    return run_id


async def answer(
    driven: engine.RunEngine, run_id: str, who: str = "anna", *, yes: bool = True, reason: str = "", of: str = "hash"
) -> None:
    await driven.answer(run_id, who, is_approved=yes, reason=reason, plan_hash=of)


async def test_a_run_waits_for_people_without_a_task_and_goes_on_when_one_agrees(
    driven: engine.RunEngine, store: house.House, note: support.NotingAction, asked: str
) -> None:
    """It holds its target and nothing else; the answer wakes it at once, and stands in its log with its reason."""
    run = await store.runs.get(asked)
    assert (run.state, driven._tasks, note.told) == (State.WAITING, set(), [])
    assert run.question is not None
    with pytest.raises(errors.ConflictError, match="is working on chat/node-1"):
        await driven.submit(support.plan())
    await answer(driven, asked, reason="looked at it")
    assert driven._wake.is_set()
    await support.play(driven)
    run = await store.runs.get(asked)
    assert (run.state, note.sent(), run.question) == (State.SUCCEEDED, ["flush"], None)
    assert await support.kinds(store, asked) == [
        "submitted",
        "step_started",
        "approval_asked",
        "escalated",
        "approved",
        "step_finished",
        "step_started",
        "step_finished",
        "ended",
    ]
    said = {one.kind: one.data.get("sentence") for one in await store.runs.events(asked) if one.step == "agree"}
    assert said[runs.RunEventKind.APPROVED] == "approved by anna: looked at it"
    assert said[runs.RunEventKind.STEP_FINISHED] == "approved by anna"
    [kept] = await store.runs.approvals(asked)
    assert (kept.step, kept.who, kept.is_approved, kept.plan_hash) == ("agree", "anna", True, "hash")


async def test_one_no_ends_the_run_with_who_and_why(
    driven: engine.RunEngine, store: house.House, note: support.NotingAction, stage: support.Stage, asked: str
) -> None:
    """Nothing is sent, nobody is called besides, and the target is free again."""
    await answer(driven, asked, "ben", yes=False, reason="not during the launch")
    await support.play(driven)
    run = await store.runs.get(asked)
    assert (run.state, note.told, run.acted_at) == (State.CANCELLED, [], None)
    assert run.sentence == "rejected by ben: not during the launch; nothing was done"
    assert (stage.escalated, len(stage.asked)) == ([], 1)
    await driven.submit(support.plan())


async def test_time_that_is_over_ends_the_run_and_only_tells_people(
    driven: engine.RunEngine,
    store: house.House,
    clock: FakeClock,
    note: support.NotingAction,
    stage: support.Stage,
) -> None:
    """No follow-up, no undo: those whom the runbook names hear of it, and a late answer is refused."""
    edges = [support.edge("undo", "flush"), support.edge("run", "restore"), support.edge("escalate", "cache-team")]
    steps = (support.act("flush"), support.ask(quorum=2))
    run_id = await driven.submit(support.plan(*steps, on_failure=edges))
    await support.play(driven)
    await answer(driven, run_id)
    clock.move(3599.0)
    await support.play(driven)
    assert (await store.runs.get(run_id)).state is State.WAITING
    clock.move(1.0)
    with pytest.raises(errors.ConflictError, match="has expired"):
        await answer(driven, run_id, "ben")
    await support.play(driven)
    run = await store.runs.get(run_id)
    assert (run.state, run.sentence) == (State.CANCELLED, "only 1 of 2 approved within 1 h; done and kept: flush")
    assert [to for to, _ in stage.escalated] == ["cache-team"]
    assert (stage.follow_ups, note.sent("undo")) == ([], [])


async def test_an_answer_that_comes_early_is_kept_and_counts(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction, stage: support.Stage
) -> None:
    """It does not hurry the steps before; when the turn comes nobody has to be asked any more."""
    note.answers["apply"] = [errors.RetryLaterError("busy", delay_seconds=20.0)]
    steps = (support.act("flush", attempts=2), support.ask(), support.act("warm"))
    run_id = await driven.submit(support.plan(*steps))
    await support.play(driven)
    await answer(driven, run_id)
    await support.play(driven)
    assert len(note.told) == 1
    clock.move(20.0)
    await support.play(driven)
    run = await store.runs.get(run_id)
    assert (run.state, note.sent(), stage.asked) == (State.SUCCEEDED, ["flush", "flush", "warm"], [])


async def test_answers_that_may_not_count_are_refused_and_leave_nothing(
    driven: engine.RunEngine, store: house.House, asked: str
) -> None:
    """Another plan, one's own request, a run that is over, one that never asks, one that is not there."""
    with pytest.raises(errors.ConflictError, match="is hash, not other as answered"):
        await answer(driven, asked, of="other")
    with pytest.raises(errors.ConflictError, match=r"tester asked for .* somebody else has to"):
        await answer(driven, asked, "tester")
    assert await store.runs.approvals(asked) == ()
    await driven.cancel(asked, "anna")
    with pytest.raises(errors.ConflictError, match="is cancelled and asks nobody any more"):
        await answer(driven, asked)
    silent = await driven.submit(support.plan(node="node-2"))
    with pytest.raises(errors.ConflictError, match="is queued and asks nobody"):
        await answer(driven, silent)
    with pytest.raises(errors.NotFoundError, match="no run run_9"):
        await answer(driven, "run_9")


async def test_a_silent_alertmanager_delays_the_call_and_an_end_of_the_question_ends_it(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage
) -> None:
    """People hear of what still waits for them, however late; not of what was cancelled meanwhile."""
    stage.notifier_errors = [errors.RetryLaterError("Alertmanager is silent")] * 2
    over, waits = [await driven.submit(support.plan(support.ask(), node=node)) for node in ("node-1", "node-2")]
    await support.play(driven)
    assert (stage.asked, await driven.cancel(over, "anna")) == ([], State.CANCELLED)
    assert (await store.runs.get(over)).sentence == "cancelled on request; nothing was done"
    clock.move(60.0)
    await support.play(driven)
    [(run_id, to, said, until)] = stage.asked
    assert (run_id, to, until) == (waits, "approvers", clocks.START + timedelta(hours=1))
    assert f"`dsctl runs approve {waits}` within 1 h" in said


async def test_a_reason_to_act_that_is_gone_takes_the_question_back(
    driven: engine.RunEngine, store: house.House, asked: str
) -> None:
    """Only while nothing has happened and nobody has decided; the log tells it as the guard's refusal."""
    assert await driven.withdraw(asked, "no source reports incident inc_1 any more")
    run = await store.runs.get(asked)
    assert (run.state, run.sentence) == (
        State.CANCELLED,
        "nothing was done: no source reports incident inc_1 any more",
    )
    assert "guard_denied" in await support.kinds(store, asked)
    assert not await driven.withdraw(asked, "again")
    acted = await driven.submit(support.plan(support.act("flush"), support.ask()))
    await support.play(driven)
    assert not await driven.withdraw(acted, "too late: it has acted")
    assert (await store.runs.get(acted)).state is State.WAITING


async def test_an_answer_while_the_run_falls_asleep_is_not_slept_through(
    driven: engine.RunEngine, store: house.House, clock: FakeClock
) -> None:
    """Somebody answers after the answers were weighed and before the run is parked."""
    run_id, database, owner = await driven.submit(support.plan(support.ask())), store.database, driven._member.id
    [claim] = await database.write(lambda connection: ledger.claim(connection, owner, clock.now(), 1))
    move = asking.weigh(claim, (), clock.now())
    await answer(driven, run_id)
    await database.write(lambda connection: ledger.commit(connection, owner, claim, move, clock.now()))
    assert await database.read(lambda connection: ledger.has_due(connection, clock.now()))


async def test_waiting_for_people_costs_nothing(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, asked: str
) -> None:
    """In its whole hour the run is claimed once; other runs look up every five minutes at least."""
    for _ in range(11):
        clock.move(300.0)
        await support.play(driven)
    found = await store.runs.find(state="asking")
    assert [(one.id, one.deadline_at) for one in found] == [(asked, clocks.START + timedelta(hours=1))]
    await answer(driven, asked)
    assert (await store.runs.events(asked))[-1].token == 1


async def test_a_restart_finds_the_question_and_its_answers(
    driven: engine.RunEngine,
    store: house.House,
    clock: FakeClock,
    note: support.NotingAction,
    stage: support.Stage,
    asked: str,
) -> None:
    """Another process goes on where the first was: nobody is called again, what was said still counts."""
    await answer(driven, asked)
    other = support.make_engine(store, clock, stage, {"note": note}, fail_points=failpoints.FailPoints())
    await other._member.join()
    await support.play(other)
    assert ((await store.runs.get(asked)).state, note.sent(), len(stage.asked)) == (
        State.SUCCEEDED,
        ["flush"],
        1,
    )
    await other.stop()


async def test_an_answer_counts_only_for_the_question_that_was_looked_at(
    driven: engine.RunEngine, store: house.House, note: support.NotingAction
) -> None:
    """A second click, or a second person a moment later, approves nothing that nobody has read."""
    plan = support.plan(support.ask(), support.act("flush"), support.ask("again"), support.act("warm"))
    run_id = await driven.submit(plan)
    await support.play(driven)
    for who in ("anna", "bert"):
        said = driven.answer(run_id, who, is_approved=True, reason="", plan_hash="hash", step="agree")
        if who == "anna":
            await said
            await support.play(driven)
            continue
        with pytest.raises(errors.ConflictError, match="asks about step again by now, not agree"):
            await said
    assert ((await store.runs.get(run_id)).state, note.sent()) == (State.WAITING, ["flush"])


@pytest.mark.parametrize("by", ["a person", "the next start"])
async def test_a_question_that_cannot_be_read_any_more_is_ended(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, asked: str, by: str
) -> None:
    """It would sleep for as long as it asks, and keep every other run from being read meanwhile."""
    await store.database.write(
        lambda connection: connection.execute(tables.RUN.update().values(plan={"id": 1}, state=State.WAITING))
    )
    with pytest.raises(errors.InvariantBrokenError, match=f"run {asked}: .*dsctl runs cancel {asked}"):
        await store.runs.find(state="unfinished")
    if by == "a person":
        assert await driven.cancel(asked, "anna") is State.NEEDS_HUMAN
    else:
        other = support.make_engine(store, clock, stage, {})
        await other.join()
        await other.stop()
    assert await store.runs.find(state="unfinished") == ()
