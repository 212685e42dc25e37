"""kill -9 of the gateway or of a node in the middle of a runbook: the run ends, and the fleet ends in a sane state.

Sane is: a node that serves has passed its test or was never touched, one that did not pass is out and people know, a
rung is in force everywhere it can be, and nothing is done twice. Kills of the control plane itself have their own tests
(`test_service_kill`, `test_eject_and_restart`, `test_dead_control_plane`). Real gateway, real node processes, the shipped
runbooks and the real engine, which stands still while a test kills and starts (it lives in the test's event loop).
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Generator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from actions.node import data
from controlplane.domain import outcomes, plans, runs
from tests.support import fake_node, killable_gateway, local_fleets, prometheus, repairs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

Kind, State = runs.RunEventKind, outcomes.RunState
DAY_SECONDS = 86_400
Inputs = dict[str, outcomes.Json]
REPAIR: Inputs = {"drain_seconds": 1}
RUNG: Inputs = {"rung": 2, "ttl_seconds": 60}


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    path = tmp_path / "fleet"
    path.mkdir()
    with local_fleets.ended(path):
        yield path


@contextmanager
def fleet(folder: Path, *flags: str) -> Generator[killable_gateway.KillableGateway]:
    """Define two nodes and run the gateway in front of them."""
    urls = repairs.define(folder, *flags)
    with killable_gateway.running(folder, urls) as gateway:
        yield gateway


def nothing() -> None:
    """Let nothing happen between plan and run."""


async def submit(
    repair: repairs.Repair, runbook: str, node: str, inputs: Inputs, planned: Callable[[], None] = nothing
) -> str:
    """Submit a run; `planned` is called when its plan has read what it needs and nothing has been done."""
    request = plans.PlanRequest(runbook, "chat", node, "tester", inputs=inputs, dedup_key=runbook)
    plan = await repair.planner.draft(request)
    planned()
    return await repair.engine.submit(plan)


async def until_event(repair: repairs.Repair, run_id: str, kind: runs.RunEventKind, step: str) -> None:
    """Wait until the log of a run holds this."""
    while not any(one.kind is kind and one.step == step for one in await repair.store.runs.events(run_id)):
        await repair.clock.sleep(0.01)


async def until_asked(repair: repairs.Repair, url: str) -> None:
    """Wait until a call lies unread at a frozen server: the kernel took it, the process never will."""
    while not has_unread(f":{int(url.rpartition(':')[2]):04X}"):
        await repair.clock.sleep(0.01)


def has_unread(port: str) -> bool:
    established = "01"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:])
    return any(r[1].endswith(port) and r[3] == established and int(r[4].partition(":")[2], 16) > 0 for r in rows)


def at_once(work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Do it while the event loop, and with it the engine, stands still."""
    with futures.ThreadPoolExecutor(1) as other:
        other.submit(asyncio.run, work()).result(60)


def kill_node(repair: repairs.Repair, name: str = "n1") -> None:
    number = local_fleets.pid(repair.local, name)
    os.kill(number, signal.SIGKILL)
    prometheus.until(lambda: not repair.local.status(name).is_running, "the node is gone")


def freeze_node(repair: repairs.Repair, name: str = "n1") -> None:
    """Calls arrive and none is answered."""
    os.kill(local_fleets.pid(repair.local, name), signal.SIGSTOP)


def start_node(repair: repairs.Repair, name: str = "n1") -> None:
    """Start it again, and wait until it answers."""
    at_once(lambda: repair.local.start(name))
    prometheus.until(lambda: is_ready(repair, name), "the node answers", seconds=60)


def is_ready(repair: repairs.Repair, name: str) -> bool:
    try:
        return httpx.get(f"{repair.local.url(name)}/ready", timeout=2, trust_env=False).is_success
    except httpx.TransportError:
        return False


def num_starts(folder: Path, name: str = "n1") -> int:
    return len((folder / f"{name}.starts").read_text(encoding="ascii").splitlines())


def node_state(repair: repairs.Repair, name: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {fake_node.TOKEN}"}
    return httpx.get(f"{repair.local.url(name)}/admin/v1/state", headers=headers, timeout=5, trust_env=False).json()


async def until_escalated(repair: repairs.Repair) -> None:
    while not repair.stage.escalated:
        await repair.clock.sleep(0.05)


async def test_a_gateway_killed_after_the_ejection_gets_a_tested_node_back(folder: Path) -> None:
    """The new process has forgotten the ejection; the repair goes on, and the node serves once it was restarted."""
    with fleet(folder, "--cured-by-restart") as gateway:
        async with repairs.opened(folder, gateway.url) as repair:
            await repair.ready("n1", "n2")
            (folder / "n1.mute").touch()
            run_id = await submit(repair, "eject-and-restart", "n1", REPAIR)
            await until_event(repair, run_id, Kind.STEP_FINISHED, "eject")
            assert gateway.node("n1")["state"] == "ejected"
            gateway.kill()
            gateway.start()
            run = await repair.ended(run_id)
            assert run.state is State.SUCCEEDED, run.sentence
            assert [gateway.node(name)["state"] for name in repairs.NODES] == ["in_service"] * 2
            assert isinstance(await repair.answers(), data.Completed)
            assert (num_starts(folder, "n1"), num_starts(folder, "n2")) == (2, 1)
            assert repair.stage.escalated == []


async def test_a_gateway_killed_after_the_ejection_does_not_serve_a_node_that_fails_its_canary(folder: Path) -> None:
    """It forgot that the node was out; the quarantine takes it out again, for a day, and oncall is told."""
    with fleet(folder) as gateway:
        async with repairs.opened(folder, gateway.url) as repair:
            await repair.ready("n1", "n2")
            (folder / "n1.wrong").touch()
            run_id = await submit(repair, "eject-and-restart", "n1", REPAIR)
            await until_event(repair, run_id, Kind.STEP_FINISHED, "eject")
            gateway.kill()
            gateway.start()
            assert (await repair.ended(run_id)).state is State.FAILED
            quarantine = await repair.follow_up(run_id)
            assert (await repair.ended(quarantine.id)).state is State.SUCCEEDED
            await until_escalated(repair)
            shown = gateway.node("n1")
            assert (shown["state"], gateway.node("n2")["state"]) == ("ejected", "in_service")
            assert shown["eject_expires_in_seconds"] > DAY_SECONDS - 120


async def test_a_node_that_cannot_be_returned_is_told_of_and_taken_out_when_the_gateway_is_back(folder: Path) -> None:
    """Killed before the return, the gateway serves whom its configuration names; the quarantine has waited for it."""
    with fleet(folder, "--cured-by-restart") as gateway:
        async with repairs.opened(folder, gateway.url) as repair:
            await repair.ready("n1", "n2")
            run_id = await submit(repair, "eject-and-restart", "n1", REPAIR)
            await until_event(repair, run_id, Kind.STEP_FINISHED, "restart")
            gateway.kill()
            run = await repair.ended(run_id)
            assert run.state is State.FAILED, run.sentence
            await until_escalated(repair)
            assert {who for who, _ in repair.stage.escalated} == {"oncall"}
            assert isinstance(await repair.answers(), data.Completed)
            gateway.start()
            assert gateway.node("n1")["state"] == "in_service"
            quarantine = await repair.follow_up(run_id)
            assert (await repair.ended(quarantine.id)).state is State.SUCCEEDED
            assert [gateway.node(name)["state"] for name in repairs.NODES] == ["ejected", "in_service"]


@pytest.mark.parametrize("step", ["eject", "restart"])
async def test_a_node_killed_in_its_repair_comes_back_tested_or_stays_out(folder: Path, step: str) -> None:
    """Before its restart a kill changes nothing; after it the canary fails, and the node is kept out and told of."""
    with fleet(folder) as gateway:
        async with repairs.opened(folder, gateway.url) as repair:
            await repair.ready("n1", "n2")
            run_id = await submit(repair, "eject-and-restart", "n1", REPAIR)
            if step == "restart":
                (folder / "n1.mute").touch()  # so that the canary cannot be over before the kill
            await until_event(repair, run_id, Kind.STEP_FINISHED, step)
            kill_node(repair)
            run = await repair.ended(run_id)
            assert gateway.node("n2")["state"] == "in_service"
            if step == "eject":
                assert run.state is State.SUCCEEDED, run.sentence
                assert gateway.node("n1")["state"] == "in_service"
                assert isinstance(await repair.answers(), data.Completed)
                return
            assert run.state is State.FAILED
            assert (await repair.ended((await repair.follow_up(run_id)).id)).state is State.SUCCEEDED
            await until_escalated(repair)
            assert gateway.node("n1")["state"] == "ejected"


async def test_a_node_killed_in_a_flush_counts_as_flushed_once_it_is_back(folder: Path) -> None:
    """It had the call and never answered: the run looks, finds another process without the old cache, and ends."""
    with fleet(folder) as gateway:
        async with repairs.opened(folder, gateway.url) as repair:
            await repair.ready("n1", "n2")
            run_id = await submit(repair, "flush-cache", "n1", {}, lambda: freeze_node(repair))
            await until_asked(repair, repair.local.url("n1"))
            kill_node(repair)
            start_node(repair)
            run = await repair.ended(run_id)
            assert run.state is State.SUCCEEDED, run.sentence
            assert node_state(repair, "n1")["cache"]["l1"]["entries"] == 0
            assert [gateway.node(name)["state"] for name in repairs.NODES] == ["in_service"] * 2


async def test_a_gateway_killed_in_a_flush_is_no_obstacle(folder: Path) -> None:
    """A flush goes to the node; nothing of it is asked of the gateway."""
    with fleet(folder) as gateway:
        async with repairs.opened(folder, gateway.url) as repair:
            await repair.ready("n1", "n2")
            run_id = await submit(repair, "flush-cache", "n1", {}, lambda: freeze_node(repair))
            await until_asked(repair, repair.local.url("n1"))
            gateway.kill()
            os.kill(local_fleets.pid(repair.local, "n1"), signal.SIGCONT)
            assert (await repair.ended(run_id)).state is State.SUCCEEDED
            gateway.start()
            assert [gateway.node(name)["state"] for name in repairs.NODES] == ["in_service"] * 2


async def test_a_gateway_killed_in_a_step_of_the_ladder_is_told_again(folder: Path) -> None:
    """It had the call and never answered; the new process is in full service until the step is repeated, with its lease."""
    with fleet(folder) as gateway:
        async with repairs.opened(folder, gateway.url) as repair:
            await repair.ready("n1", "n2")
            run_id = await submit(repair, "degrade", "", RUNG, gateway.freeze)
            await until_asked(repair, gateway.url)
            gateway.kill()
            gateway.start()
            assert gateway.state()["rung"] is None
            run = await repair.ended(run_id)
            assert run.state is State.SUCCEEDED, run.sentence
            shown = gateway.state()
            assert (shown["rung"], shown["levels"]["batch"]["is_shed"]) == (2, True)
            assert [lease["kind"] for lease in shown["leases"]] == ["levels"]
            assert [node_state(repair, name)["degradation"]["level"] for name in repairs.NODES] == [2, 2]


async def test_a_node_killed_in_a_step_of_the_ladder_holds_nobody_up(folder: Path) -> None:
    """The rung is in force at the gateway and at its peer; back again, it serves in full until the next renewal."""
    with fleet(folder) as gateway:
        async with repairs.opened(folder, gateway.url) as repair:
            await repair.ready("n1", "n2")
            run_id = await submit(repair, "degrade", "", RUNG, lambda: freeze_node(repair))
            while gateway.state()["rung"] != 2:
                await repair.clock.sleep(0.02)
            kill_node(repair)
            run = await repair.ended(run_id)
            assert run.state is State.SUCCEEDED, run.sentence
            assert node_state(repair, "n2")["degradation"]["level"] == 2
            start_node(repair)
            assert node_state(repair, "n1")["degradation"]["level"] == 0
            assert gateway.state()["rung"] == 2
