"""What every action promises, shown against processes that speak the contract over real HTTP."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import pytest

from actions import api
from actions.traffic import admin as gateway_admin
from controlplane.domain import errors, outcomes, plans
from tests.support import action_house
from tests.support.action_house import House
from tests.support.clock import FakeClock
from tests.support.fake_node import FakeProcess, Trouble

PROMPT: outcomes.Json = {"prompt": "hello", "temperature": 0}


@pytest.fixture
async def house(clock: FakeClock) -> AsyncGenerator[House]:
    async with action_house.running(clock) as running:
        yield running


def node(house: House) -> FakeProcess:
    return house.n1


def gateway(house: House) -> FakeProcess:
    return house.gateway


@dataclass(frozen=True)
class Case:
    """One action with parameters that change something on n1, and who carries it out."""

    name: str
    params: dict[str, outcomes.Json]
    look: Callable[[House], object]
    after: object
    who: Callable[[House], FakeProcess] = node


CASES = [
    Case("flush_cache", {"tier": "l1"}, lambda house: house.n1.entries, 0),
    Case("warm_cache", {"prompts": [PROMPT]}, lambda house: house.n1.entries, 813),
    Case("drain_node", {"ttl_seconds": 60}, lambda house: house.n1.is_draining, after=True),
    Case("set_batch", {"max_size": 4}, lambda house: house.n1.batch["max_size"], 4),
    Case("degrade_node", {"level": 2, "max_tokens": 16}, lambda house: house.n1.degradation["level"], 2),
    Case("eject_node", {"ttl_seconds": 60}, lambda house: house.gateway.states["n1"], "ejected", gateway),
]
# The others take their success from the status alone.
READ_BACK = {"flush_cache", "warm_cache", "eject_node"}
REVERSIBLE = [case for case in CASES if case.name not in {"flush_cache", "warm_cache"}]


def named(case: Case) -> str:
    return case.name


def key_of(case: Case) -> str:
    """The key of n1's call: warming always works on several nodes and derives it."""
    return "run_1:step:n1" if case.name == "warm_cache" else "run_1:step"


@pytest.mark.parametrize("case", CASES, ids=named)
async def test_planning_reads_and_changes_nothing(house: House, case: Case) -> None:
    """The difference is there before anybody agrees to it."""
    action = house.actions[case.name]
    scope = api.Scope("chat", "n1")
    before = case.look(house)
    changes = await action.plan(case.params, scope)
    blast = await action.blast(case.params, scope)
    assert changes
    assert all(change.target == "chat/n1" for change in changes)
    assert blast.touched == ("n1",)
    assert blast.is_destructive is action.spec.is_destructive is bool(blast.unavailable)
    assert (case.look(house), case.who(house).effects) == (before, [])


@pytest.mark.parametrize("case", CASES, ids=named)
async def test_two_tries_under_one_key_have_one_effect(house: House, case: Case) -> None:
    """A repeat gets the first answer."""
    action = house.actions[case.name]
    await action.apply(case.params, house.context())
    await action.apply(case.params, house.context())
    assert case.look(house) == case.after
    assert len(case.who(house).effects) == 1
    assert key_of(case) in case.who(house).keys


@pytest.mark.parametrize("case", CASES, ids=named)
async def test_a_lost_answer_is_found_by_the_probe(house: House, case: Case) -> None:
    """It happened, nobody heard: apply says unknown, probe says applied."""
    action = house.actions[case.name]
    case.who(house).trouble = Trouble.LOSE_ANSWER
    with pytest.raises(errors.OutcomeUnknownError):
        await action.apply(case.params, house.context())
    probed = await action.probe(case.params, house.context())
    assert isinstance(probed, api.Applied)
    assert len(case.who(house).effects) == 1


@pytest.mark.parametrize("case", CASES, ids=named)
async def test_a_lost_request_is_found_by_the_probe(house: House, case: Case) -> None:
    """It never arrived: the probe says so, and sending again does it once."""
    action = house.actions[case.name]
    case.who(house).trouble = Trouble.LOSE_REQUEST
    with pytest.raises(errors.OutcomeUnknownError):
        await action.apply(case.params, house.context())
    assert isinstance(await action.probe(case.params, house.context()), api.NotApplied)
    await action.apply(case.params, house.context())
    assert case.look(house) == case.after


@pytest.mark.parametrize("case", [case for case in CASES if case.name in READ_BACK], ids=named)
async def test_an_answer_of_another_contract_is_unknown(house: House, case: Case) -> None:
    """Something was done that we cannot read; calling it done would be a guess."""
    case.who(house).trouble = Trouble.OTHER_CONTRACT
    with pytest.raises(errors.OutcomeUnknownError):
        await house.actions[case.name].apply(case.params, house.context())


@pytest.mark.parametrize("case", CASES, ids=named)
async def test_bad_parameters_are_refused_before_anything_is_asked(house: House, case: Case) -> None:
    """Unknown names and wrong types name the parameter."""
    action = house.actions[case.name]
    wrongs: list[tuple[dict[str, outcomes.Json], str]] = [
        ({**case.params, "tll": 1}, "tll"),
        ({name: {"$(x)": ";"} for name in case.params}, next(iter(case.params))),
    ]
    for wrong, place in wrongs:
        for ask in (
            lambda wrong=wrong: action.plan(wrong, api.Scope("chat", "n1")),
            lambda wrong=wrong: action.blast(wrong, api.Scope("chat", "n1")),
            lambda wrong=wrong: action.apply(wrong, house.context()),
            lambda wrong=wrong: action.probe(wrong, house.context()),
        ):
            with pytest.raises(errors.InvalidInputError) as caught:
                await ask()
            assert caught.value.place.startswith(place)
    assert house.n1.calls == house.gateway.calls == []


@pytest.mark.parametrize("case", CASES, ids=named)
async def test_unknown_targets_are_refused(house: House, case: Case) -> None:
    """A node nobody discovered is not called."""
    action = house.actions[case.name]
    with pytest.raises(errors.NotFoundError, match="n7"):
        await action.blast(case.params, api.Scope("chat", "n7"))
    with pytest.raises(errors.NotFoundError, match="chess"):
        await action.plan(case.params, api.Scope("chess", "n1"))


@pytest.mark.parametrize("case", REVERSIBLE, ids=named)
async def test_undo_restores_what_was(house: House, case: Case) -> None:
    """And a second undo finds nothing to do."""
    action = house.actions[case.name]
    before = case.look(house)
    result = await action.apply(case.params, house.context())
    await action.undo(case.params, house.context(), result)
    assert case.look(house) == before
    assert case.who(house).leases == {}
    effects = len(case.who(house).effects)
    again = await action.undo(case.params, house.context(), result)
    assert len(case.who(house).effects) == effects
    assert "undo" in again.sentence or "left alone" in again.sentence


@pytest.mark.parametrize("case", REVERSIBLE, ids=named)
async def test_overrides_end_by_themselves(house: House, case: Case) -> None:
    """A control plane that dies leaves nothing behind for ever, and undo then changes nothing."""
    action = house.actions[case.name]
    before = case.look(house)
    result = await action.apply({**case.params, "ttl_seconds": 60}, house.context())
    house.clock.move(61)
    await action.plan(case.params, api.Scope("chat", "n1"))
    assert case.look(house) == before
    await action.undo(case.params, house.context(), result)
    assert len(case.who(house).effects) == 1


@pytest.mark.parametrize("case", REVERSIBLE, ids=named)
async def test_a_restart_ends_the_override_and_undo_knows(house: House, case: Case) -> None:
    """There is nothing left to restore."""
    action = house.actions[case.name]
    before = case.look(house)
    result = await action.apply(case.params, house.context())
    house.n1.restart()
    house.gateway.restart()
    house.gateway.states = dict.fromkeys(house.gateway.states, "in_service")
    await action.undo(case.params, house.context(), result)
    assert case.look(house) == before


@pytest.mark.parametrize("case", [case for case in REVERSIBLE if case.name != "degrade_node"], ids=named)
async def test_what_somebody_else_holds_is_left_alone(house: House, case: Case) -> None:
    """An override under another key is refused, so that undo never lifts it."""
    action = house.actions[case.name]
    await action.apply(case.params, house.context(key="run_0:step"))
    with pytest.raises(errors.ConflictError, match="somebody else"):
        await action.apply(case.params, house.context(key="run_9:step"))
    assert len(case.who(house).effects) == 1


@pytest.mark.parametrize("case", [case for case in CASES if case not in REVERSIBLE], ids=named)
async def test_what_cannot_be_undone_says_so(house: House, case: Case) -> None:
    """The declaration and the behaviour agree."""
    action = house.actions[case.name]
    assert not action.spec.is_reversible
    with pytest.raises(errors.GiveUpError, match=case.name):
        await action.undo(case.params, house.context(), api.ActionResult(""))


@pytest.mark.parametrize("case", REVERSIBLE, ids=named)
async def test_overrides_need_a_node(house: House, case: Case) -> None:
    """Nobody drains a whole service by leaving a name out."""
    action = house.actions[case.name]
    with pytest.raises(errors.InvalidInputError, match="--node"):
        await action.blast(case.params, api.Scope("chat"))


async def test_flushing_says_how_many_entries_go(house: House) -> None:
    """Before as a difference, after as a sentence."""
    action = house.actions["flush_cache"]
    assert await action.plan({}, api.Scope("chat")) == (
        plans.Change("chat/n1", "l1 entries", 812, 0),
        plans.Change("chat/n2", "l1 entries", 40, 0),
    )
    assert (await action.blast({}, api.Scope("chat"))).touched == ("n1", "n2")
    result = await action.apply({}, house.context(""))
    assert result.sentence == "flushed 852 l1 entries on n1, n2"
    assert set(house.n1.keys) | set(house.n2.keys) == {"run_1:step:n1", "run_1:step:n2"}


async def test_a_part_of_the_cache_can_be_flushed(house: House) -> None:
    """How much that is, only the node knows."""
    action = house.actions["flush_cache"]
    params: dict[str, outcomes.Json] = {"prefix": "Once", "model": "tiny"}
    (change,) = await action.plan(params, api.Scope("chat", "n1"))
    assert change == plans.Change(
        "chat/n1", "l1 entries of prompts beginning with 'Once' of model 'tiny'", "part of 812", 0
    )
    await action.apply(params, house.context())
    assert house.n1.calls[-1][2] == {"tier": "l1", "prefix": "Once", "model": "tiny"}
    assert house.n1.entries == 406


async def test_a_restarted_node_counts_as_flushed(house: House) -> None:
    """Its keys are forgotten, and its cache with them: there is nothing left to flush."""
    action = house.actions["flush_cache"]
    house.n1.trouble = Trouble.LOSE_ANSWER
    with pytest.raises(errors.OutcomeUnknownError):
        await action.apply({}, house.context())
    house.n1.restart()
    probed = await action.probe({}, house.context())
    assert isinstance(probed, api.Applied)
    assert f"its cache is empty (boot {house.n1.boot_id})" in probed.result.sentence


async def test_a_node_that_forgot_and_filled_again_is_flushed_again(house: House) -> None:
    """Nobody can know that these entries are good; flushing good ones costs time, keeping wrong ones costs answers."""
    action = house.actions["flush_cache"]
    await action.apply({}, house.context())
    house.n1.restart()
    house.n1.entries = 3
    probed = await action.probe({}, house.context())
    assert isinstance(probed, api.NotApplied)
    assert "holds 3 entries" in probed.sentence


async def test_a_half_done_service_is_unknown_and_is_completed(house: House) -> None:
    """One node flushed, one unheard of: look, then send again with the same keys; nothing happens twice."""
    action = house.actions["flush_cache"]
    house.n2.trouble = Trouble.BUSY
    with pytest.raises(errors.OutcomeUnknownError, match="done on n1, not on all"):
        await action.apply({}, house.context(""))
    probed = await action.probe({}, house.context(""))
    assert isinstance(probed, api.NotApplied)
    assert "n2 does not know" in probed.sentence
    await action.apply({}, house.context(""))
    assert (len(house.n1.effects), len(house.n2.effects)) == (1, 1)


async def test_a_service_that_is_busy_everywhere_can_be_retried(house: House) -> None:
    """Certainly nothing happened, and the longest delay counts."""
    house.n1.trouble = house.n2.trouble = Trouble.BUSY
    with pytest.raises(errors.RetryLaterError) as caught:
        await house.actions["flush_cache"].apply({}, house.context(""))
    assert caught.value.delay_seconds == 7


async def test_a_refusal_by_one_node_is_final(house: House) -> None:
    """It names the node that refused and those that are done."""
    house.n2.trouble = Trouble.REDIRECT
    with pytest.raises(errors.PartlyDoneError, match=r"done on n1, not on all: chat/n2"):
        await house.actions["flush_cache"].apply({}, house.context(""))


async def test_doubt_about_one_node_outweighs_a_refusal_by_another(house: House) -> None:
    """As long as something may have happened, somebody has to look."""
    house.n1.trouble, house.n2.trouble = Trouble.LOSE_ANSWER, Trouble.REDIRECT
    with pytest.raises(errors.OutcomeUnknownError):
        await house.actions["flush_cache"].apply({}, house.context(""))


async def test_warming_nothing_is_no_success(house: House) -> None:
    """Prompts that cannot be cached are refused with the reason."""
    with pytest.raises(errors.GiveUpError, match="could warm none of 1 prompts"):
        await house.actions["warm_cache"].apply({"prompts": [{"prompt": "x"}]}, house.context())


async def test_batch_that_somebody_changed_since_is_left_alone(house: House) -> None:
    """Undo restores our change only."""
    action = house.actions["set_batch"]
    result = await action.apply({"max_size": 4}, house.context())
    house.n1.batch = {"max_size": 2, "max_wait_seconds": 0.01}
    said = await action.undo({"max_size": 4}, house.context(), result)
    assert "left alone" in said.sentence
    assert house.n1.batch["max_size"] == 2


async def test_undo_climbs_back_one_rung(house: House) -> None:
    """The degradation before returns with the time it had left; it is not lifted."""
    action = house.actions["degrade_node"]
    await action.apply({"level": 1, "ttl_seconds": 100}, house.context(key="run_1:first"))
    house.clock.move(40)
    result = await action.apply({"level": 3, "ttl_seconds": 500}, house.context(key="run_1:second"))
    await action.undo({"level": 3}, house.context(key="run_1:second"), result)
    assert house.n1.degradation["level"] == 1
    assert house.n1.expires_in("degradation") == 60


async def test_degradation_that_somebody_changed_since_is_left_alone(house: House) -> None:
    """Undo of level 1 does not lift somebody else's level 3."""
    action = house.actions["degrade_node"]
    result = await action.apply({"level": 1}, house.context(key="run_1:a"))
    await action.apply({"level": 3}, house.context(key="run_2:b"))
    assert "left alone" in (await action.undo({"level": 1}, house.context(key="run_1:a"), result)).sentence
    assert house.n1.degradation["level"] == 3


async def test_a_node_unknown_to_the_gateway_is_named(house: House) -> None:
    """Discovery and gateway disagree: a person must register it."""
    del house.gateway.states["n1"]
    with pytest.raises(errors.NotFoundError, match="register it first"):
        await house.actions["eject_node"].plan({}, api.Scope("chat", "n1"))


async def test_a_gateway_without_a_token_is_named(house: House) -> None:
    """Each gateway has its own; one that is missing is a matter of settings."""
    lone = gateway_admin.GatewayAdmin({}, house.targets.where)
    with pytest.raises(errors.NotFoundError, match="no admin token is configured for the gateway of chat"):
        await lone.nodes("chat")
