"""Who holds a node, read off what is left at the gateway and on the node; who owns a pool, from services.yaml."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from actions import clients, owners
from actions.traffic import admin
from controlplane.domain import errors, plans, services
from tests.support import builders as b
from tests.support.fakes import FakeRunStore

OURS = b.run("run_ours", plan=b.plan(b.request(runbook="eject-and-restart")))
HERS = b.run("run_hers", plan=b.plan(b.manual(runbook="quarantine-node", requested_by="bob")))


@dataclasses.dataclass
class State:
    """What a node tells of itself."""

    is_draining: bool


class Nodes:
    """Nodes that may drain, and remember under which keys; `error` while they do not answer."""

    def __init__(self) -> None:
        self.draining: set[str] = set()
        self.keys: set[str] = set()
        self.error: Exception | None = None

    async def state(self, service: str, node: str) -> State:
        if self.error is not None:
            raise self.error
        return State(node in self.draining)

    async def operation(self, service: str, node: str, key: str) -> object | None:
        return key if key in self.keys else None


class Gateways:
    """A gateway that keeps nodes out for a reason."""

    def __init__(self) -> None:
        self.ejected: dict[str, str] = {}
        self.error: Exception | None = None

    async def nodes(self, service: str) -> list[admin.GatewayNode]:
        if self.error is not None:
            raise self.error
        return [
            admin.GatewayNode(
                name=name,
                state="ejected" if name in self.ejected else "in_service",
                weight=1.0,
                outstanding=0,
                eject_reason=self.ejected.get(name, ""),
            )
            for name in ("node-a", "node-b")
        ]


class Fleet:
    """Which pools the nodes of a local fleet belong to."""

    def members(self) -> list[Any]:
        member = dataclasses.make_dataclass("Member", ["name", "pool"])
        return [member("node-a", "hot"), member("node-b", "cold")]


class World:
    """The hook over all of them."""

    def __init__(self, *pools: services.Pool, fleets: Mapping[str, Any] | None = None) -> None:
        self.nodes, self.gateways = Nodes(), Gateways()
        given = clients.Clients(None, self.nodes, self.gateways, None, None, fleets or {})  # type: ignore[arg-type]
        self.hook = owners.Owners(given, {"chat": b.service(pools=pools)}, FakeRunStore(OURS, HERS))

    async def claims(self, plan: plans.Plan, run_id: str | None = None) -> list[tuple[str, str]]:
        return [(one.owner, one.what) for one in await self.hook.claims(plan, run_id)]


def step(action: str) -> plans.PlannedStep:
    return plans.PlannedStep(action.partition("_")[0], plans.StepKind.ACTION, 10.0, action=action)


REPAIR = b.plan(
    steps=tuple(map(step, ("eject_node", "drain_node", "restart_node", "return_node"))),
    blast=plans.BlastRadius(("node-a",), ("node-a",), is_destructive=True),
)
RETURN = b.plan(steps=(step("return_node"),), blast=plans.BlastRadius(("node-a",)))


@pytest.mark.parametrize(
    ("reason", "claimed"),
    [
        ("", [("somebody", "chat/node-a")]),
        ("memory test until noon", [("somebody", "chat/node-a")]),
        ("run_hers step quarantine", [("bob", "chat/node-a")]),
        ("run_gone step eject", [("somebody", "chat/node-a")]),
        ("run_ours step eject", []),
    ],
)
@pytest.mark.parametrize("plan", [REPAIR, RETURN])
async def test_an_ejection_is_whose_run_did_it(reason: str, claimed: list[tuple[str, str]], plan: plans.Plan) -> None:
    """What a policy's run left behind is automation's own; everything else is somebody's."""
    world = World()
    world.gateways.ejected["node-a"] = reason
    assert await world.claims(plan) == claimed


async def test_the_run_that_asks_does_not_hold_against_itself() -> None:
    """Also where it is a person's."""
    world = World()
    world.gateways.ejected["node-a"] = "run_hers step eject"
    assert await world.claims(REPAIR, "run_hers") == []


@pytest.mark.parametrize(
    ("ejected_by", "key", "run_id", "claimed"),
    [
        (None, None, None, True),
        (None, "run_1:drain", "run_1", False),
        ("run_ours step eject", None, None, True),
        ("run_ours step eject", "run_ours:drain", None, False),
    ],
)
async def test_a_drain_is_whoever_is_remembered(
    ejected_by: str | None, key: str | None, run_id: str | None, claimed: bool
) -> None:
    """A restart would end it, so it counts as a hold where no run of ours is remembered for it."""
    world = World()
    ours = dataclasses.replace(OURS, plan=dataclasses.replace(REPAIR, request=OURS.plan.request))
    world.hook = owners.Owners(world.hook._targets, {"chat": b.service()}, FakeRunStore(ours))
    world.nodes.draining.add("node-a")
    world.nodes.keys.update({key} if key else ())
    if ejected_by is not None:
        world.gateways.ejected["node-a"] = ejected_by
    assert bool(await world.claims(REPAIR, run_id)) is claimed


async def test_a_node_that_does_not_answer_holds_nothing() -> None:
    """It is the one that has to be repaired."""
    world = World()
    world.nodes.draining.add("node-a")
    world.nodes.error = errors.RetryLaterError("it hangs")
    assert await world.claims(REPAIR) == []


async def test_a_gateway_that_does_not_answer_is_unknown_and_one_that_is_not_there_holds_nothing() -> None:
    """Nobody guesses."""
    world = World()
    world.gateways.error = errors.GiveUpError("the token is wrong")
    with pytest.raises(errors.RetryLaterError, match="the token is wrong"):
        await world.claims(RETURN)
    world.gateways.error = errors.NotFoundError("no gateway")
    assert await world.claims(RETURN) == []


async def test_plans_that_neither_take_nor_give_ask_nobody() -> None:
    """A flush needs no gateway."""
    world = World()
    world.gateways.error = errors.RetryLaterError("gone")
    assert await world.claims(b.plan()) == []


def scaling(*names: str) -> plans.Plan:
    changes = tuple(plans.Change(f"chat/{name}", "process", "none", "a new one") for name in names)
    return b.plan(b.manual(node="", runbook="scale-out"), steps=(step("scale"),), changes=changes)


@pytest.mark.parametrize(
    ("fleets", "names", "claimed"),
    [
        ({"chat": Fleet()}, ["node-a"], [("KEDA", "pool hot of chat")]),
        ({"chat": Fleet()}, ["node-b"], []),
        ({"chat": Fleet()}, ["node-z"], [("KEDA", "pool hot of chat")]),
        ({}, ["node-b"], [("KEDA", "pool hot of chat")]),
    ],
    ids=["owned", "not owned", "unknown node", "unknown fleet"],
)
async def test_the_size_of_an_owned_pool_is_its_owners(
    fleets: Mapping[str, Any], names: list[str], claimed: list[tuple[str, str]]
) -> None:
    """Where it cannot be told which pools change, all of the owned ones may."""
    hot, cold = services.Pool("hot", "local", 1, 4, owner="KEDA"), services.Pool("cold", "local", 0, 4)
    assert await World(hot, cold, fleets=fleets).claims(scaling(*names)) == claimed


async def test_repairs_in_an_owned_pool_are_not_scaling() -> None:
    """Its owner says how many there are, not which of them are well."""
    assert await World(services.Pool("hot", "local", 1, 4, owner="KEDA")).claims(REPAIR) == []
