"""Two nodes of three go bad at once, under the shipped policy: one is taken out, the other waits and says why."""

import dataclasses
from pathlib import Path

import pytest

from controlplane.domain import findings as fnd
from controlplane.domain import lanes, outcomes, plans, policies, windows
from controlplane.engine import config
from tests.support import builders as b
from tests.support.clock import FakeClock
from tests.support.loop import Loop

NAMES = ("node-a", "node-b", "node-c")
BAD: tuple[str, ...] = ("node-a", "node-b")
POLICY = Path(config.__file__).with_name("library") / "20-bad-node.yaml"
WAITS = "held: 2 nodes of 3 would be unavailable (node-a, node-b), at most 1 may be"


def shipped() -> policies.Policy:
    """The policy as it is shipped, whose hold is over."""
    known = config.Known({"chat"}, {"eject-and-restart": lanes.Lane.NODES}, frozenset())
    (policy,) = config.load({POLICY.name: POLICY.read_text(encoding="utf-8")}, known)
    return dataclasses.replace(policy, hold_seconds=0.0)


def finding(node: str) -> fnd.Finding:
    fields = {"kind": fnd.FaultClass.BAD_NODE, "signal": "latency_p99", "source": "oracle"}
    return b.finding(node=node, summary=f"{node} is slow", observed=4.0, **fields)


def takes_out(request: plans.PlanRequest) -> plans.BlastRadius:
    """What ejecting and restarting a node takes out of service."""
    return plans.BlastRadius((request.node,), (request.node,), is_destructive=True)


def fleet(clock: FakeClock, out: str = "") -> windows.FleetView:
    """Three nodes; one may be out at its gateway, and then nothing is known of its traffic."""
    return b.view(
        *(
            b.node(name, at=clock.now(), in_service=0.0, latency_p99=b.unknown())
            if name == out
            else b.node(name, at=clock.now(), in_service=1.0)
            for name in NAMES
        ),
        at=clock.now(),
    )


class TwoBad:
    """The loop, told of both nodes at every tick."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.loop = Loop(clock, offered=[shipped()])
        self.loop.planner.blast = takes_out
        self.bad = list(BAD)

    async def tick(self, out: str = "") -> list[str]:
        """Move on, tick, and return the sentences in the order of the nodes."""
        self.clock.move(15)
        self.loop.reader.fleet = fleet(self.clock, out)
        self.loop.detector.answers = [finding(node) for node in self.bad]
        return [line.sentence for line in sorted((await self.loop.tick.run()).lines, key=lambda line: line.key)]

    def end(self, state: outcomes.RunState, verdict: outcomes.Verdict | None = None) -> None:
        """Let the newest run end, having acted."""
        now, run = self.clock.now(), self.loop.run
        done = dataclasses.replace(
            run, state=state, step=1, acted_at=now, ended_at=now, verdict=verdict, sentence="done"
        )
        self.loop.runs.put(done)


@pytest.fixture
def world(clock: FakeClock) -> TwoBad:
    return TwoBad(clock)


async def test_one_is_taken_out_and_the_other_waits_with_the_reason(world: TwoBad) -> None:
    """While the first is repaired, whether the gateway is seen to keep it out already or not."""
    first, second = await world.tick()
    assert first.startswith("acting: eject-and-restart on chat/node-a as run run_000001")
    assert second == WAITS
    for out in ("", "node-a", "node-a"):
        assert (await world.tick(out))[1] == WAITS
    assert list(world.loop.runs.runs) == ["run_000001"]


async def test_the_other_has_its_turn_when_the_first_is_back(world: TwoBad) -> None:
    """Returned and recovered: now one more may be out."""
    await world.tick()
    world.end(outcomes.RunState.SUCCEEDED, outcomes.Verdict.RECOVERED)
    world.bad = ["node-b"]
    (second,) = [said for said in await world.tick() if "node-b" in said]
    assert second.startswith("acting: eject-and-restart on chat/node-b as run run_000002")


async def test_the_other_goes_on_waiting_while_the_first_stays_out(world: TwoBad) -> None:
    """Its canary failed and it is kept out for people to look at: the one that still answers is not taken out, too."""
    await world.tick()
    world.end(outcomes.RunState.FAILED)
    for _ in range(3):
        assert (await world.tick("node-a"))[1] == WAITS
    assert {run.plan.request.node for run in world.loop.runs.runs.values()} == {"node-a"}
