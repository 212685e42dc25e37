"""Return, canary, quarantine and draining with a deadline, against processes that speak the contract over real HTTP."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from actions import api
from controlplane.domain import errors, outcomes
from tests.support import action_house, fake_node
from tests.support.action_house import House
from tests.support.clock import FakeClock
from tests.support.fake_node import Trouble


@pytest.fixture
async def house(clock: FakeClock) -> AsyncGenerator[House]:
    async with action_house.running(clock) as running:
        yield running


async def eject(house: House, key: str = "run_1:eject", **params: outcomes.Json) -> api.ActionResult:
    return await house.actions["eject_node"].apply({"ttl_seconds": 60, **params}, house.context(key=key))


async def test_a_run_returns_what_it_ejected_once(house: House) -> None:
    """Two tries under one key have one effect, and the probe finds it."""
    action = house.actions["return_node"]
    await eject(house)
    (change,) = await action.plan({}, api.Scope("chat", "n1"))
    assert (change.before, change.after) == ("ejected", "in_service")
    assert isinstance(await action.probe({}, house.context()), api.NotApplied)
    first = await action.apply({}, house.context())
    assert await action.apply({}, house.context()) == api.ActionResult(
        first.sentence, {**first.data, "was_ejected": False}
    )
    assert house.gateway.states["n1"] == "in_service"
    assert house.gateway.leases == {}
    assert len(house.gateway.effects) == 2
    assert isinstance(await action.probe({}, house.context()), api.Applied)


async def test_what_somebody_else_ejected_stays_out_unless_asked_for(house: House) -> None:
    """A run ends only its own ejection; a person who looked may end anybody's."""
    action = house.actions["return_node"]
    headers_run = house.context(key="run_7:eject")
    stranger = api.ActionContext("run_7", "eject", 1, headers_run.idempotency_key, 1, 5.0, headers_run.scope)
    await house.actions["eject_node"].apply({"ttl_seconds": 60}, stranger)
    with pytest.raises(errors.ConflictError, match=r"ejected by somebody else \(run_7 step eject\).*return-node"):
        await action.apply({}, house.context())
    await action.apply({"whose": "anybody"}, house.context())
    assert house.gateway.states["n1"] == "in_service"


async def test_undoing_a_return_ejects_again(house: House) -> None:
    """And leaves alone what was in service before, or is out again."""
    action = house.actions["return_node"]
    await eject(house)
    result = await action.apply({"undo_ttl_seconds": 900}, house.context())
    await action.undo({"undo_ttl_seconds": 900}, house.context(), result)
    assert house.gateway.states["n1"] == "ejected"
    assert house.gateway.expires_in("eject:n1") == 900
    effects = list(house.gateway.effects)
    again = await action.undo({}, house.context(), result)
    was_in = await action.undo({}, house.context(), api.ActionResult("", {"was_ejected": False}))
    assert "nothing to undo" in again.sentence
    assert "nothing to undo" in was_in.sentence
    assert house.gateway.effects == effects


async def test_a_lost_answer_to_a_return_is_found(house: House) -> None:
    """It happened, nobody heard: apply says unknown, probe says applied."""
    action = house.actions["return_node"]
    await eject(house)
    house.gateway.trouble = Trouble.LOSE_ANSWER
    with pytest.raises(errors.OutcomeUnknownError):
        await action.apply({}, house.context())
    assert isinstance(await action.probe({}, house.context()), api.Applied)


async def test_quarantine_prolongs_an_ejection_of_another_run(house: House) -> None:
    """Without take_over it is refused; with it the lease is the longer one, and undo leaves it alone."""
    await eject(house, "run_0:eject")
    with pytest.raises(errors.ConflictError, match="somebody else"):
        await eject(house, "run_9:eject")
    params: dict[str, outcomes.Json] = {"ttl_seconds": 86400, "take_over": True}
    result = await eject(house, "run_9:eject", **params)
    assert house.gateway.expires_in("eject:n1") == 86400
    said = await house.actions["eject_node"].undo(params, house.context(key="run_9:eject"), result)
    assert "left alone" in said.sentence
    assert house.gateway.states["n1"] == "ejected"


async def test_a_node_that_answers_as_its_peer_passes(house: House) -> None:
    """Nothing is changed, no cache may answer, and the result names the peer."""
    action = house.actions["canary_test"]
    assert await action.plan({}, api.Scope("chat", "n1")) == ()
    blast = await action.blast({}, api.Scope("chat", "n1"))
    assert (blast.touched, blast.unavailable, blast.is_destructive) == (("n1",), (), False)
    result = await action.apply({"num_requests": 3}, house.context())
    assert result.sentence == "n1 answered 3 of 3, the same as n2"
    assert house.n1.effects == house.n2.effects == []
    asked = [body for _, path, body, _ in house.n1.calls if path == "/v1/completions"]
    assert len(asked) == 3
    assert all(body is not None and body["temperature"] == 0 for body in asked)
    assert isinstance(await action.probe({}, house.context()), api.NotApplied)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (fake_node.problem(500, "broken"), r"failed 2 of 2 canary requests: status 500 \(request 0, 1\)"),
        (fake_node.problem(503, "busy"), "status 503"),
        (fake_node.completion(""), "an empty answer"),
        (fake_node.Answer(200, {"choices": []}), "an answer that is no completion"),
        (fake_node.Answer(200, {"choices": [{"text": 7}]}), "an empty answer"),
        (fake_node.completion("x" * 300_000), "an answer without end"),
        (fake_node.completion("nonsense"), r"other text than n2 for the same prompt \(request 0, 1\)"),
    ],
)
async def test_a_node_that_does_not_answer_well_fails(house: House, answer: fake_node.Answer, reason: str) -> None:
    """The failure is final, and says which requests failed and how."""
    house.n1.say = lambda _: answer
    with pytest.raises(errors.GiveUpError, match=reason):
        await house.actions["canary_test"].apply({"num_requests": 2}, house.context())


async def test_a_node_that_hangs_fails_in_time(house: House) -> None:
    """A wedged engine answers its health checks, and nothing else."""
    house.n1.trouble = Trouble.HANG
    with pytest.raises(errors.GiveUpError, match=r"failed 1 of 1 canary requests: no answer within 0\.2 s"):
        await house.actions["canary_test"].apply({"num_requests": 1, "request_seconds": 0.2}, house.context())


async def test_only_a_peer_in_service_with_the_same_model_is_believed(house: House) -> None:
    """Without one the node is judged by itself, and the result says so."""
    action = house.actions["canary_test"]
    house.n2.version = "2"
    house.n1.say = lambda _: fake_node.completion("another model's answer")
    assert "compared with nobody" in (await action.apply({}, house.context())).sentence
    house.n2.version = "1"
    house.gateway.states["n2"] = "draining"
    assert "compared with nobody" in (await action.apply({}, house.context())).sentence
    house.gateway.states["n2"] = "in_service"
    with pytest.raises(errors.GiveUpError, match="other text than n2"):
        await action.apply({}, house.context())


async def test_a_peer_that_fails_its_own_requests_is_no_judge(house: House) -> None:
    """Two bad nodes do not condemn each other."""
    house.n2.say = lambda _: fake_node.problem(500, "broken too")
    assert "compared with nobody" in (await house.actions["canary_test"].apply({}, house.context())).sentence


async def test_draining_waits_for_running_requests_and_then_goes_on(house: House) -> None:
    """Until nothing runs, or to the deadline: what is left is said, and is no failure."""
    action = house.actions["drain_node"]
    house.n1.running_requests = 2
    waiting = asyncio.ensure_future(action.apply({"wait_seconds": 30}, house.context(timeout=60.0)))
    assert await _moved_until_done(house, waiting, seconds=40) == "2 of its requests have not ended in time"
    again = asyncio.ensure_future(action.apply({"wait_seconds": 30}, house.context(timeout=60.0)))
    house.n1.running_requests = 0
    assert await _moved_until_done(house, again, seconds=5) == "everything it had has ended"
    assert len(house.n1.effects) == 1


async def test_draining_never_waits_longer_than_its_step(house: House) -> None:
    """The step must end by itself: cut off, it would be in doubt."""
    house.n1.running_requests = 1
    waiting = asyncio.ensure_future(
        house.actions["drain_node"].apply({"wait_seconds": 3000}, house.context(timeout=10.0))
    )
    assert "have not ended in time" in await _moved_until_done(house, waiting, seconds=10)


async def _moved_until_done(house: House, waiting: "asyncio.Future[api.ActionResult]", *, seconds: float) -> str:
    """Move time while the action waits; return the second part of what it says."""
    passed = 0.0
    while not waiting.done():
        await asyncio.sleep(0.005)  # noqa: TID251 - lets real HTTP go on beside the fake clock
        house.clock.move(0.25)
        passed += 0.25
        assert passed < 40 * seconds, "it does not end"
    return (await waiting).sentence.partition("; ")[2]


async def test_a_node_that_is_down_can_still_be_planned_for(house: House) -> None:
    """Its repair begins with draining it: that it does not answer is no reason to stop."""
    house.n1.read_trouble = Trouble.LOSE_REQUEST
    (change,) = await house.actions["drain_node"].plan({}, api.Scope("chat", "n1"))
    assert (change.before, change.after) == ("unknown", True)


async def test_what_dsctl_did_not_start_it_does_not_restart(house: House) -> None:
    """The refusal comes with the dry run and says what would be needed."""
    action = house.actions["restart_node"]
    assert (await action.blast({}, api.Scope("chat", "n1"))).unavailable == ("n1",)
    for ask in (action.plan({}, api.Scope("chat", "n1")), action.apply({}, house.context())):
        with pytest.raises(errors.GiveUpError, match=r"cannot restart it; set local_fleets\.chat\.folder"):
            await ask


@pytest.mark.parametrize("name", ["restart_node", "canary_test"])
async def test_what_cannot_be_undone_says_so(house: House, name: str) -> None:
    """The declaration and the behaviour agree."""
    action = house.actions[name]
    assert not action.spec.is_reversible
    with pytest.raises(errors.GiveUpError, match=name):
        await action.undo({}, house.context(), api.ActionResult(""))
    with pytest.raises(errors.InvalidInputError, match="--node"):
        await action.blast({}, api.Scope("chat"))
