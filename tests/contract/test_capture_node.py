"""The look inside before a restart, against a process that speaks the contract over real HTTP."""

import json
from collections.abc import AsyncGenerator

import pytest

from actions import api
from controlplane.domain import errors
from tests.support import action_house, fake_node
from tests.support.action_house import House
from tests.support.clock import FakeClock
from tests.support.fake_node import Trouble


@pytest.fixture
async def house(clock: FakeClock) -> AsyncGenerator[House]:
    async with action_house.running(clock) as running:
        yield running


async def test_a_capture_keeps_the_short_of_it(house: House) -> None:
    """Numbers, ends of stacks and a digest: a few KiB in the run's log, and nothing is changed or taken out."""
    action = house.actions["capture_node"]
    assert await action.plan({}, api.Scope("chat", "n1")) == ()
    blast = await action.blast({}, api.Scope("chat", "n1"))
    assert (blast.touched, blast.unavailable, blast.is_destructive) == (("n1",), (), False)
    result = await action.apply({}, house.context())
    assert result.sentence == "n1 holds 600 MB of 1500 MB, with 3 threads and 21 open files"
    assert len(json.dumps(result.data)) < 6000
    stacks = result.data["stacks"]
    assert isinstance(stacks, list)
    assert len(stacks) == 8
    assert set(result.data) >= {"resident_bytes", "profile", "allocations", "whole", "boot_id"}
    assert house.n2.effects == []


async def test_a_capture_can_be_sent_again(house: House) -> None:
    """It leaves nothing behind, so that nothing is in doubt, and there is nothing to undo."""
    action = house.actions["capture_node"]
    first = await action.apply({}, house.context())
    assert await action.apply({}, house.context()) == first
    assert isinstance(await action.probe({}, house.context()), api.NotApplied)
    with pytest.raises(errors.GiveUpError, match="capture_node"):
        await action.undo({}, house.context(), first)
    with pytest.raises(errors.InvalidInputError, match="--node"):
        await action.blast({}, api.Scope("chat"))


async def test_a_node_that_does_not_answer_is_not_waited_for(house: House) -> None:
    """A hanging node is restarted without an explanation."""
    house.n1.trouble = Trouble.HANG
    with pytest.raises(errors.OutcomeUnknownError):
        await house.actions["capture_node"].apply({}, house.context(timeout=0.1))


async def test_an_answer_that_breaks_the_contract_never_reaches_the_log(house: House) -> None:
    """A place in code is at most 120 characters; whatever is longer may be anything."""

    def lie(_: fake_node.Json) -> fake_node.Json:
        return {**fake_node.FakeNode("n1")._capture({}), "stacks": [{"thread": "t", "frames": ["x" * 121]}]}

    house.n1._capture = lie
    with pytest.raises(errors.OutcomeUnknownError, match="gave no Captured"):
        await house.actions["capture_node"].apply({}, house.context())
