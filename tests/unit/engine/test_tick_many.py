"""A storm of alerts: what a tick asks for does not grow with each incident, and none of them waits for another."""

import asyncio

from controlplane.domain import findings as fnd
from controlplane.domain import plans, policies
from tests.support import builders as b
from tests.support.clock import FakeClock
from tests.support.loop import Loop

_NUM_ALERTS = 200


def storm(clock: FakeClock, mode: policies.Mode) -> Loop:
    """A loop in which every node of a large fleet is in trouble."""
    names = [f"node-{number:03}" for number in range(_NUM_ALERTS)]
    loop = Loop(clock, offered=[b.policy(mode=mode, guard=policies.GuardLimits(max_per_hour=1000))])
    loop.reader.fleet = b.view(*(b.node(name) for name in names))
    loop.alerts.fire(*(b.alert(labels={"node": name}) for name in names))
    return loop


async def test_a_tick_that_changes_nothing_asks_no_store_for_each_incident(clock: FakeClock) -> None:
    """Ten thousand held incidents must not be ten thousand questions."""
    loop = storm(clock, policies.Mode.OBSERVE)
    await loop.tick.run()
    before = loop.runs.calls, loop.incidents.calls, loop.decisions.calls
    report = await loop.tick.run()
    assert len(report.lines) == _NUM_ALERTS
    asked = loop.runs.calls - before[0], loop.incidents.calls - before[1], loop.decisions.calls - before[2]
    assert asked[1:] == (1, 0)
    assert asked[0] <= 3


async def test_a_burst_of_findings_is_answered_in_one_tick(clock: FakeClock) -> None:
    """Each with its own run and its own sentence, in order."""
    loop = storm(clock, policies.Mode.AUTO)
    report = await loop.tick.run()
    assert report.is_good
    assert [line.key for line in report.lines] == [f"chat/node-{n:03}:cache" for n in range(_NUM_ALERTS)]
    assert {run.plan.request.node for run in loop.runs.runs.values()} == {f"node-{n:03}" for n in range(_NUM_ALERTS)}
    assert all(line.sentence.startswith("acting:") for line in report.lines)


async def test_a_node_that_hangs_keeps_no_other_incident_waiting(clock: FakeClock) -> None:
    """The others are acted on while its planning still waits for an answer."""
    loop = storm(clock, policies.Mode.AUTO)
    answers, draft = asyncio.Event(), loop.planner.draft

    async def hang(request: plans.PlanRequest) -> plans.Plan:
        if request.node == "node-000":
            await answers.wait()
        return await draft(request)

    loop.planner.draft = hang
    ticking = asyncio.create_task(loop.tick.run())
    async with asyncio.timeout(5):
        while len(loop.runs.runs) < _NUM_ALERTS - 1:
            await clock.sleep(0)
    answers.set()
    assert len((await ticking).lines) == _NUM_ALERTS
    assert len(loop.runs.runs) == _NUM_ALERTS


async def test_a_service_in_trouble_finds_its_cause_among_many(clock: FakeClock) -> None:
    """The worst of its nodes, however many there are, and only of its own."""
    loop = storm(clock, policies.Mode.OBSERVE)
    labels = {"node": "", "dsctl_fault": fnd.FaultClass.ERRORS.value, "dsctl_signal": "success_ratio"}
    loop.alerts.fire(b.alert("ErrorsHigh", labels=labels))
    report = await loop.tick.run()
    (wide,) = [line for line in report.lines if line.key == "chat:errors"]
    assert wide.sentence.startswith("held: probable cause is cache on chat/node-")
