"""Dispatch and recheck: one door, the same gates at both moments, every answer kept."""

import asyncio
import dataclasses
from datetime import timedelta

import pytest

from controlplane import expressions
from controlplane.domain import errors, outcomes, plans, policies, remediation, windows
from controlplane.engine import facts, recheck
from tests.support import builders as b
from tests.support.clock import START, FakeClock
from tests.support.fakes import FakeSignalReader
from tests.support.loop import Loop

Gate = outcomes.Gate


@pytest.fixture
def loop(clock: FakeClock) -> Loop:
    """A loop with one incident that fires."""
    made = Loop(clock)
    made.incidents.incidents["inc_1"] = b.incident()
    made.alerts.fire(b.alert())
    return made


def gate_of(answer: outcomes.Allowed | outcomes.Denied) -> outcomes.Gate | None:
    return answer.gate if isinstance(answer, outcomes.Denied) else None


async def test_an_allowed_request_becomes_a_run_and_a_decision(loop: Loop) -> None:
    """The run is stored, the answers of all gates are kept with its id."""
    answer = await loop.remediator.remediate(b.request())
    assert isinstance(answer, remediation.Submitted)
    (decision,) = loop.decisions.decisions
    assert (decision.outcome, decision.run_id, decision.plan_id) == ("allowed", answer.run_id, "plan_1")
    assert len(decision.answers) == len(Gate)


async def test_a_refusal_is_kept_with_its_numbers_and_starts_nothing(loop: Loop) -> None:
    """Why not can be asked later."""
    loop.automation.brakes["ada"] = "release"
    answer = await loop.remediator.remediate(b.request())
    assert isinstance(answer, remediation.Refused)
    (decision,) = loop.decisions.decisions
    assert (decision.id, decision.outcome, decision.policy) == (answer.decision_id, "denied", "cache-poisoned")
    assert decision.answers[-1].numbers == {"held_by": ["ada"]}
    assert loop.runs.runs == {}


async def test_a_preview_stores_nothing(loop: Loop) -> None:
    """Dry run is the plan and the guard's answer."""
    preview = await loop.remediator.preview(b.manual())
    assert isinstance(preview.guard, outcomes.Allowed)
    assert (loop.decisions.decisions, loop.runs.runs) == ([], {})


async def test_what_was_approved_is_what_runs(loop: Loop) -> None:
    """A plan whose hash moved on is a conflict, and nothing runs."""
    with pytest.raises(errors.ConflictError, match="not old as approved"):
        await loop.remediator.remediate(b.manual(), expected_hash="old")
    assert loop.runs.runs == {}
    same = (await loop.remediator.preview(b.manual())).plan.hash
    answer = await loop.remediator.remediate(b.manual(), expected_hash=same)
    assert isinstance(answer, remediation.Submitted)


async def test_an_unmanaged_service_is_not_found(loop: Loop) -> None:
    """The guard cannot answer for what it does not know."""
    with pytest.raises(errors.NotFoundError, match=r"search is not in services\.yaml"):
        await loop.remediator.remediate(b.manual(service="search"))


async def test_two_requests_at_once_cannot_share_the_blast_radius(loop: Loop) -> None:
    """Guard and submission are one step: the second sees the first."""
    loop.planner.blast = lambda request: plans.BlastRadius((request.node,), (request.node,), is_destructive=True)
    asked = [b.manual(runbook="restart-node", node=node) for node in ("node-a", "node-b")]
    answers = await asyncio.gather(*(loop.remediator.remediate(one) for one in asked))
    assert sorted(type(answer).__name__ for answer in answers) == ["Refused", "Submitted"]
    (refused,) = [answer for answer in answers if isinstance(answer, remediation.Refused)]
    assert refused.guard.gate is Gate.BLAST_RADIUS


async def test_a_submitter_that_cannot_store_is_told_to_the_caller(loop: Loop) -> None:
    """Nothing claims to run."""
    loop.submitter.error = errors.OverloadedError("the queue is full")
    with pytest.raises(errors.OverloadedError):
        await loop.remediator.remediate(b.request())
    assert loop.decisions.decisions == []


async def submitted(loop: Loop, request: plans.PlanRequest | None = None) -> tuple[plans.Plan, str]:
    answer = await loop.remediator.remediate(request or b.request())
    assert isinstance(answer, remediation.Submitted)
    return answer.plan, answer.run_id


async def test_the_run_that_asks_does_not_count_against_itself(loop: Loop) -> None:
    """Neither in flight, nor cooldown, nor rate."""
    plan, run_id = await submitted(loop, b.request(limits=policies.GuardLimits(max_per_hour=1)))
    assert gate_of(await loop.guard.recheck(plan, run_id)) is None
    assert gate_of(await loop.guard.recheck(plan, "run_other")) is Gate.IN_FLIGHT


@pytest.mark.parametrize(
    ("offered", "refused_by", "why"),
    [
        ({"cache-poisoned": policies.Mode.AUTO}, None, ""),
        ({"cache-poisoned": policies.Mode.SUGGEST}, Gate.MODE, "policy cache-poisoned is in mode suggest by now"),
        ({}, Gate.MODE, "policy cache-poisoned is gone"),
    ],
)
async def test_a_run_does_not_outlive_the_leave_of_its_policy(
    loop: Loop, offered: dict[str, policies.Mode], refused_by: outcomes.Gate | None, why: str
) -> None:
    """A mode that was lowered holds for what is stored already; what has acted finishes."""
    plan, run_id = await submitted(loop)
    guard = recheck.Recheck(loop.gatherer, offered=offered)
    answer = await guard.recheck(plan, run_id)
    assert gate_of(answer) is refused_by
    assert isinstance(answer, outcomes.Allowed) or why in answer.sentence
    loop.runs.put(dataclasses.replace(loop.runs.runs[run_id], acted_at=START))
    assert gate_of(await guard.recheck(plan, run_id)) is None


@pytest.mark.parametrize(
    "gate", [Gate.KILL_SWITCH, Gate.RESOLVED, Gate.FRESHNESS, Gate.SILENCE, Gate.IN_FLIGHT, Gate.BLAST_RADIUS]
)
async def test_what_changed_since_planning_is_seen_at_the_moment_of_acting(loop: Loop, gate: outcomes.Gate) -> None:
    """Admission is not execution: each gate is asked on the world as it is now."""
    loop.planner.blast = lambda request: plans.BlastRadius(
        (request.node,), (request.node,) if gate is Gate.BLAST_RADIUS else ()
    )
    plan, run_id = await submitted(loop)
    changes = {
        Gate.KILL_SWITCH: lambda: loop.automation.brakes.update(ada="stop"),
        Gate.RESOLVED: loop.alerts.resolve,
        Gate.FRESHNESS: lambda: setattr(loop.reader, "error", errors.RetryLaterError("Prometheus is gone")),
        Gate.SILENCE: lambda: loop.silences.active.append(b.silence()),
        Gate.IN_FLIGHT: lambda: loop.runs.put(b.run("run_9")),
        Gate.BLAST_RADIUS: lambda: setattr(loop.reader, "fleet", b.view(b.node(), b.node("node-b", up=False))),
    }
    changes[gate]()
    assert gate_of(await loop.guard.recheck(plan, run_id)) is gate


async def test_a_run_that_acted_passes_though_its_alert_resolved(loop: Loop) -> None:
    """Its own success must not strand its next step."""
    plan, run_id = await submitted(loop)
    loop.runs.put(dataclasses.replace(loop.run, acted_at=loop.clock.now()))
    loop.alerts.resolve()
    assert gate_of(await loop.guard.recheck(plan, run_id)) is None


async def test_a_world_that_cannot_be_read_is_a_refusal(loop: Loop) -> None:
    """A database that does not answer never lets an effect through."""
    plan, run_id = await submitted(loop)
    loop.automation.error = errors.RetryLaterError("the database is busy")
    answer = await loop.guard.recheck(plan, run_id)
    assert gate_of(answer) is Gate.FRESHNESS
    assert answer.answers[-1].sentence.endswith("cannot be told: the database is busy")


async def test_an_incident_that_is_gone_is_refused(loop: Loop) -> None:
    """Nobody knows what the run was for."""
    plan, run_id = await submitted(loop)
    loop.incidents.incidents.clear()
    assert gate_of(await loop.guard.recheck(plan, run_id)) is Gate.RESOLVED


async def test_an_incident_of_detectors_is_believed_until_it_is_quiet(loop: Loop) -> None:
    """Detectors speak at ticks only; the incident remembers."""
    seen = b.incident(sources=("forest",))
    loop.incidents.incidents["inc_1"] = seen
    loop.alerts.resolve()
    plan, run_id = await submitted(loop)
    loop.incidents.incidents["inc_1"] = dataclasses.replace(seen, quiet_since=START)
    assert gate_of(await loop.guard.recheck(plan, run_id)) is Gate.RESOLVED


async def test_requests_of_one_tick_share_a_reading_of_the_fleet(loop: Loop) -> None:
    """Planning may use a view that is seconds old; acting may not."""
    await loop.gatherer.context(b.plan())
    await loop.gatherer.context(b.plan())
    assert loop.reader.calls == 1
    loop.clock.move(facts.VIEW_REUSED_SECONDS + 0.1)
    await loop.gatherer.context(b.plan())
    await loop.gatherer.context(b.plan(), is_fresh=True)
    assert loop.reader.calls == 3


async def test_a_store_that_needs_its_whole_deadline_is_asked_once_for_several_incidents(loop: Loop) -> None:
    """Six seconds for each of twenty incidents would be longer than a tick may last."""

    class Slow(FakeSignalReader):
        async def read_now(self) -> windows.FleetView:
            loop.clock.move(6)
            return await super().read_now()

    slow = Slow(loop.clock)
    gatherer = facts.Gatherer(dataclasses.replace(loop.gatherer._sources, reader=slow), loop.services, loop.clock)
    for error in (None, errors.RetryLaterError("Prometheus is gone")):
        slow.error, slow.calls = error, 0
        loop.clock.move(60)
        await gatherer.context(b.plan())
        await gatherer.context(b.plan())
        assert slow.calls == 1


async def test_a_run_that_was_born_long_ago_and_acted_just_now_cools_down(loop: Loop) -> None:
    """A runbook may wait for a day before its step; the cooldown counts from what it did."""
    old = dataclasses.replace(b.ended_run(at=START - timedelta(minutes=1)), created_at=START - timedelta(hours=20))
    loop.runs.put(old)
    assert gate_of((await loop.remediator.preview(b.request())).guard) is Gate.COOLDOWN


async def test_a_cooldown_survives_a_clock_that_was_stepped_back(loop: Loop) -> None:
    """A run from the future cools down from when it was noticed: neither at once nor for ever."""
    loop.runs.put(b.ended_run(at=START + timedelta(days=365)))
    assert gate_of((await loop.remediator.preview(b.request())).guard) is Gate.COOLDOWN
    loop.clock.move(299)
    assert gate_of((await loop.remediator.preview(b.request())).guard) is Gate.COOLDOWN
    loop.clock.move(1)
    assert gate_of((await loop.remediator.preview(b.request())).guard) is None


async def test_a_long_cooldown_looks_back_far_enough(loop: Loop) -> None:
    """History reaches back over the cooldown, however long, and past the hour of the rate limit."""
    loop.runs.put(b.ended_run(at=START - timedelta(hours=40)))
    limits = policies.GuardLimits(cooldown_seconds=48 * 3600.0)
    assert gate_of((await loop.remediator.preview(b.request(limits=limits))).guard) is Gate.COOLDOWN


async def test_wait_conditions_see_inputs_plan_service_and_a_fresh_fleet(clock: FakeClock) -> None:
    """What a runbook waits for is read anew each time."""
    reader = FakeSignalReader(clock)
    found = facts.FleetFacts(reader, {"chat": b.service(minimum=1)}, clock)
    until = (
        'ready_nodes() >= inputs.replicas && plan.target == "chat/node-a" && plan.node == "node-a"'
        ' && plan.service == "chat" && plan.runbook == "flush-cache" && service.min_ready == 1'
        ' && signal("queue_depth") < 1 && now() > timestamp("2026-01-01T00:00:00Z")'
    )
    expressions.check(until, expressions.Kind.WAIT_CONDITION)
    plan = b.plan(b.request(inputs={"replicas": 2}))
    assert expressions.Conditions().is_true(until, await found.variables(plan))
    reader.fleet = b.view(b.node(), b.node("node-b", up=False))
    assert not expressions.Conditions().is_true(until, await found.variables(plan))


async def test_a_wait_condition_holds_while_nothing_can_be_read(clock: FakeClock) -> None:
    """Prometheus gone, or a service that is no longer managed: unknown."""
    reader = FakeSignalReader(clock)
    reader.error = errors.RetryLaterError("Prometheus is gone")
    found = facts.FleetFacts(reader, {}, clock)
    for until in ("ready_nodes() >= 0", 'signal("queue_depth") >= 0', "service.min_ready >= 0"):
        with pytest.raises(errors.InvalidInputError):
            expressions.Conditions().is_true(until, await found.variables(b.plan()))
