"""The action `set_rung` and the keeping of its leases, against a gateway and nodes that speak the contract over real HTTP."""

from collections.abc import AsyncGenerator

import pytest

from actions import api
from actions.traffic import levels
from controlplane.domain import errors, outcomes, rungs
from tests.support import action_house
from tests.support.action_house import House
from tests.support.clock import FakeClock
from tests.support.fake_node import Trouble

NOTHING = {"max_tokens": None, "max_prompt_tokens": None, "is_cached_only": False}


@pytest.fixture
async def house(clock: FakeClock) -> AsyncGenerator[House]:
    async with action_house.running(clock) as running:
        yield running


def context(key: str = "run_1:set") -> api.ActionContext:
    return api.ActionContext("run_1", "set", 1, key, 1, 5.0, api.Scope("chat"))


def params(rung: int, **more: outcomes.Json) -> dict[str, outcomes.Json]:
    return {"rung": rung, "ttl_seconds": 60, **more}


async def test_a_rung_reaches_the_gateway_and_every_node(house: House) -> None:
    """Shed levels at the gateway, caps at the nodes, all for the lease; premium is not even mentioned."""
    action = house.actions["set_rung"]
    done = await action.apply(params(3, max_tokens=16), context())
    assert (house.gateway.rung, house.gateway.shed) == (3, {"batch"})
    for node in (house.n1, house.n2):
        assert node.degradation["level"] == 3
        assert node.degradation["levels"] == {
            "premium": NOTHING,
            "standard": {"max_tokens": 16, "max_prompt_tokens": 1024, "is_cached_only": True},
            "batch": NOTHING,
        }
    bodies = [body for process in (house.gateway, house.n1, house.n2) for _, _, body, _ in process.calls if body]
    assert not any("premium" in str(body) for body in bodies)
    assert done.sentence == "chat is on rung 3 of 4 (standard from the cache only) for 60 s"


@pytest.mark.parametrize("rung", range(1, rungs.TOP + 1))
async def test_every_rung_ends_by_itself_everywhere(house: House, clock: FakeClock, rung: int) -> None:
    """Nobody has to be alive for full service to return."""
    await house.actions["set_rung"].apply(params(rung), context())
    clock.move(60)
    assert await levels.SetRung(house.targets).standing("chat") == rungs.Standing(0)
    assert house.gateway.shed == set()
    for name in ("n1", "n2"):
        assert (await house.targets.nodes.state("chat", name)).degradation.level == 0


async def test_planning_shows_the_way_and_changes_nothing(house: House) -> None:
    """From the rung in force to the one asked for."""
    action = house.actions["set_rung"]
    await action.apply(params(1), context())
    effects = len(house.gateway.effects)
    changes = {change.what: (change.before, change.after) for change in await action.plan(params(4), api.Scope("chat"))}
    assert changes["rung"] == (1, 4)
    assert changes["levels shed"] == ([], ["standard", "batch"])
    assert len(house.gateway.effects) == effects
    blast = await action.blast(params(4), api.Scope("chat"))
    assert (blast.touched, blast.unavailable, blast.is_destructive) == (("n1", "n2"), (), False)


async def test_the_same_step_sent_again_has_no_second_effect(house: House) -> None:
    """Absolute, and under one key."""
    action = house.actions["set_rung"]
    await action.apply(params(2), context())
    effects = [len(process.effects) for process in (house.gateway, house.n1, house.n2)]
    await action.apply(params(2), context())
    assert [len(process.effects) for process in (house.gateway, house.n1, house.n2)] == effects
    assert isinstance(await action.probe(params(2), context()), api.Applied)
    assert isinstance(await action.probe(params(2), context("run_2:set")), api.NotApplied)


async def test_rung_zero_ends_every_lease_at_once(house: House) -> None:
    """Full service does not wait for the leases."""
    action = house.actions["set_rung"]
    await action.apply(params(4), context("run_1:set"))
    await action.apply(params(0), context("run_2:set"))
    assert (house.gateway.rung, house.gateway.shed, house.gateway.leases) == (None, set(), {})
    assert [node.degradation["level"] for node in (house.n1, house.n2)] == [0, 0]


async def test_undo_returns_to_the_rung_before(house: House) -> None:
    """And leaves alone what somebody has set since."""
    action = house.actions["set_rung"]
    await action.apply(params(1), context("run_1:set"))
    done = await action.apply(params(2), context("run_2:set"))
    undone = await action.undo(params(2), context("run_2:set"), done)
    assert (house.gateway.rung, undone.sentence) == (1, "chat is back on rung 1 of 4 (answers capped)")
    again = await action.undo(params(2), context("run_2:set"), done)
    assert again.sentence == "chat is not on rung 2 any more; nothing to undo"


async def test_a_node_that_does_not_answer_fails_nothing_and_is_told_with_the_next_renewal(house: House) -> None:
    """Overload is when nodes do not answer."""
    house.n2.trouble = Trouble.BUSY
    done = await house.actions["set_rung"].apply(params(1), context())
    assert "not on n2: " in done.sentence
    assert house.n2.degradation["level"] == 0
    assert await levels.SetRung(house.targets).renew("chat", params(1)) == ""
    assert house.n2.degradation["level"] == 1


async def test_a_renewal_extends_the_lease_each_time(house: House, clock: FakeClock) -> None:
    """Under keys of its own, so that none of them is taken for a repeat."""
    keeper = levels.SetRung(house.targets)
    await house.actions["set_rung"].apply(params(2), context())
    for _ in range(5):
        clock.move(40)
        await keeper.renew("chat", params(2))
    assert await keeper.standing("chat") == rungs.Standing(2, 60.0)


async def test_levels_shed_by_hand_are_nobody_elses_to_change(house: House) -> None:
    """The action refuses; so does the ladder, which sees whose they are."""
    body: dict[str, outcomes.Json] = {"batch": {"is_shed": True}, "ttl_seconds": 60}
    await house.targets.gateways.set_levels("chat", body=body, key="by-hand", timeout_seconds=5)
    assert (await levels.SetRung(house.targets).standing("chat")).is_foreign
    with pytest.raises(errors.ConflictError, match="by hand"):
        await house.actions["set_rung"].apply(params(1), context())


@pytest.mark.parametrize("wrong", [{"rung": -1}, {"rung": 5}, {"rung": True}, {"rung": 1, "shed": "premium"}, {}])
async def test_what_is_no_rung_is_refused(house: House, wrong: dict[str, outcomes.Json]) -> None:
    """Before anything is sent."""
    with pytest.raises(errors.InvalidInputError):
        await house.actions["set_rung"].apply(wrong, context())
    assert house.gateway.calls == []


async def test_a_single_node_has_no_rung(house: House) -> None:
    """The ladder is the service's."""
    with pytest.raises(errors.InvalidInputError, match="whole service"):
        await house.actions["set_rung"].blast(params(1), api.Scope("chat", "n1"))
