"""Levels at a node: places before any work, time limits that cancel, the ladder's caps, and turns that age."""

import asyncio
from typing import Any

import httpx
import pytest

from inference_node import levels
from inference_node.engine import batcher, generation
from tests.support import gateways, node_fakes
from tests.support.clock import FakeClock

HOLDING: dict[str, Any] = {"pace_step_seconds": 1}
"""With a clock that stands still the first step never ends."""


def encoded(served: node_fakes.NodeUnderTest) -> int:
    """Return how many prompts the node has tokenized."""
    words = served.node.require_engine().model.tokenizer
    assert isinstance(words, node_fakes.CountingTokenizer)
    return words.num_encoded


async def test_a_full_level_is_refused_before_the_request_is_read() -> None:
    """Not even a body that is no request gets past the places: nothing is read, parsed or tokenized."""
    limits = gateways.same(gateways.places(1, 0))
    async with node_fakes.served_node(levels=limits, **HOLDING) as served:
        first = asyncio.create_task(served.ask("one"))
        await node_fakes.settle()
        body = gateways.Body()
        headers = {"authorization": "Bearer key-standard"}
        refused = await served.client.post("/v1/completions", content=body, headers=headers)
        assert (refused.status_code, body.is_read, encoded(served)) == (429, False, 1)
        assert int(refused.headers["retry-after"]) >= 1
        assert await served.metric('dsctl_node_rejected_total{level="standard",reason="queue_full"}') == 1
        await served.move(10)
        first.cancel()


async def test_who_never_joins_the_batch_in_time_is_rejected_and_who_did_is_cancelled() -> None:
    """429 for the one that waited, 504 for the one at work; both places are free again."""
    limits = gateways.same(gateways.places(1, 1, 0.02))
    async with node_fakes.served_node(levels=limits, **HOLDING) as served:
        answers = await asyncio.gather(served.ask("one"), served.ask("two"))
        assert [each.status_code for each in answers] == [504, 429]
        assert await served.metric('dsctl_node_rejected_total{level="standard",reason="waited_too_long"}') == 1
        await served.move(1)
        assert served.node.load() == {"running": 0, "waiting": 0}
        assert served.node.places.total == 0


async def test_a_gateways_time_limit_is_believed_and_a_callers_is_not() -> None:
    """Only the gateway knows how long its caller has waited already."""
    async with node_fakes.served_node(**HOLDING) as served:
        asking = served.ask(key="key-gateway", headers={"x-time-left": "0.02", "x-service-level": "premium"})
        assert (await asking).status_code == 504
        await served.move(1)
        own = asyncio.create_task(served.ask("other", headers={"x-time-left": "0.001"}))
        await node_fakes.settle()
        assert not own.done()
        own.cancel()


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf", "1e9"])
async def test_a_time_limit_that_is_no_time_is_refused(value: str) -> None:
    """The message names the header."""
    async with node_fakes.served_node() as served:
        wrong = await served.ask(key="key-gateway", headers={"x-time-left": value})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "X-Time-Left")


async def test_caps_hold_for_their_level_alone() -> None:
    """Completion tokens are cut, long prompts are refused for now; premium gets what it asks for."""
    async with node_fakes.served_node() as served:
        caps = {"standard": {"max_tokens": 2, "max_prompt_tokens": 8}}
        await served.admin("PUT", "/degradation", {"level": 1, "levels": caps, "ttl_seconds": 9})
        cut, full = await served.ask("short"), await served.ask("short", key="key-premium")
        assert [each.json()["usage"]["completion_tokens"] for each in (cut, full)] == [2, 4]
        long = await served.ask("a prompt too long")
        assert (long.status_code, long.headers["retry-after"]) == (429, "9")
        assert (await served.ask("a prompt too long", key="key-premium")).status_code == 200
        assert await served.metric('dsctl_node_rejected_total{level="standard",reason="prompt_capped"}') == 1
        await served.move(9)
        assert (await served.ask("a prompt too long")).json()["usage"]["completion_tokens"] == 4


async def test_cached_only_gives_what_is_cached_and_computes_nothing() -> None:
    """An answer that premium had computed is given to standard; anything new is refused before tokenizing."""
    async with node_fakes.served_node(cache={"audit_ratio": 0}) as served:
        await served.ask("known", key="key-premium")
        caps = {"standard": {"is_cached_only": True}}
        await served.admin("PUT", "/degradation", {"level": 3, "levels": caps, "ttl_seconds": 9})
        before = encoded(served)
        assert (await served.ask("known")).status_code == 200
        new = await served.ask("new")
        assert (new.status_code, new.headers["retry-after"], encoded(served)) == (429, "9", before)
        assert (await served.ask("new", temperature=1)).status_code == 429
        assert await served.metric('dsctl_node_rejected_total{level="standard",reason="not_cached"}') == 2
        assert (await served.ask("new", key="key-premium")).status_code == 200


async def test_a_level_travels_from_the_key_to_the_node() -> None:
    """Key to level at the gateway, level to places at the node, by the gateway's own key."""
    shut = {"standard": gateways.places(0, 0), "premium": gateways.places(4, 4), "batch": gateways.places(4, 4)}
    async with (
        node_fakes.served_node(levels=shut) as node,
        gateways.served(httpx.ASGITransport(app=node.edge)) as gateway,
    ):
        codes = [(await gateway.ask(level)).status_code for level in gateways.LEVELS]
        assert codes == [200, 429, 200]
        line = 'dsctl_gateway_responses_total{code="429",level="standard",node="a"}'
        assert await gateway.metric(line) == 1


def test_a_busy_level_lets_no_more_wait_than_it_can_finish_in_time() -> None:
    """Measured rate times time limit, once the level was full and has finished some."""
    clock = FakeClock()
    places = levels.Levels(dict.fromkeys(levels.Level, levels.Limit(2, 1000)), clock, dict.fromkeys(levels.Level, 5.0))
    held = [places.admit(levels.Level.BATCH) for _ in range(100)]
    assert places.bound(levels.Level.BATCH) == 1002
    for place in held[:20]:
        clock.move(0.5)
        place.give_back()
    assert places.bound(levels.Level.BATCH) == 2 + 10
    for place in held[20:]:
        place.give_back()
    assert places.bound(levels.Level.BATCH) == 1002


def test_who_was_never_served_is_no_finish() -> None:
    """Refusals must not look like throughput."""
    clock = FakeClock()
    places = levels.Levels(dict.fromkeys(levels.Level, levels.Limit(1, 100)), clock)
    held = [places.admit(levels.Level.BATCH) for _ in range(20)]
    for place in held[:10]:
        clock.move(0.1)
        place.give_back(is_finished=False)
    assert places.retry_after_seconds(levels.Level.BATCH) == 1
    clock.move(10)
    held[10].give_back()
    clock.move(10)
    assert places.retry_after_seconds(levels.Level.BATCH) == levels.MAX_RETRY_AFTER_SECONDS


def test_one_place_in_eight_goes_to_a_request_that_has_aged() -> None:
    """Premium that never ends neither starves batch nor loses more than an eighth to it."""
    model = node_fakes.model()
    queue = batcher.Batcher(batcher.Batch(1, 0), lambda rank: 100, ageing_seconds=2)
    for key in range(3):
        queue.add(node_fakes.waiting(key, 0.0, generation.Rank.BATCH, model))
    for key in range(100, 140):
        queue.add(node_fakes.waiting(key, 5.0, generation.Rank.PREMIUM, model))
    joined = [one.key for now in range(24) for one in queue.take(6.0 + now, model, {})]
    assert [index for index, key in enumerate(joined) if key < 100] == [7, 15, 23]


def test_looking_ahead_ages_nobody() -> None:
    """Asking when the next join is due changes whose turn it is for no one."""
    model = node_fakes.model()
    queue = batcher.Batcher(batcher.Batch(1, 0), lambda rank: 100, ageing_seconds=2)
    queue.add(node_fakes.waiting(1, 0.0, generation.Rank.BATCH, model))
    queue.add(node_fakes.waiting(2, 5.0, generation.Rank.PREMIUM, model))
    for _ in range(50):
        queue.next_due_in(6.0, model, {})
    assert [one.key for one in queue.take(6.0, model, {})] == [2]
