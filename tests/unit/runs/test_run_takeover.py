"""Death and takeover: what is in doubt, who may write, leases, leadership."""

import asyncio
import dataclasses

import pytest
import sqlalchemy as sa
from sqlalchemy import event, exc

from actions import api
from controlplane.domain import errors, outcomes, plans
from controlplane.runs import engine, ledger, moves
from controlplane.store import house, tables
from tests.support import runs as support
from tests.support.clock import FakeClock

State = outcomes.RunState


async def _die_in_flight(dying: engine.RunEngine, store: house.House) -> moves.Claim:
    """Claim what is due as `dying` would, and never drive it: what a kill -9 leaves behind."""
    claims = await store.database.write(lambda connection: dying._claim(connection, 10))
    return next(iter(claims))


async def _restart(
    store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> engine.RunEngine:
    restarted = support.make_engine(store, clock, stage, {"note": note})
    await restarted._member.join()
    return restarted


async def test_idempotent_step_in_doubt_is_announced_and_sent_again(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> None:
    """After a restart the step is repeated with its key, under a higher token, after a record of its own."""
    run_id = await driven.submit(support.plan())
    lost = await _die_in_flight(driven, store)
    restarted = await _restart(store, clock, stage, note)
    run = await support.play_to_end(restarted, store, clock, run_id)
    assert (run.state, note.sent()) == (State.SUCCEEDED, ["flush"])
    assert note.told[0].token > lost.token
    seen = await support.kinds(store, run_id)
    assert seen.count("step_started") == 2
    assert seen.count("reclaimed") == 1


async def test_probed_step_that_happened_is_not_repeated(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage
) -> None:
    """An action that can be looked at is looked at; the effect that is there counts, and nothing is sent."""
    note = support.NotingAction(plans.Reentry.PROBE)
    note.probed = api.Applied(api.ActionResult("flushed at 09:00"))
    run_id = await driven.submit(support.plan())
    await _die_in_flight(driven, store)
    restarted = await _restart(store, clock, stage, note)
    run = await support.play_to_end(restarted, store, clock, run_id)
    assert (run.state, [one.verb for one in note.told]) == (State.SUCCEEDED, ["probe"])
    assert run.acted_at == support.plan().created_at


async def test_probed_step_that_did_not_happen_is_sent_once(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage
) -> None:
    """Looking finds nothing: the step is announced again and sent."""
    note = support.NotingAction(plans.Reentry.PROBE)
    run_id = await driven.submit(support.plan())
    await _die_in_flight(driven, store)
    restarted = await _restart(store, clock, stage, note)
    run = await support.play_to_end(restarted, store, clock, run_id)
    assert (run.state, [one.verb for one in note.told]) == (State.SUCCEEDED, ["probe", "apply"])


@pytest.mark.parametrize("reentry", [plans.Reentry.PROBE, plans.Reentry.MANUAL])
async def test_doubt_nobody_can_settle_waits_for_a_person(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, reentry: plans.Reentry
) -> None:
    """A manual step is never repeated, a probe that cannot tell does not repeat either; a person is told."""
    note = support.NotingAction(reentry)
    note.probed = api.CannotTell("no log there")
    run_id = await driven.submit(support.plan())
    await _die_in_flight(driven, store)
    restarted = await _restart(store, clock, stage, note)
    run = await support.play_to_end(restarted, store, clock, run_id)
    assert (run.state, note.sent()) == (State.NEEDS_HUMAN, [])
    assert run.acted_at is not None  # for the cooldown, what may have happened has
    assert [to for to, _ in stage.escalated] == ["oncall"]
    assert "chat/node-1" in run.sentence


async def test_doubt_waits_for_the_guard_before_it_repeats(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> None:
    """Right after a restart metrics are unknown and the guard holds; the repeat waits for it, announced only then."""
    run_id = await driven.submit(support.plan())
    await _die_in_flight(driven, store)
    stale = support.denied(outcomes.Gate.FRESHNESS, "metrics are unknown")
    stage.guard_answers = [stale, errors.RetryLaterError("no metrics"), stale]
    restarted = await _restart(store, clock, stage, note)
    run = await support.play_to_end(restarted, store, clock, run_id)
    assert (run.state, note.sent()) == (State.SUCCEEDED, ["flush"])
    assert (await support.kinds(store, run_id)).count("step_started") == 2


async def test_doubt_the_guard_never_allows_to_repeat_goes_to_a_person(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> None:
    """ "Nothing was done" would be a lie: after the patience is over the run says that it may have happened."""
    run_id = await driven.submit(support.plan())
    await _die_in_flight(driven, store)
    stage.guard_answers = [support.denied(outcomes.Gate.KILL_SWITCH, "anna holds the brake")] * 100
    restarted = await _restart(store, clock, stage, note)
    run = await support.play_to_end(restarted, store, clock, run_id)
    assert (run.state, note.told) == (State.NEEDS_HUMAN, [])
    assert run.acted_at is not None
    assert "may have happened" in run.sentence
    assert "anna holds the brake" in run.sentence


async def test_step_that_kills_its_process_is_not_tried_for_ever(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> None:
    """A step that takes the process down each time ends at a person after a bounded number of tries."""
    run_id = await driven.submit(support.plan())
    alive = driven
    for _ in range(40):
        claim = await _die_in_flight(alive, store)
        alive = await _restart(store, clock, stage, note)
        if claim.cursor.attempt > support.SETTINGS.max_reentries:
            break
        again = await store.database.write(lambda connection, by=alive: by._claim(connection, 1))
        await alive._driver._commit(next(iter(again)), await alive._driver._next(next(iter(again))))
        alive = await _restart(store, clock, stage, note)
    run = await support.play_to_end(alive, store, clock, run_id)
    assert run.state is State.NEEDS_HUMAN
    assert "times; look at the target" in run.sentence


async def test_undo_in_flight_at_a_crash_is_repeated_only_if_idempotent(
    store: house.House, clock: FakeClock, stage: support.Stage
) -> None:
    """An idempotent undo is sent again with its key; any other leaves the run to a person."""
    worse = outcomes.Judged(outcomes.Verdict.WORSE, "slower", has_control=True)
    spec = plans.VerifySpec(("latency_p99",), 60, 30)
    ends: list[State] = []
    for reentry in (plans.Reentry.IDEMPOTENT, plans.Reentry.PROBE):
        note = support.NotingAction(reentry)
        stage.verdicts = [worse]
        dying = await _restart(store, clock, stage, note)
        note.answers["undo"] = [errors.LostLeaseError("the process died here")]
        edges = [support.edge("undo", "flush")]
        run_id = await dying.submit(support.plan(verify=spec, on_failure=edges))
        await support.play(dying)
        restarted = await _restart(store, clock, stage, note)
        ends.append((await support.play_to_end(restarted, store, clock, run_id)).state)
    assert ends == [State.ROLLED_BACK, State.NEEDS_HUMAN]


async def test_overtaken_owner_cannot_write(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> None:
    """A replica that lost its run changes neither row nor log, whatever it still believes."""
    run_id = await driven.submit(support.plan())
    stale = await _die_in_flight(driven, store)
    restarted = await _restart(store, clock, stage, note)
    await support.play(restarted)
    before = await store.runs.events(run_id)
    assert await driven._driver.drive(stale) is None
    assert await store.runs.events(run_id) == before


async def test_commit_whose_answer_was_lost_is_not_written_twice(
    driven: engine.RunEngine, store: house.House, clock: FakeClock
) -> None:
    """The commit arrived but its answer did not: the second attempt finds it done instead of a lost lease."""
    run_id = await driven.submit(support.plan(support.act("one"), support.act("two")))
    claim = await _die_in_flight(driven, store)
    move = await driven._driver._next(claim)
    first = await driven._driver._commit(claim, move)
    assert await driven._driver._commit(claim, move) == first
    assert (await support.kinds(store, run_id)).count("step_finished") == 1


async def test_commit_is_repeated_while_the_lease_holds(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction
) -> None:
    """A database that fails during the commit costs time, not the outcome: the effect is not repeated."""
    run_id = await driven.submit(support.plan())
    claim = await _die_in_flight(driven, store)
    broken = [2]

    def fail(connection: sa.Connection) -> None:
        if broken[0]:
            broken[0] -= 1
            raise exc.OperationalError("COMMIT", None, Exception("disk I/O error"))

    event.listen(store.database._write_engine, "commit", fail)
    driving = asyncio.ensure_future(driven._driver.drive(claim))
    while not driving.done():
        clock.move(0.2)
        await asyncio.to_thread(lambda: None)
    assert await driving is State.SUCCEEDED
    assert (broken, note.sent()) == ([0], ["flush"])
    assert (await store.runs.get(run_id)).state is State.SUCCEEDED


async def test_stale_lease_starts_no_effect(
    store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> None:
    """A replica that could not renew its lease for 0.8 of it stops by itself, before others take over."""
    settings = dataclasses.replace(support.SETTINGS, lease_seconds=6.0)
    tired = support.make_engine(store, clock, stage, {"note": note}, settings)
    await tired._member.join()
    run_id = await tired.submit(support.plan())
    claim = await _die_in_flight(tired, store)
    clock.move(5.0)
    assert not tired.is_live
    assert await tired._driver.drive(claim) is None
    assert note.told == []
    assert (await store.runs.get(run_id)).state is State.RUNNING


async def test_orphan_is_requeued_at_the_second_heartbeat(driven: engine.RunEngine, store: house.House) -> None:
    """A run the database gives to this replica and memory does not know is put back, but not too hastily."""
    run_id = await driven.submit(support.plan())
    await _die_in_flight(driven, store)
    await asyncio.to_thread(driven._member.beat)
    assert (await store.runs.get(run_id)).state is State.RUNNING
    await asyncio.to_thread(driven._member.beat)
    assert (await store.runs.get(run_id)).state is State.QUEUED


async def test_replica_whose_row_is_gone_stops_for_good(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> None:
    """The name was started twice: the first one notices at its heartbeat and never claims again."""
    await _restart(store, clock, stage, note)
    await asyncio.to_thread(driven._member.beat)
    assert driven._member.is_gone
    await driven.submit(support.plan())
    assert await driven.claim_due() == 0
    assert await driven.lead("tick") is None


async def test_dead_replica_is_taken_over_when_its_lease_ends(
    driven: engine.RunEngine, store: house.House, clock: FakeClock
) -> None:
    """With several replicas, the runs of one that stopped renewing go back to the queue at a heartbeat of another."""
    run_id = await driven.submit(support.plan())
    await _die_in_flight(driven, store)
    other = {"id": "other/1", "name": "other", "started_at": clock.now(), "lease_until": clock.now()}
    await store.database.write(lambda c: c.execute(tables.REPLICA.insert(), other))
    await store.database.write(lambda c: c.execute(tables.RUN.update().values(owner="other/1")))
    await asyncio.to_thread(driven._member.beat)
    assert (await store.runs.get(run_id)).state is State.QUEUED


async def test_leader_keeps_its_epoch_and_hands_it_on(
    driven: engine.RunEngine, store: house.House, clock: FakeClock
) -> None:
    """One holder at a time; the epoch grows only when the holder changes; a dead member does not hold on."""
    assert await driven.lead("tick") == 1
    assert await driven.lead("tick") == 1
    other = {"id": "other/1", "name": "other", "started_at": clock.now(), "lease_until": clock.now()}

    def usurp(connection: sa.Connection) -> None:
        connection.execute(tables.REPLICA.insert(), other)
        connection.execute(tables.LEADER.update().values(holder="other/1", epoch=2))

    await store.database.write(usurp)
    assert await driven.lead("tick") is None
    await store.database.write(lambda c: c.execute(tables.REPLICA.delete().where(tables.REPLICA.c.id == "other/1")))
    assert await driven.lead("tick") == 3


async def test_graceful_stop_hands_over_at_the_step_border(
    store: house.House, clock: FakeClock, stage: support.Stage, note: support.NotingAction
) -> None:
    """A stopping replica finishes the running step, starts no other, and leaves nothing in doubt."""
    stopping = await _restart(store, clock, stage, note)
    run_id = await stopping.submit(support.plan(support.act("one"), support.act("two")))
    note.may_answer.clear()
    await stopping.claim_due()
    await note.entered.wait()
    leaving = asyncio.ensure_future(stopping.stop())
    await asyncio.to_thread(lambda: None)
    note.may_answer.set()
    await leaving
    assert note.sent() == ["one"]
    restarted = await _restart(store, clock, stage, note)
    run = await support.play_to_end(restarted, store, clock, run_id)
    assert (run.state, note.sent()) == (State.SUCCEEDED, ["one", "two"])
    assert "reclaimed" not in await support.kinds(store, run_id)


async def test_unreadable_run_does_not_stop_the_others(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, stage: support.Stage
) -> None:
    """A row this version cannot read ends at a person, and the runs behind it are driven."""
    bad = await driven.submit(support.plan())
    await store.database.write(lambda c: c.execute(tables.RUN.update().values(cursor={"phase": "dreaming"})))
    good = await driven.submit(support.plan(node="node-2"))
    await support.play(driven)

    def state(connection: sa.Connection) -> str:
        return connection.execute(sa.select(tables.RUN.c.state).where(tables.RUN.c.id == bad)).scalar_one()

    assert await store.database.read(state) == "needs_human"
    assert (await store.runs.get(good)).state is State.SUCCEEDED
    assert [to for to, _ in stage.escalated] == ["oncall"]


async def test_started_engine_drives_by_itself(
    store: house.House, stage: support.Stage, note: support.NotingAction, clock: FakeClock
) -> None:
    """`start` claims and drives without being asked, and `stop` gives the replica's row back."""
    alive = support.make_engine(store, clock, stage, {"note": note})
    await alive.start()
    run_id = await alive.submit(support.plan())
    async with asyncio.timeout(10):
        while not (await store.runs.get(run_id)).state.is_final:
            clock.move(0.1)
    assert alive.is_live
    await alive.stop()
    assert not alive.is_live
    count = sa.select(sa.func.count()).select_from(tables.REPLICA)
    assert await store.database.read(lambda c: c.execute(count).scalar_one()) == 0


async def test_running_run_is_found_by_its_owner(driven: engine.RunEngine, store: house.House) -> None:
    """The comparison of rows and memory is by run and token."""
    await driven.submit(support.plan())
    claim = await _die_in_flight(driven, store)
    owned = await store.database.read(lambda c: ledger.find_owned(c, driven._member.id))
    assert owned == {(claim.run_id, claim.token)}
