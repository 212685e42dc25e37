"""What the guard answers is kept: the breaker stays tripped, and a refusal at the moment of acting has its numbers."""

import dataclasses
from datetime import timedelta

import pytest

from controlplane.domain import (
    approvals,
    breakers,
    capacity,
    errors,
    incidents,
    outcomes,
    plans,
    policies,
    remediation,
    runs,
)
from controlplane.engine import facts
from tests.support import builders as b
from tests.support import capacities
from tests.support.clock import START, FakeClock
from tests.support.loop import Loop

Gate = outcomes.Gate
NAMES = [f"node-{letter}" for letter in "abcdefgh"]
WIDE = policies.GuardLimits(cooldown_seconds=0, max_per_hour=99, max_unavailable=policies.MaxUnavailable(100, 99))


@pytest.fixture
def loop(clock: FakeClock) -> Loop:
    """Eight nodes with one incident that fires; each plan takes its node out of service."""
    made = Loop(clock)
    made.incidents.incidents["inc_1"] = b.incident()
    made.alerts.fire(b.alert())
    made.reader.fleet = b.view(*(b.node(name) for name in NAMES))
    made.planner.blast = lambda request: plans.BlastRadius((request.node,), (request.node,), is_destructive=True)
    made.hands = dataclasses.replace(made.hands, policies=(b.policy(guard=WIDE),))
    return made


def touched(loop: Loop, number: int) -> None:
    """So many nodes were restarted by policies a minute ago."""
    for name in NAMES[:number]:
        plan = b.plan(b.request(node=name, incident_id="inc_9"), blast=plans.BlastRadius((name,), (name,), True))
        loop.runs.put(b.ended_run(f"run_{name}", at=START - timedelta(minutes=1), plan=plan))


async def ask(loop: Loop, node: str, **fields: object) -> remediation.Submitted | remediation.Refused:
    return await loop.remediator.remediate(b.request(node=node, limits=WIDE, **fields))


async def test_the_breaker_latches_until_a_person_resets_it(loop: Loop, clock: FakeClock) -> None:
    """The window passes, the process restarts: it stays open. Reset, it counts anew."""
    touched(loop, 5)
    refused = await ask(loop, "node-f")
    assert isinstance(refused, remediation.Refused)
    assert loop.automation.tripped["chat"].nodes == tuple(NAMES[:6])
    clock.move(3600)
    loop.restarted()
    still = await ask(loop, "node-a")
    assert isinstance(still, remediation.Refused)
    assert still.guard.gate is Gate.BREAKER
    loop.automation.now = clock.now()
    await loop.automation.reset("chat", "ada", "a broken switch")
    assert isinstance(await ask(loop, "node-a"), remediation.Submitted)


async def test_a_dry_run_trips_nothing(loop: Loop) -> None:
    """Looking is free, also for those who look at a policy's plan."""
    touched(loop, 5)
    preview = await loop.remediator.preview(b.request(node="node-f", limits=WIDE))
    assert isinstance(preview.guard, outcomes.Denied)
    assert loop.automation.tripped == {}


async def test_people_are_told_of_an_open_breaker_and_the_incident_goes_on_after_the_reset(loop: Loop) -> None:
    """It is a person's turn, and then automation's again: the incident is not given up."""
    loop.automation.tripped["chat"] = breakers.Breaker("chat", True, START, "6 nodes within 10 min")
    said = await loop.restarted().run()
    assert "the breaker of chat is open" in said.lines[0].sentence
    assert "dsctl automation breaker reset chat" in loop.notifier.told[0][4]
    assert loop.incidents.only.state is incidents.IncidentState.OPEN
    await loop.automation.reset("chat", "ada", "a broken switch")
    await loop.restarted().run()
    assert loop.incidents.only.state is incidents.IncidentState.ACTING


async def test_an_incident_whose_attempts_are_spent_by_its_runs_goes_to_a_person(loop: Loop) -> None:
    """Its own count was lost; what it has run was not."""
    for number in range(3):
        plan = b.plan(b.request(incident_id="inc_1"))
        loop.runs.put(b.ended_run(f"run_{number}", at=START - timedelta(hours=2), plan=plan))
    seen = b.incident(run_id="run_2", attempts=0)
    loop.incidents.incidents["inc_1"] = seen
    said = (await loop.restarted().run()).lines[0].sentence
    assert said == "escalated: policy cache-poisoned has tried 3 times on incident inc_1, it allows 3"
    assert loop.incidents.only.state is incidents.IncidentState.ESCALATED


async def test_what_is_stored_of_attempts_and_cannot_be_read_stops(loop: Loop) -> None:
    """A run that cannot be decoded is a try all the same."""
    find = loop.runs.find

    async def broken(**asked: object) -> object:
        if asked.get("incident_id") is not None:
            raise errors.InvariantBrokenError("a stored Plan cannot be read")
        return await find(**asked)  # type: ignore[arg-type]

    sources = dataclasses.replace(loop.gatherer._sources, runs=_Broken(loop, broken))
    found = await facts.Gatherer(sources, loop.services, loop.clock).context(b.plan())
    assert found.tried is None


class _Broken:
    """The run store with another `find`."""

    def __init__(self, loop: Loop, find: object) -> None:
        self.find = find
        self.events, self.get = loop.runs.events, loop.runs.get


async def submitted(loop: Loop) -> tuple[plans.Plan, str]:
    answer = await ask(loop, "node-a")
    assert isinstance(answer, remediation.Submitted)
    return answer.plan, answer.run_id


async def test_a_refusal_at_the_moment_of_acting_is_kept_with_its_numbers_once(loop: Loop) -> None:
    """`dsctl explain` shows it; a run that asks again and again fills no store."""
    plan, run_id = await submitted(loop)
    loop.automation.brakes["ada"] = "stop"
    for _ in range(3):
        await loop.guard.recheck(plan, run_id)
    (refusal,) = await loop.decisions.find(run_id=run_id, limit=1)
    assert (refusal.outcome, refusal.answers[-1].numbers) == ("denied", {"held_by": ["ada"]})
    assert len(loop.decisions.decisions) == 2
    loop.automation.brakes.clear()
    await loop.guard.recheck(plan, run_id)
    loop.automation.brakes["ada"] = "stop again"
    await loop.guard.recheck(plan, run_id)
    assert len(loop.decisions.decisions) == 3


async def test_a_refusal_that_cannot_be_kept_is_a_refusal(loop: Loop) -> None:
    """A store that is full never lets an effect through."""
    plan, run_id = await submitted(loop)
    loop.automation.brakes["ada"] = "stop"
    loop.decisions.error = errors.OverloadedError("the queue is full")
    assert isinstance(await loop.guard.recheck(plan, run_id), outcomes.Denied)


async def test_what_undoes_is_held_back_by_the_kill_switch_alone_and_so_are_its_decisions(loop: Loop) -> None:
    """Of the other gates' answers nothing follows, so nothing is told."""
    plan, run_id = await submitted(loop)
    loop.runs.put(loop.runs.runs[run_id], runs.RunEvent(3, START, runs.RunEventKind.UNDO_STARTED))
    loop.silences.active.append(b.silence())
    await loop.guard.recheck(plan, run_id)
    assert [one.outcome for one in loop.decisions.decisions] == ["allowed"]
    loop.automation.brakes["ada"] = "stop"
    await loop.guard.recheck(plan, run_id)
    assert [one.outcome for one in loop.decisions.decisions] == ["allowed", "denied"]


async def test_an_owner_that_does_not_answer_is_unknown(loop: Loop) -> None:
    """The gate refuses; nothing is raised."""
    loop.owners.error = errors.RetryLaterError("the gateway is gone")
    refused = await ask(loop, "node-a")
    assert isinstance(refused, remediation.Refused)
    assert refused.guard.gate is Gate.OWNERSHIP


async def test_capacity_is_weighed_by_the_outlook_of_the_newest_tick(loop: Loop) -> None:
    """Eight nodes at 10 requests/s: 70 can be carried by seven, 71 cannot."""
    for demand, is_allowed in ((71.0, False), (70.0, True)):
        planned = b.capacity_plan(node_rps=10.0, demand_rps=demand)
        loop.outlooks["chat"] = capacity.Outlook("chat", planned, capacities.NO_FORECAST)
        assert isinstance(await ask(loop, "node-a"), remediation.Submitted) is is_allowed


async def test_answers_and_left_out_steps_are_read_where_a_plan_asks_people(loop: Loop) -> None:
    """They come from the run that is about to act, at the step where it stands."""
    question = plans.PlannedStep("agree", plans.StepKind.APPROVAL, 900.0, when="true")
    plan = dataclasses.replace(b.plan(), steps=(question, *b.plan().steps))
    loop.runs.put(b.run("run_1", plan=plan, step=1), runs.RunEvent(1, START, runs.RunEventKind.STEP_SKIPPED, "agree"))
    loop.runs.answers.append(approvals.Approval("run_1", "agree", "ada", True, "", plan.hash, START))
    found = await loop.gatherer.context(plan, run_id="run_1")
    assert (found.step, found.skipped, [one.who for one in found.approvals]) == (1, frozenset({"agree"}), ["ada"])
    assert (await loop.gatherer.context(plan)).approvals == ()
