"""The action `scale` over real processes whose HTTP is a fake: every way in which gateway and nodes can answer, or not."""

import asyncio
import json
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from actions import api
from actions.local import scale
from controlplane.domain import errors, outcomes, plans
from tests.support import local_fleets, prometheus, scaling
from tests.support.fake_node import Trouble

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CHAT = api.Scope("chat")


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    with local_fleets.ended(tmp_path / "fleet"):
        yield tmp_path / "fleet"


def listed(folder: Path) -> list[str]:
    """The nodes that Prometheus is told of."""
    found = json.loads((folder / scaling.TARGETS_FILE).read_text(encoding="utf-8"))
    return sorted(one["labels"]["node"] for one in found)


def dead(stage: scaling.Sleepers, name: str) -> None:
    """Kill a node as a crash does."""
    os.kill(local_fleets.pid(stage.scaling.local, name), signal.SIGKILL)
    prometheus.until(lambda: not stage.scaling.local.status(name).is_running, f"{name} has ended")


async def test_growing_starts_spares_and_registers_them(folder: Path) -> None:
    """Sent twice nothing doubles; the result says who came and how long that took."""
    async with scaling.sleepers(folder, ("a", "b", "c", "d"), registered=("a", "b")) as stage:
        done = await stage.scaling.apply(3)
        assert stage.scaling.running() == listed(folder) == ["a", "b", "c"]
        assert stage.gateway.states == dict.fromkeys("abc", "in_service")
        assert (done.data["started"], done.data["stopped"]) == (["c"], [])
        cold_starts = done.data["ready_after_seconds"]
        assert isinstance(cold_starts, dict)
        assert set(cold_starts) == {"c"}
        effects = list(stage.gateway.effects)
        again = await stage.scaling.apply(3)
        assert (again.data["started"], again.data["ready_after_seconds"]) == (["c"], {})
        assert stage.gateway.effects == effects
        assert stage.scaling.running() == ["a", "b", "c"]


async def test_shrinking_takes_out_drains_stops_and_forgets(folder: Path) -> None:
    """In this order, the last node first; Prometheus is told, and so is whoever reads the result."""
    async with scaling.sleepers(folder, ("a", "b", "c"), registered=("a", "b", "c")) as stage:
        done = await stage.scaling.apply(1)
        assert stage.scaling.running() == listed(folder) == ["a"]
        assert stage.gateway.states == {"a": "in_service"}
        of_c = [call for call in stage.gateway.effects if "/c" in call]
        assert of_c == ["POST /admin/v1/nodes/c/eject", "DELETE /admin/v1/nodes/c"]
        assert stage.nodes["c"].effects == ["POST /admin/v1/drain"]
        assert stage.nodes["a"].effects == []
        assert (done.data["stopped"], done.data["requests_lost"]) == (["b", "c"], 0)
        assert (await stage.scaling.apply(1)).data["stopped"] == ["b", "c"]


async def test_planning_says_who_and_changes_nothing(folder: Path) -> None:
    """Growing touches nobody; who leaves is out of service, and is counted by the guard."""
    async with scaling.sleepers(folder, ("a", "b", "c", "d"), registered=("a", "b")) as stage:
        action = stage.scaling.action
        pid = local_fleets.pid(stage.scaling.local, "b")
        assert await action.plan({"replicas": 4}, CHAT) == (
            plans.Change("chat", "nodes", 2, 4),
            plans.Change("chat/c", "process", "not started", "a new one"),
            plans.Change("chat/d", "process", "not started", "a new one"),
        )
        assert await action.blast({"replicas": 4}, CHAT) == plans.BlastRadius()
        assert await action.plan({"replicas": 1}, CHAT) == (
            plans.Change("chat", "nodes", 2, 1),
            plans.Change("chat/b", "process", f"process {pid}", "none, once its requests have ended"),
        )
        assert await action.blast({"replicas": 1}, CHAT) == plans.BlastRadius(("b",), ("b",))
        reckless = await action.blast({"replicas": 1, "may_lose_requests": True}, CHAT)
        assert reckless == plans.BlastRadius(("b",), ("b",), is_destructive=True)
        with pytest.raises(errors.GiveUpError, match=r"fleet\.yaml defines 4 nodes; 6 cannot be placed"):
            await action.plan({"replicas": 6}, CHAT)
        assert stage.gateway.effects == []
        assert stage.scaling.running() == ["a", "b"]


async def test_what_cannot_be_scaled_is_refused(folder: Path) -> None:
    """One node alone, a fleet that somebody else runs, and parameters that are none."""
    async with scaling.sleepers(folder, ("a",), registered=("a",)) as stage:
        action = stage.scaling.action
        with pytest.raises(errors.InvalidInputError, match="leave the node out"):
            await action.plan({"replicas": 1}, api.Scope("chat", "a"))
        with pytest.raises(errors.GiveUpError, match=r"set local_fleets\.chess\.folder"):
            await action.blast({"replicas": 1}, api.Scope("chess"))
        for wrong in ({}, {"replicas": -1}, {"replicas": 1.5}, {"replicas": 1, "drain_second": 1}):
            with pytest.raises(errors.InvalidInputError):
                await action.apply(wrong, stage.scaling.context())


@pytest.mark.parametrize("is_at_node", [False, True])
async def test_a_busy_node_is_put_back_and_a_later_try_succeeds(folder: Path, *, is_at_node: bool) -> None:
    """Nothing is lost: it serves again, in rotation and undrained, and the error says why."""
    async with scaling.sleepers(folder, ("a", "b"), registered=("a", "b")) as stage:
        if is_at_node:
            stage.nodes["b"].running_requests = 2
        else:
            stage.gateway.outstanding["b"] = 2
        with pytest.raises(errors.RetryLaterError, match=r"b was not stopped: 2 of its requests have .*serves again"):
            await stage.scaling.apply(1, drain_seconds=0.6)
        assert stage.scaling.running() == ["a", "b"]
        assert stage.gateway.states == {"a": "in_service", "b": "in_service"}
        assert not stage.nodes["b"].is_draining
        # While the gateway has requests there, the node is not told to refuse any.
        assert (stage.nodes["b"].effects == []) is not is_at_node
        stage.nodes["b"].running_requests = 0
        stage.gateway.outstanding.clear()
        await stage.scaling.apply(1, attempt=2)
        assert stage.scaling.running() == ["a"]


async def test_requests_that_end_while_it_is_waited_for_are_counted(folder: Path) -> None:
    """Ended, not lost; asked to, the action stops a busy node all the same, and counts that too."""
    async with scaling.sleepers(folder, ("a", "b", "c"), registered=("a", "b", "c")) as stage:
        stage.gateway.outstanding["c"] = 3
        waiting = asyncio.create_task(stage.scaling.apply(2))
        while "ejected" not in stage.gateway.states.values():
            await stage.scaling.clock.sleep(0.02)
        stage.gateway.outstanding.clear()
        done = await waiting
        assert (done.data["requests_ended"], done.data["requests_lost"]) == (3, 0)
        stage.gateway.outstanding["b"] = 2
        lossy = await stage.scaling.apply(1, key="run_2:scale", drain_seconds=0, may_lose_requests=True)
        assert (lossy.data["requests_ended"], lossy.data["requests_lost"]) == (0, 2)
        assert stage.scaling.running() == ["a"]


async def test_of_two_who_leave_only_the_idle_one_goes(folder: Path) -> None:
    """What is done is not reported as nothing; sending it again, or a look, tells."""
    async with scaling.sleepers(folder, ("a", "b", "c"), registered=("a", "b", "c")) as stage:
        stage.gateway.outstanding["b"] = 1
        with pytest.raises(errors.OutcomeUnknownError, match=r"done on c, not on all: b was not stopped"):
            await stage.scaling.apply(1, drain_seconds=0.6)
        assert stage.scaling.running() == ["a", "b"]
        assert stage.gateway.states == {"a": "in_service", "b": "in_service"}
        probed = await stage.scaling.action.probe({"replicas": 1}, stage.scaling.context())
        assert isinstance(probed, api.NotApplied)
        stage.gateway.outstanding.clear()
        done = await stage.scaling.apply(1, attempt=2)
        assert done.data["stopped"] == ["b", "c"]


async def test_an_ejection_of_somebody_else_goes_first_and_is_left_alone(folder: Path) -> None:
    """The ejected node leaves; where it is busy it stays, and stays ejected."""
    async with scaling.sleepers(folder, ("a", "b", "c"), registered=("a", "b", "c")) as stage:
        stage.gateway.states["a"] = "ejected"
        stage.gateway.reasons["a"] = "run_7 step eject"
        stage.nodes["a"].running_requests = 1
        assert (await stage.scaling.action.blast({"replicas": 2}, CHAT)).unavailable == ("a",)
        with pytest.raises(errors.RetryLaterError, match="a was not stopped"):
            await stage.scaling.apply(2, drain_seconds=0)
        assert stage.gateway.states["a"] == "ejected"
        stage.nodes["a"].running_requests = 0
        await stage.scaling.apply(2, attempt=2)
        assert stage.scaling.running() == ["b", "c"]


async def test_a_node_that_has_ended_is_replaced_or_leaves(folder: Path) -> None:
    """It does not count as running: for the same number it is started anew, for a smaller one it goes first."""
    async with scaling.sleepers(folder, ("a", "b", "c"), registered=("a", "b", "c")) as stage:
        dead(stage, "a")
        assert (await stage.scaling.apply(3)).data["started"] == ["a"]
        assert stage.scaling.running() == ["a", "b", "c"]
        dead(stage, "b")
        await stage.scaling.apply(2, key="run_2:scale")
        assert stage.scaling.running() == listed(folder) == ["a", "c"]
        assert stage.gateway.states == {"a": "in_service", "c": "in_service"}


async def test_a_node_that_dies_while_it_drains_is_no_reason_to_wait(folder: Path) -> None:
    """Its requests are lost, and the result says how many."""
    async with scaling.sleepers(folder, ("a", "b"), registered=("a", "b")) as stage:
        stage.gateway.outstanding["b"] = 2
        waiting = asyncio.create_task(stage.scaling.apply(1, drain_seconds=30))
        while stage.gateway.states["b"] != "ejected":
            await stage.scaling.clock.sleep(0.02)
        dead(stage, "b")
        done = await waiting
        assert done.data["requests_lost"] == 2
        assert stage.scaling.running() == ["a"]


async def test_a_silent_node_is_stopped_on_the_word_of_its_gateway(folder: Path) -> None:
    """It does not say what it does, and the gateway has nothing outstanding there; without one nobody knows."""
    async with scaling.sleepers(folder, ("a", "b"), registered=("a", "b")) as stage:
        stage.nodes["b"].is_lasting = True
        stage.nodes["b"].trouble = stage.nodes["b"].read_trouble = Trouble.BARE_503
        await stage.scaling.apply(1, drain_seconds=0.6)
        assert stage.scaling.running() == ["a"]


async def test_without_a_gateway_the_node_is_asked(folder: Path) -> None:
    """Who calls nodes directly loses nothing either, and a silent node is not stopped then."""
    async with scaling.sleepers(folder, ("a", "b", "c"), registered=("a",), has_gateway=False) as stage:
        await stage.scaling.apply(3)
        stage.nodes["c"].running_requests = 1
        with pytest.raises(errors.RetryLaterError, match="1 of its requests have not ended"):
            await stage.scaling.apply(2, key="run_2:scale", drain_seconds=0.6)
        assert not stage.nodes["c"].is_draining
        stage.nodes["c"].is_lasting = True
        stage.nodes["c"].trouble = stage.nodes["c"].read_trouble = Trouble.BARE_503
        with pytest.raises(errors.RetryLaterError, match="cannot be seen"):
            await stage.scaling.apply(2, key="run_2:scale", attempt=2, drain_seconds=0.6)
        stage.nodes["b"].running_requests = 0
        assert stage.scaling.running() == ["a", "b", "c"]
        assert stage.gateway.calls == []


async def test_a_gateway_that_does_not_answer_keeps_nobody_from_coming(folder: Path) -> None:
    """The new nodes run; that they get no requests yet is in doubt, not nothing, and the same call completes it."""
    async with scaling.sleepers(folder, ("a", "b", "c"), registered=("a", "b")) as stage:
        stage.gateway.trouble = Trouble.BUSY
        with pytest.raises(errors.OutcomeUnknownError, match="c is ready and gets no requests yet"):
            await stage.scaling.apply(3)
        assert stage.scaling.running() == ["a", "b", "c"]
        probed = await stage.scaling.action.probe({"replicas": 3}, stage.scaling.context())
        assert isinstance(probed, api.NotApplied)
        done = await stage.scaling.apply(3, attempt=2)
        assert done.data["started"] == ["c"]
        assert stage.gateway.states["c"] == "in_service"
        assert isinstance(await stage.scaling.action.probe({"replicas": 3}, stage.scaling.context()), api.Applied)


async def test_a_gateway_that_refuses_new_nodes_does_not_get_all_of_them(folder: Path) -> None:
    """The next spare would be refused as well; the one that runs is not forgotten either."""
    async with scaling.sleepers(folder, ("a", "b", "c"), registered=("a",)) as stage:
        stage.gateway.trouble = Trouble.REDIRECT
        stage.gateway.is_lasting = True
        with pytest.raises(errors.OutcomeUnknownError, match=r"b is ready and gets no requests yet: .*redirects"):
            await stage.scaling.apply(2)
        assert stage.scaling.running() == ["a", "b"]


async def test_what_a_try_that_was_cut_off_has_drained_is_put_back_by_the_next(folder: Path) -> None:
    """Its owner died while the node drained; the next finds it busy, and it serves again."""
    async with scaling.sleepers(folder, ("a", "b"), registered=("a", "b")) as stage:
        stage.nodes["b"].running_requests = 1
        cut_off = asyncio.create_task(stage.scaling.apply(1))
        while not stage.nodes["b"].is_draining:
            await stage.scaling.clock.sleep(0.02)
        cut_off.cancel()
        await asyncio.gather(cut_off, return_exceptions=True)
        assert stage.gateway.states["b"] == "ejected"
        assert {"drain"} == {one["kind"] for one in stage.nodes["b"].listed_leases()}
        with pytest.raises(errors.RetryLaterError, match="it serves again"):
            await stage.scaling.apply(1, attempt=2, drain_seconds=0.6)
        assert stage.gateway.states == {"a": "in_service", "b": "in_service"}
        assert stage.gateway.leases == stage.nodes["b"].leases == {}
        assert not stage.nodes["b"].is_draining


async def test_nobody_leaves_while_the_gateway_does_not_answer(folder: Path) -> None:
    """Whether requests are on their way is unknown, and nothing has happened yet."""
    async with scaling.sleepers(folder, ("a", "b"), registered=("a", "b")) as stage:
        for trouble in ("trouble", "read_trouble"):
            setattr(stage.gateway, trouble, Trouble.BUSY)
            with pytest.raises(errors.RetryLaterError):
                await stage.scaling.apply(1)
        assert stage.scaling.running() == ["a", "b"]
        assert stage.gateway.states == {"a": "in_service", "b": "in_service"}


async def test_a_gateway_that_has_forgotten_its_nodes_learns_them_again(folder: Path) -> None:
    """It was restarted and knows those of its file only; what it names that does not run any more, it forgets."""
    async with scaling.sleepers(folder, ("a", "b", "c"), registered=("a", "b")) as stage:
        stage.gateway.states = {"a": "in_service", "c": "in_service"}
        await stage.scaling.apply(2)
        assert stage.gateway.states == {"a": "in_service", "b": "in_service"}


UNREADY = "raise SystemExit('no such device')"


async def test_a_spare_that_does_not_come_up_is_replaced(folder: Path) -> None:
    """Another one is started instead; the result names the one that ended, with its last words."""
    async with scaling.sleepers(folder, ("a", "b", "c"), registered=("a",)) as stage:
        local = _define_b(folder, stage, argv=[local_fleets.SLEEPER[0], "-c", UNREADY])
        stage.nodes["b"].is_draining = True
        done = await stage.scaling.apply(2)
        assert stage.scaling.running() == listed(folder) == ["a", "c"]
        assert done.data["started"] == ["c"]
        assert "b did not come up" in done.sentence
        assert "| no such device" in done.sentence
        assert not local.status("b").is_running


async def test_a_node_that_never_becomes_ready_is_named_and_stopped(folder: Path) -> None:
    """Those that came stay, since they are needed; only when nobody came has nothing happened."""
    async with scaling.sleepers(folder, ("a", "b", "c"), registered=("a",)) as stage:
        stage.nodes["b"].is_draining = True  # and so it is not ready
        _define_b(
            folder,
            stage,
            argv=[local_fleets.SLEEPER[0], "-c", "import time; print('loading', flush=True); time.sleep(600)"],
        )
        with pytest.raises(errors.PartlyDoneError, match=r"done on c, not on all: b did not come up") as caught:
            await stage.scaling.apply(3, seconds=3.0)
        assert "| loading" in str(caught.value)
        assert stage.scaling.running() == listed(folder) == ["a", "c"]
        assert "b" not in stage.gateway.states
        with pytest.raises(errors.GiveUpError, match="b did not come up") as caught:
            await stage.scaling.apply(3, key="run_2:scale", seconds=2.0)
        assert not isinstance(caught.value, errors.PartlyDoneError)
        assert stage.scaling.running() == ["a", "c"]


def _define_b(folder: Path, stage: scaling.Sleepers, *, argv: list[str]) -> scale.fleet.LocalFleet:
    """Write the fleet anew with another program for b."""
    nodes = {
        name: {"argv": argv if name == "b" else list(local_fleets.SLEEPER), "url": one.url}
        for name, one in stage.nodes.items()
    }
    return local_fleets.define(folder, nodes, stop_seconds=0.5, targets_file=scaling.TARGETS_FILE)


async def test_undo_returns_to_what_ran_before(folder: Path) -> None:
    """In both directions, and what somebody changed since is left alone; the second undo finds nothing to do."""
    async with scaling.sleepers(folder, ("a", "b", "c", "d"), registered=("a", "b")) as stage:
        for key, replicas in (("run_1:scale", 4), ("run_2:scale", 1)):
            params: dict[str, outcomes.Json] = {"replicas": replicas}
            before = stage.scaling.running()
            done = await stage.scaling.apply(replicas, key=key)
            assert stage.scaling.running() != before
            for node in stage.nodes.values():
                node.restart()  # its process was stopped, or is a new one
            context = stage.scaling.context(key=f"{key}:undo")
            await stage.scaling.action.undo(params, context, done)
            assert stage.scaling.running() == listed(folder) == sorted(stage.gateway.states) == before
            again = await stage.scaling.action.undo(params, context, done)
            assert "nothing to undo" in again.sentence


async def test_no_more_than_asked_for_start_at_once(folder: Path) -> None:
    """Loading a model is heavy: the second waits until the first is ready."""
    async with scaling.sleepers(folder, ("a", "b", "c"), registered=("a",)) as stage:
        stage.nodes["b"].is_draining = True
        growing = asyncio.create_task(stage.scaling.apply(3, max_starting=1))
        while "b" not in stage.scaling.running():
            await stage.scaling.clock.sleep(0.02)
        await stage.scaling.clock.sleep(0.7)
        assert stage.scaling.running() == ["a", "b"]
        stage.nodes["b"].is_draining = False
        await growing
        assert stage.scaling.running() == ["a", "b", "c"]
