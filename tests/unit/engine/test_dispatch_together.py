"""Many requests at once go through one door: judged one after the other, stored together, each with its own answer."""

import asyncio
from typing import Any

import pytest
from anyio import lowlevel

from controlplane.domain import errors, outcomes, plans, policies, remediation
from tests.support import builders as b
from tests.support.clock import FakeClock
from tests.support.loop import Loop

_NAMES = [f"node-{number:03}" for number in range(100)]


@pytest.fixture
def loop(clock: FakeClock) -> Loop:
    """A fleet of a hundred nodes, of which a plan takes out its own."""
    made = Loop(clock)
    made.reader.fleet = b.view(*(b.node(name) for name in _NAMES))
    made.planner.blast = lambda request: plans.BlastRadius((request.node,), (request.node,))
    return made


def wanted(node: str) -> plans.PlanRequest:
    limits = policies.GuardLimits(max_per_hour=1000, max_unavailable=policies.MaxUnavailable(percent=10, nodes=50))
    return b.manual(runbook="eject", node=node, limits=limits)


async def test_a_hundred_requests_at_once_take_out_no_more_than_the_limit(loop: Loop) -> None:
    """Whoever comes later counts those let through before, though none of them is stored yet; refusals keep the reason."""
    answers = await asyncio.gather(*(loop.remediator.remediate(wanted(name)) for name in _NAMES))
    submitted = [one for one in answers if isinstance(one, remediation.Submitted)]
    refused = [one for one in answers if isinstance(one, remediation.Refused)]
    assert (len(submitted), len(refused)) == (10, 90)
    assert {one.guard.gate for one in refused} == {outcomes.Gate.BLAST_RADIUS}
    stored = {one.id: one for one in loop.decisions.decisions}
    assert {stored[one.decision_id].sentence for one in refused} == {one.guard.sentence for one in refused}
    assert len({one.run_id for one in submitted}) == len(loop.runs.runs) == 10


async def test_two_requests_for_one_target_get_one_run(loop: Loop) -> None:
    """The second is told of the first."""
    answers = await asyncio.gather(*(loop.remediator.remediate(wanted(_NAMES[0])) for _ in range(2)))
    assert sorted(type(one).__name__ for one in answers) == ["Refused", "Submitted"]
    (refused,) = [one for one in answers if isinstance(one, remediation.Refused)]
    assert refused.guard.gate is outcomes.Gate.IN_FLIGHT
    # By the id it has, so that people find it.
    assert refused.guard.answers[-1].numbers["run"] in loop.runs.runs


async def test_who_is_refused_finds_the_run_it_was_refused_for(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request sent twice under one key: whoever hears no first still finds what the other got."""
    submit = loop.submitter.submit

    async def slowly(plan: plans.Plan) -> str:
        for _ in range(20):
            await lowlevel.checkpoint()
        return await submit(plan)

    monkeypatch.setattr(loop.submitter, "submit", slowly)
    seen: list[int] = []

    async def ask() -> None:
        answer = await loop.remediator.remediate(wanted(_NAMES[0]))
        if isinstance(answer, remediation.Refused):
            seen.append(len(loop.runs.runs))

    await asyncio.gather(ask(), ask())
    assert seen == [1]


async def test_one_that_cannot_be_judged_spoils_no_other(loop: Loop) -> None:
    """Its error is its own."""
    asked = [b.manual(service="search"), wanted(_NAMES[1])]
    answers = await asyncio.gather(*(loop.remediator.remediate(one) for one in asked), return_exceptions=True)
    assert [type(one).__name__ for one in answers] == ["NotFoundError", "Submitted"]


async def test_one_who_goes_away_keeps_nobody_behind_waiting(loop: Loop) -> None:
    """A tick that is cut off, or a client that hangs up, takes nobody along."""
    tasks = [asyncio.create_task(loop.remediator.remediate(wanted(name))) for name in _NAMES[:3]]
    await lowlevel.checkpoint()
    tasks[0].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one).__name__ for one in answers] == ["CancelledError", "Submitted", "Submitted"]


async def test_a_bug_in_judging_is_told_and_the_door_opens_again(loop: Loop) -> None:
    """Nobody waits for ever for an answer that will not come, and a plan that breaks the guard breaks no other."""
    loop.silences.error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        await loop.remediator.remediate(wanted(_NAMES[0]))
    loop.silences.error = None
    broken: Any = None
    loop.planner.blast = lambda request: broken if request.node == _NAMES[0] else plans.BlastRadius((request.node,))
    asked = [wanted(name) for name in _NAMES[:2]]
    answers = await asyncio.gather(*(loop.remediator.remediate(one) for one in asked), return_exceptions=True)
    assert [type(one).__name__ for one in answers] == ["AttributeError", "Submitted"]


async def test_a_submission_that_fails_is_the_askers(loop: Loop) -> None:
    """And no decision claims that it runs."""
    loop.submitter.error = errors.OverloadedError("the queue is full")
    answers = await asyncio.gather(
        *(loop.remediator.remediate(wanted(name)) for name in _NAMES[:2]), return_exceptions=True
    )
    assert [type(one).__name__ for one in answers] == ["OverloadedError"] * 2
    assert loop.decisions.decisions == []
