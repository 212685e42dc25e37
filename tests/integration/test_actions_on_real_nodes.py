"""The actions against a real node and a real gateway: what the fakes promised, the processes keep."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from actions import api, clients, registry
from actions.node import client, data, directory
from controlplane import clock
from controlplane.domain import errors, outcomes
from tests.support import action_house, nodes, prometheus

# A node imports torch before it answers.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

PROMPTS: list[outcomes.Json] = [{"prompt": f"Tell me about {n}", "temperature": 0, "max_tokens": 2} for n in range(3)]


@dataclass
class House:
    """A real node behind a real gateway, and the actions on them."""

    targets: clients.Clients
    actions: registry.Registry
    node_url: str

    def context(self, key: str) -> api.ActionContext:
        return api.ActionContext("run_1", "step", 1, key, 1, 20.0, api.Scope("chat", "node-1"))

    async def entries(self) -> int:
        return (await self.targets.nodes.state("chat", "node-1")).cache.l1.entries


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[nodes.Started, nodes.Started]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    with nodes.run_node(folder) as node, nodes.run_gateway(folder) as gateway:
        prometheus.until(lambda: _is_registered(node, gateway), "the gateway knows the node")
        yield node, gateway


def _is_registered(node: nodes.Started, gateway: nodes.Started) -> bool:
    url = f"{gateway.url}/admin/v1/nodes/node-1"
    try:
        answer = httpx.put(url, json={"url": node.url}, headers=gateway.admin, trust_env=False)
    except httpx.ConnectError:
        return False  # bound, and not listening yet
    assert answer.status_code == 200, answer.text
    return True


@pytest.fixture
async def house(processes: tuple[nodes.Started, nodes.Started]) -> AsyncGenerator[House]:
    node, gateway = processes
    where = directory.StaticDirectory({"chat": {"node-1": node.url}}, {"chat": gateway.url})
    async with client.AdminClient(token=nodes.ADMIN_TOKEN, token_setting="T") as http:
        data_api = data.NodeData(nodes.API_KEY)
        targets = action_house.connect(http, where, data_api, clock.SystemClock())
        yield House(targets, registry.build(targets, offered=()), node.url)
        await data_api.aclose()


async def test_warm_then_flush(house: House) -> None:
    """Warmed answers are counted, a plan shows them, one flush under one key removes them once."""
    await house.actions["warm_cache"].apply({"prompts": PROMPTS}, house.context("warm-1"))
    entries = await house.entries()
    assert entries >= len(PROMPTS)
    flush = house.actions["flush_cache"]
    (change,) = await flush.plan({}, api.Scope("chat", "node-1"))
    assert (change.before, change.after) == (entries, 0)
    assert isinstance(await flush.probe({}, house.context("flush-1")), api.NotApplied)
    first = await flush.apply({}, house.context("flush-1"))
    again = await flush.apply({}, house.context("flush-1"))
    assert first == again
    assert first.data["flushed"] == entries
    assert await house.entries() == 0


async def test_a_flush_whose_sender_died_is_found(house: House) -> None:
    """The effect is there, the answer went to a process that is gone: the probe finds it by its key."""
    await house.actions["warm_cache"].apply({"prompts": PROMPTS}, house.context("warm-2"))
    headers = {"Authorization": f"Bearer {nodes.ADMIN_TOKEN}", "Idempotency-Key": "flush-2"}
    async with httpx.AsyncClient(trust_env=False) as dying:
        await dying.post(f"{house.node_url}/admin/v1/cache/flush", json={"tier": "l1"}, headers=headers)
    await house.actions["warm_cache"].apply({"prompts": PROMPTS}, house.context("warm-3"))
    entries = await house.entries()
    probed = await house.actions["flush_cache"].probe({}, house.context("flush-2"))
    assert isinstance(probed, api.Applied)
    assert "remembers this flush" in probed.result.sentence
    assert await house.entries() == entries


@dataclass(frozen=True)
class Override:
    """An override, and how it shows."""

    action: str
    params: dict[str, outcomes.Json]
    look: Callable[[House], Awaitable[object]]


async def draining(house: House) -> object:
    return (await house.targets.nodes.state("chat", "node-1")).is_draining


async def batch(house: House) -> object:
    return (await house.targets.nodes.state("chat", "node-1")).batch


async def level(house: House) -> object:
    return (await house.targets.nodes.state("chat", "node-1")).degradation


async def at_gateway(house: House) -> object:
    return (await house.targets.gateways.node("chat", "node-1")).state


OVERRIDES = [
    Override("drain_node", {"ttl_seconds": 60}, draining),
    Override("set_batch", {"max_size": 3, "max_wait_seconds": 0.02, "ttl_seconds": 60}, batch),
    Override("degrade_node", {"level": 2, "max_tokens": 4, "ttl_seconds": 60}, level),
    Override("eject_node", {"ttl_seconds": 60}, at_gateway),
]


@pytest.mark.parametrize("one", OVERRIDES, ids=lambda one: one.action)
async def test_overrides_are_made_found_and_undone(house: House, one: Override) -> None:
    """Plan, apply twice, probe, undo: the processes keep leases, keys and previous values as the actions expect."""
    action, context = house.actions[one.action], house.context(f"{one.action}-1")
    before = await one.look(house)
    assert await action.plan(one.params, context.scope)
    assert isinstance(await action.probe(one.params, context), api.NotApplied)
    result = await action.apply(one.params, context)
    await action.apply(one.params, context)
    assert await one.look(house) != before
    assert isinstance(await action.probe(one.params, context), api.Applied)
    if one.action != "degrade_node":
        with pytest.raises(errors.ConflictError, match="somebody else"):
            await action.apply(one.params, house.context(f"{one.action}-2"))
    await action.undo(one.params, context, result)
    assert await one.look(house) == before
    assert (await house.targets.nodes.state("chat", "node-1")).leases == []


async def test_undo_climbs_back_one_rung(house: House) -> None:
    """The node accepts the remaining time of the rung before."""
    action = house.actions["degrade_node"]
    first: dict[str, outcomes.Json] = {"level": 1, "ttl_seconds": 60}
    second: dict[str, outcomes.Json] = {"level": 3, "ttl_seconds": 60}
    kept = await action.apply(first, house.context("rung-1"))
    result = await action.apply(second, house.context("rung-2"))
    await action.undo(second, house.context("rung-2"), result)
    state = await house.targets.nodes.state("chat", "node-1")
    assert state.degradation.level == 1
    await action.undo(first, house.context("rung-1"), kept)
    assert (await house.targets.nodes.state("chat", "node-1")).degradation.level == 0


async def test_a_refusal_by_the_real_node_keeps_its_words(house: House) -> None:
    """Its problem details reach the person on call."""
    with pytest.raises(errors.GiveUpError, match="chat/node-1 answered PUT /admin/v1/batch with 422"):
        await house.targets.nodes.change(
            "chat", "node-1", "PUT", "/admin/v1/batch", body={"max_size": 0}, key="bad", timeout_seconds=5.0
        )
