"""Levels at the gateway: refused before anything is read, served best first, bounded in time, overflowing one down."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.support import gateways, node_fakes
from tests.support.gateways import Body, GatedNode, places, same

ONE_AT_A_TIME: dict[str, Any] = {"max_at_each_node": 1, "levels": same(places(4, 8))}


async def test_a_full_level_is_refused_before_its_body_is_read() -> None:
    """429 with Retry-After, counted as rejected; nothing of the request was looked at but its key."""
    node = GatedNode()
    async with gateways.served(node, levels=same(places(1, 1))) as it:
        inside = it.asking("batch", "batch")
        await node_fakes.settle()
        body = Body()
        refused = await it.ask("batch", body)
        assert (refused.status_code, refused.headers["retry-after"], body.is_read) == (429, "1", False)
        assert await it.metric('dsctl_gateway_rejected_total{level="batch",reason="queue_full"}') == 1
        node.gate.set()
        assert [(await each).status_code for each in inside] == [200, 200]
        assert it.gateway.outstanding == 0


async def test_a_shed_level_is_refused_before_its_body_is_read() -> None:
    """The other levels go on; Retry-After is what is left of the lease, which then ends."""
    node = GatedNode()
    node.gate.set()
    async with gateways.served(node) as it:
        await it.admin("PUT", "/levels", {"batch": {"is_shed": True}, "rung": 2, "ttl_seconds": 7})
        body = Body()
        refused = await it.ask("batch", body)
        assert (refused.status_code, refused.headers["retry-after"], body.is_read) == (429, "7", False)
        assert (await it.ask("standard")).status_code == 200
        await it.move(7)
        assert (await it.ask("batch")).status_code == 200
        assert await it.metric("dsctl_gateway_degradation_level") == 0


async def test_the_rung_is_part_of_the_state_and_ends_with_its_lease() -> None:
    """A rung replaces the one before it, and full service is one call away."""
    async with gateways.served(GatedNode()) as it:
        await it.admin("PUT", "/levels", {"batch": {"is_shed": True}, "rung": 2, "ttl_seconds": 60})
        both = {"batch": {"is_shed": True}, "standard": {"is_shed": True}, "rung": 4, "ttl_seconds": 60}
        await it.admin("PUT", "/levels", both)
        state = await it.admin("GET", "/state")
        assert (state["rung"], state["levels"]["standard"]["is_shed"]) == (4, True)
        assert await it.metric("dsctl_gateway_degradation_level") == 4
        assert await it.metric('dsctl_gateway_level_shed{level="standard"}') == 1
        restored = await it.admin("DELETE", "/levels")
        assert (restored["rung"], restored["expires_in_seconds"]) == (None, None)
        assert not any(level["is_shed"] for level in restored["levels"].values())


async def test_whoever_waits_goes_best_level_first() -> None:
    """Not in the order of arrival."""
    node = GatedNode()
    async with gateways.served(node, **ONE_AT_A_TIME) as it:
        asking = it.asking("standard", "batch", "standard", "premium")
        await node_fakes.settle()
        assert node.levels == ["standard"]
        assert await it.metric('dsctl_gateway_waiting{level="batch"}') == 1
        assert await it.metric('dsctl_gateway_at_nodes{level="standard"}') == 1
        node.gate.set()
        await asyncio.gather(*asking)
        assert node.levels == ["standard", "premium", "standard", "batch"]


async def test_an_aged_request_gets_one_turn_in_eight() -> None:
    """A better level that never ends does not starve the rest, and loses little to it."""
    node = GatedNode()
    async with gateways.served(node, max_at_each_node=1, ageing_seconds=1, levels=same(places(30, 30, 60))) as it:
        asking = it.asking("premium", "batch", "batch")
        await it.move(1)
        asking += it.asking(*["premium"] * 16)
        await node_fakes.settle()
        node.gate.set()
        await asyncio.gather(*asking)
        assert [index for index, level in enumerate(node.levels) if level == "batch"] == [8, 16]


async def test_a_level_has_no_more_at_nodes_than_its_concurrency() -> None:
    """Others pass it by."""
    node = GatedNode()
    levels = {**same(places(4, 8)), "batch": places(1, 8)}
    async with gateways.served(node, levels=levels) as it:
        asking = it.asking("batch", "batch", "premium")
        await node_fakes.settle()
        assert node.levels == ["batch", "premium"]
        node.gate.set()
        await asyncio.gather(*asking)


async def test_turns_grow_with_the_nodes_in_service() -> None:
    """A node that joins brings its turns along; one that is ejected takes them away again, and nobody is cut off."""
    node = GatedNode()
    async with gateways.served(node, max_at_each_node=2, levels=same(places(10, 10, 60))) as it:
        asking = it.asking(*["standard"] * 6)
        await node_fakes.settle()
        assert len(node.headers) == 2
        await it.admin("PUT", "/nodes/b", {"url": "http://b"})
        asking += it.asking("standard")  # whoever comes next lets in what fits
        await node_fakes.settle()
        assert (len(node.headers), (await it.admin("GET", "/state"))["max_at_nodes"]) == (4, 4)
        await it.admin("POST", "/nodes/b/eject", {"ttl_seconds": 60, "reason": "drill"})
        assert (await it.admin("GET", "/state"))["max_at_nodes"] == 2
        node.gate.set()
        assert [(await each).status_code for each in asking] == [200] * 7


async def test_whoever_gets_no_turn_in_time_is_rejected_and_is_no_error() -> None:
    """429, not 5xx: nothing was computed and no node failed; its place is free again."""
    node = GatedNode()
    levels = {**same(places(4, 8, 60)), "standard": places(4, 8, 0.02)}
    async with gateways.served(node, max_at_each_node=1, levels=levels) as it:
        [first] = it.asking("premium")
        await node_fakes.settle()
        late = await it.ask("standard")
        assert (late.status_code, int(late.headers["retry-after"]) >= 1) == (429, True)
        assert await it.metric('dsctl_gateway_rejected_total{level="standard",reason="waited_too_long"}') == 1
        assert node.levels == ["premium"]
        node.gate.set()
        assert (await first).status_code == 200
        assert it.gateway.outstanding == 0


async def test_a_limit_that_passes_at_a_node_cancels_the_work_there() -> None:
    """504, the node is let go of, and turn and place are free again."""
    node = GatedNode()
    async with gateways.served(node, max_at_each_node=1, levels=same(places(4, 8, 0.02))) as it:
        late = await it.ask("premium")
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        assert (node.cancelled, it.gateway.outstanding, it.gateway.fleet.find("a").outstanding) == (1, 0, 0)
        node.gate.set()
        assert (await it.ask("premium")).status_code == 200


async def test_a_body_that_never_ends_does_not_hold_a_place() -> None:
    """408 at the level's limit."""
    async with gateways.served(GatedNode(), levels=same(places(1, 0, 0.02))) as it:
        assert (await it.ask("batch", Body(is_endless=True))).status_code == 408
        assert it.gateway.outstanding == 0


async def test_a_caller_that_leaves_while_waiting_frees_its_place() -> None:
    """And nobody takes a turn for it."""
    node = GatedNode()
    async with gateways.served(node, **ONE_AT_A_TIME) as it:
        first, second = it.asking("standard", "standard")
        await node_fakes.settle()
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await node_fakes.settle()
        assert it.gateway.outstanding == 1
        node.gate.set()
        assert (await first).status_code == 200
        assert (len(node.levels), it.gateway.outstanding) == (1, 0)


@pytest.mark.parametrize(("level", "before_overflow", "below"), [("premium", 8, "standard"), ("standard", 9, "batch")])
async def test_a_level_overflows_one_down_when_it_is_nearly_full(level: str, before_overflow: int, below: str) -> None:
    """At 80 % use of premium and 90 % of standard; counted as what the key is, served as what has room."""
    node = GatedNode()
    async with gateways.served(node, levels=same(places(10, 0))) as it:
        asking = it.asking(*[level] * (before_overflow + 1))
        await node_fakes.settle()
        assert node.levels == [*[level] * before_overflow, below]
        assert await it.metric(f'dsctl_gateway_arrivals_total{{level="{level}"}}') == before_overflow + 1
        assert await it.metric(f'dsctl_gateway_overflowed_total{{level="{level}",served_as="{below}"}}') == 1
        node.gate.set()
        await asyncio.gather(*asking)


async def test_nothing_overflows_into_a_level_that_is_shed_or_busy_itself() -> None:
    """The places that premium has left are still premium's."""
    node = GatedNode()
    async with gateways.served(node, levels=same(places(5, 5))) as it:
        await it.admin("PUT", "/levels", {"standard": {"is_shed": True}, "ttl_seconds": 60})
        asking = it.asking(*["premium"] * 7)
        await node_fakes.settle()
        assert node.levels == ["premium"] * 5
        node.gate.set()
        await asyncio.gather(*asking)


async def test_the_last_places_of_a_gateway_are_for_better_levels() -> None:
    """Batch is refused at 80 % of the gateway, standard at 90 %, premium at the end."""
    node = GatedNode()
    async with gateways.served(node, max_outstanding=10, levels=same(places(20, 20))) as it:
        asking = it.asking(*["batch"] * 9)
        await node_fakes.settle()
        asking += it.asking("standard", "standard", "premium", "premium")
        await node_fakes.settle()
        assert it.gateway.outstanding == 10
        for level in ("batch", "standard", "premium"):
            assert await it.metric(f'dsctl_gateway_rejected_total{{level="{level}",reason="gateway_full"}}') == 1
        node.gate.set()
        answers: list[httpx.Response] = await asyncio.gather(*asking)
        assert sorted(each.status_code for each in answers) == [200] * 10 + [429] * 3


async def test_the_node_is_told_the_time_that_is_left() -> None:
    """What passed in the queue is gone; a little is kept for the node's own answer."""
    node = GatedNode()
    async with gateways.served(node, **ONE_AT_A_TIME) as it:
        asking = it.asking("standard", "standard")
        await it.move(2)
        node.gate.set()
        await asyncio.gather(*asking)
        assert [one["x-time-left"] for one in node.headers] == ["4.800", "2.800"]
