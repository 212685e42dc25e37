"""What was taken out a moment ago counts before any scrape has seen it."""

import dataclasses
from datetime import timedelta

from controlplane.domain import outcomes, plans, policies
from tests.support import builders as b
from tests.support.clock import FakeClock
from tests.support.loop import Loop

HALF = policies.GuardLimits(max_unavailable=policies.MaxUnavailable(percent=50.0, nodes=1))
NAMES = ("node-a", "node-b", "node-c")


def out_of_service(node: str, runbook: str) -> plans.Plan:
    """A person's plan that takes a node out."""
    request = b.manual(node=node, runbook=runbook, limits=HALF)
    return b.plan(request, blast=plans.BlastRadius((node,), (node,), is_destructive=True), verify=None)


async def ask(clock: FakeClock, *, scraped_before_seconds: float) -> outcomes.Allowed | outcomes.Denied:
    """Ask for node-b when node-a was quarantined, by a run that ended with its effect; the readings are so much older."""
    loop = Loop(clock)
    done = b.ended_run(plan=out_of_service("node-a", "quarantine-node"), at=clock.now(), verdict=None)
    loop.runs.put(done)
    at = clock.now() - timedelta(seconds=scraped_before_seconds)
    view = b.view(*(b.node(name, at=at, in_service=1.0) for name in NAMES), at=clock.now())
    loop.reader.fleet = view
    loop.runs.put(
        dataclasses.replace(
            done,
            id="run_2",
            state=outcomes.RunState.RUNNING,
            ended_at=None,
            acted_at=None,
            plan=out_of_service("node-b", "eject-and-restart"),
        )
    )
    return await loop.guard.recheck(out_of_service("node-b", "eject-and-restart"), "run_2")


async def test_readings_from_before_an_effect_say_nothing_about_it(clock: FakeClock) -> None:
    """The gateway was scraped 5 s before node-a was taken out, and still says that it serves."""
    answer = await ask(clock, scraped_before_seconds=5)
    assert isinstance(answer, outcomes.Denied)
    assert answer.gate is outcomes.Gate.BLAST_RADIUS


async def test_readings_from_after_it_do(clock: FakeClock) -> None:
    """Scraped since, node-a is known to serve: somebody returned it."""
    assert isinstance(await ask(clock, scraped_before_seconds=-1), outcomes.Allowed)
