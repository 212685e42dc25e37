"""A policy in mode approve in the loop: it asks, people answer, and it takes back what is no longer wanted."""

import dataclasses

from controlplane.domain import incidents, outcomes, plans, policies
from controlplane.runs import asking
from tests.support import builders as b
from tests.support.clock import FakeClock
from tests.support.loop import Loop

State, RunState, Verdict = incidents.IncidentState, outcomes.RunState, outcomes.Verdict


def asks_first(request: plans.PlanRequest) -> tuple[plans.PlannedStep, ...]:
    """As the planner does."""
    return asking.ask_first(request, b.plan(request).steps)


def firing(clock: FakeClock) -> Loop:
    loop = Loop(clock, offered=[b.policy(mode=policies.Mode.APPROVE)])
    loop.planner.steps = asks_first
    loop.alerts.fire(b.alert())
    return loop


async def test_it_asks_once_and_goes_on_when_people_agree(clock: FakeClock) -> None:
    """One run, which names the command that answers, in every tick until somebody does."""
    loop = firing(clock)
    answer = "`dsctl runs approve run_000001`"
    assert await loop.sentence() == (
        f"waits for approval ({answer}): flush-cache on chat/node-a as run run_000001; cache_wrong_ratio is 0.4"
    )
    for _ in range(5):
        clock.move(15)
        assert (await loop.sentence()).endswith(f"look and answer with {answer}")
    assert (len(loop.runs.runs), loop.incidents.only.attempts) == (1, 1)
    [asked, *_] = loop.run.plan.steps
    assert (asked.name, asked.quorum, asked.timeout_seconds) == ("approval", 1, 3600.0)
    loop.runs.put(dataclasses.replace(loop.run, step=1))
    assert await loop.sentence() == "acting: run run_000001 (flush-cache on chat/node-a), step flush (2 of 2)"


async def test_trouble_that_is_over_takes_its_question_back(clock: FakeClock) -> None:
    """Once it was quiet for as long as ends an incident; then the incident ends as if nobody had been asked."""
    loop = firing(clock)
    await loop.tick.run()
    loop.alerts.resolve()
    await loop.tick.run()
    clock.move(59)
    assert (await loop.sentence()).startswith("waits for approval")
    clock.move(1)
    assert (await loop.sentence()).startswith("open again: run run_000001")
    assert loop.run.state is RunState.CANCELLED
    assert loop.run.sentence.startswith("nothing was done: no source reports incident")
    assert (await loop.sentence()).startswith("closed: ended, quiet for 1 min")


async def test_a_question_is_kept_while_the_trouble_comes_and_goes(clock: FakeClock) -> None:
    """An alert that resolves for a moment costs nobody's answer."""
    loop = firing(clock)
    await loop.tick.run()
    for _ in range(4):
        loop.alerts.resolve()
        await loop.tick.run()
        clock.move(45)
        loop.alerts.fire(b.alert())
        await loop.tick.run()
    assert loop.run.question is not None


async def test_what_people_refuse_is_theirs(clock: FakeClock) -> None:
    """The incident is handed over with who and why, and nobody is asked again."""
    loop = firing(clock)
    await loop.tick.run()
    said = "rejected by anna: not during the launch; nothing was done"
    loop.runs.put(dataclasses.replace(loop.run, state=RunState.CANCELLED, ended_at=clock.now(), sentence=said))
    assert (await loop.sentence()).endswith(said)
    for _ in range(3):
        clock.move(60)
        await loop.tick.run()
    assert (loop.incidents.only.state, len(loop.runs.runs)) == (State.ESCALATED, 1)
