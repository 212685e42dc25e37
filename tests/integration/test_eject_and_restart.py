"""The runbook eject-and-restart over real processes: a bad node comes back, or stays out and somebody is told."""

import asyncio
import json
import multiprocessing
import multiprocessing.context
import sys
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from actions.node import data
from controlplane.domain import outcomes, runs
from controlplane.runs import failpoints
from tests.support import fake_node, local_fleets, nodes, repairs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

Kind = runs.RunEventKind
Point = failpoints.Point


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    path = tmp_path / "fleet"
    path.mkdir()
    with local_fleets.ended(path):
        yield path


def num_starts(folder: Path, name: str = "n1") -> int:
    return len((folder / f"{name}.starts").read_text(encoding="ascii").splitlines())


async def finished(repair: repairs.Repair, run_id: str) -> list[str]:
    return [one.step for one in await repair.store.runs.events(run_id) if one.kind is Kind.STEP_FINISHED]


async def test_a_wedged_node_is_restarted_tested_and_returned(folder: Path) -> None:
    """It answers its probes and no request; after the run it serves again, in rotation, and its peer was not touched."""
    repairs.define(folder, "--cured-by-restart")
    async with fake_node.FakeGateway("n1", "n2").running() as gateway, repairs.opened(folder, gateway.url) as repair:
        await repair.ready("n1", "n2")
        (folder / "n1.mute").touch()
        assert await repair.http.is_ready(repair.local.url("n1"))
        run = await repair.ended(await repair.submit("eject-and-restart", drain_seconds=1))
        assert run.state is outcomes.RunState.SUCCEEDED, run.sentence
        assert await finished(repair, run.id) == ["eject", "drain", "restart", "canary", "return"]
        assert isinstance(await repair.answers(), data.Completed)
        assert gateway.states == {"n1": "in_service", "n2": "in_service"}
        assert gateway.leases == {}
        assert (num_starts(folder, "n1"), num_starts(folder, "n2")) == (2, 1)
        assert repair.stage.escalated == []


async def test_a_node_that_is_down_is_repaired_too(folder: Path) -> None:
    """It cannot be drained; that does not stop its restart."""
    repairs.define(folder)
    async with fake_node.FakeGateway("n1", "n2").running() as gateway, repairs.opened(folder, gateway.url) as repair:
        await repair.ready("n2")
        run = await repair.ended(await repair.submit("eject-and-restart", drain_seconds=1))
        assert run.state is outcomes.RunState.SUCCEEDED, run.sentence
        assert await finished(repair, run.id) == ["eject", "restart", "canary", "return"]
        assert isinstance(await repair.answers(), data.Completed)


@pytest.mark.parametrize(
    ("trouble", "reason"), [("wrong", "other text than n2"), ("mute", "5 of 5 canary requests: no answer within 10 s")]
)
async def test_a_node_that_fails_its_canary_stays_out_and_is_escalated(folder: Path, trouble: str, reason: str) -> None:
    """The restart did not cure it: it is never returned, its ejection is prolonged to a day, and oncall is told why."""
    repairs.define(folder)
    async with fake_node.FakeGateway("n1", "n2").running() as gateway, repairs.opened(folder, gateway.url) as repair:
        await repair.ready("n1", "n2")
        (folder / f"n1.{trouble}").touch()
        run = await repair.ended(await repair.submit("eject-and-restart", drain_seconds=1))
        assert run.state is outcomes.RunState.FAILED
        assert reason in run.sentence
        quarantine = await repair.follow_up(run.id)
        assert quarantine.plan.request.runbook == "quarantine-node"
        assert (await repair.ended(quarantine.id)).state is outcomes.RunState.SUCCEEDED
        while not repair.stage.escalated:
            await repair.clock.sleep(0.05)
        ((who, said),) = repair.stage.escalated
        assert who == "oncall"
        assert reason in said
        assert gateway.states["n1"] == "ejected"
        assert gateway.expires_in("eject:n1") == 86_400
        assert not [call for call in gateway.calls if call[1].endswith("/return")]


async def test_a_node_that_does_not_recover_is_taken_out_again(folder: Path) -> None:
    """It passes its test and is bad under load: the verdict sends it into quarantine."""
    repairs.define(folder)
    async with fake_node.FakeGateway("n1", "n2").running() as gateway, repairs.opened(folder, gateway.url) as repair:
        await repair.ready("n1", "n2")
        judged = outcomes.Judged(outcomes.Verdict.NOT_RECOVERED, "latency_p99 is 4 s", has_control=True)
        repair.stage.verdicts = [judged]
        run = await repair.ended(await repair.submit("eject-and-restart", drain_seconds=1))
        assert (run.state, run.verdict) == (outcomes.RunState.FAILED, outcomes.Verdict.NOT_RECOVERED)
        while gateway.states["n1"] != "ejected" or not repair.stage.escalated:
            await repair.clock.sleep(0.05)
        assert [name for name, _ in repair.stage.follow_ups] == ["quarantine-node"]


async def test_a_person_returns_a_quarantined_node_after_its_test(folder: Path) -> None:
    """The way back asks for the same test, and ends anybody's ejection."""
    repairs.define(folder)
    async with fake_node.FakeGateway("n1", "n2").running() as gateway, repairs.opened(folder, gateway.url) as repair:
        await repair.ready("n1", "n2")
        assert (await repair.ended(await repair.submit("quarantine-node"))).state is outcomes.RunState.SUCCEEDED
        assert gateway.states["n1"] == "ejected"
        run = await repair.ended(await repair.submit("return-node"))
        assert run.state is outcomes.RunState.SUCCEEDED, run.sentence
        assert gateway.states["n1"] == "in_service"


@pytest.fixture(scope="module")
def victims() -> multiprocessing.context.ForkServerContext:
    """Start processes from a server that has imported everything once; each is a process of its own to kill."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.repairs"])
    return context


# The third effect is the restart; after it come the canary and the return.
KILLS = ["after_effect:1", "before_effect:3", "after_effect:3", "in_commit:3", "before_effect:4", "after_effect:5"]


@pytest.mark.parametrize("armed", KILLS)
def test_a_repair_survives_kill_9(victims: multiprocessing.context.ForkServerContext, folder: Path, armed: str) -> None:
    """Killed in the middle, the successor finds the same processes and ends the run; the node was restarted once."""
    repairs.define(folder, "--cured-by-restart")
    with fake_node.FakeGateway("n1", "n2").running_in_thread() as gateway:
        asyncio.run(_start_wedged(folder, gateway.url))
        for expected, point in ((-9, armed), (0, "")):
            process = victims.Process(target=repairs.main, args=(folder, gateway.url, point))
            process.start()
            process.join(120)
            assert process.exitcode == expected
        run, answer = asyncio.run(_look(folder, gateway.url))
        assert run.state is outcomes.RunState.SUCCEEDED, run.sentence
        assert isinstance(answer, data.Completed)
        assert num_starts(folder) == 2
        assert gateway.states["n1"] == "in_service"
        assert [call for call in gateway.effects if call.endswith("/n1/eject")] == ["POST /admin/v1/nodes/n1/eject"]


async def _start_wedged(folder: Path, gateway_url: str) -> None:
    async with repairs.opened(folder, gateway_url) as repair:
        await repair.ready("n1", "n2")
    (folder / "n1.mute").touch()


async def _look(folder: Path, gateway_url: str) -> tuple[runs.Run, data.Answer]:
    async with repairs.opened(folder, gateway_url) as repair:
        (run,) = await repair.store.runs.find()
        return run, await repair.answers()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_real_node_that_hangs_comes_back_behind_its_real_gateway(folder: Path) -> None:
    """The wedge of the reference node, cured by restarting its process; it enters service slowly and answers."""
    (port,) = repairs.processes.free_ports(1)
    config = folder / "node-1.json"
    config.write_text(json.dumps({**nodes.NODE_DEFAULTS, "port": port, "shutdown_grace_seconds": 1}), encoding="utf-8")
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-m", "inference_node.server", "--config", str(config)]
    node = {"argv": argv, "url": url, "environment": {"OMP_NUM_THREADS": "1"}}
    local_fleets.define(folder, {"n1": node})
    with nodes.run_gateway(folder, nodes=[{"name": "n1", "url": url}]) as gateway:
        stage = repairs.opened(folder, gateway.url, token=nodes.ADMIN_TOKEN, api_key=nodes.API_KEY)
        async with stage as repair, httpx.AsyncClient(trust_env=False, timeout=10) as http:
            await repair.ready("n1", within_seconds=nodes.NODE_START_SECONDS)
            fault = f"{url}/admin/v1/faults/wedge"
            assert (await http.put(fault, json={"ttl_seconds": 3600}, headers=gateway.admin)).is_success
            assert isinstance(await repair.answers(), data.Failed)
            run_id = await repair.submit("eject-and-restart", drain_seconds=1)
            run = await repair.ended(run_id, within_seconds=nodes.NODE_START_SECONDS + 60)
            assert run.state is outcomes.RunState.SUCCEEDED, run.sentence
            headers = {"authorization": f"Bearer {gateway.api_key}"}
            body = {"prompt": "hello", "temperature": 0, "max_tokens": 2}
            answer = await http.post(f"{gateway.url}/v1/completions", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            (shown,) = (await http.get(f"{gateway.url}/admin/v1/nodes", headers=gateway.admin)).json()["nodes"]
            assert shown["state"] == "in_service"
            assert shown["slow_start_ratio"] < 1
