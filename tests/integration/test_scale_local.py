"""Growing and shrinking a local fleet for real: paced nodes behind a real gateway, under load, and kill -9 in the middle."""

import asyncio
import contextlib
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from controlplane import clock
from controlplane.domain import errors, outcomes, plans, runs
from tests.support import action_house, local_fleets, nodes, paced_process, repairs, scaling

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

FOUR = ("n1", "n2", "n3", "n4")
# A request takes a second, and a node computes 8 at once: ten a second keep each of four busy, and two of them not full.
TOKENS = 48
PER_SECOND = 10
MAX_REQUESTS = 600


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    with local_fleets.ended(tmp_path / "fleet"):
        yield tmp_path / "fleet"


@contextlib.contextmanager
def gateway(tmp_path: Path, urls: Mapping[str, str]) -> Generator[nodes.Started]:
    """A gateway that knows these nodes from its file."""
    known = [{"name": name, "url": url} for name, url in urls.items()]
    levels = {"standard": paced_process.PATIENT}
    with nodes.run_gateway(tmp_path, nodes=known, slow_start_seconds=1, levels=levels) as started:
        yield started


@dataclass
class Callers:
    """Clients that send requests at a steady rate, whatever becomes of those before; and count the answers."""

    gateway: nodes.Started
    http: httpx.AsyncClient
    statuses: Counter[int] = field(default_factory=Counter)

    async def ask(self, tokens: int, prompt: str = "hello") -> None:
        headers = {"authorization": f"Bearer {self.gateway.api_key}", "cache-control": "no-cache"}
        body = {"prompt": prompt, "max_tokens": tokens}
        answer = await self.http.post(f"{self.gateway.url}/v1/completions", json=body, headers=headers)
        self.statuses[answer.status_code] += 1

    async def load(self, enough: asyncio.Event) -> int:
        """Send until it is enough; returns how many when all are answered."""
        time = clock.SystemClock()
        start, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not enough.is_set() and number < MAX_REQUESTS:
                group.create_task(self.ask(TOKENS, f"request {number}"))
                number += 1
                await time.sleep(start + number / PER_SECOND - time.monotonic())
        return number

    async def known(self) -> dict[str, dict[str, Any]]:
        """The nodes as the gateway shows them."""
        answer = await self.http.get(f"{self.gateway.url}/admin/v1/nodes", headers=self.gateway.admin)
        return {one["name"]: one for one in answer.json()["nodes"]}


@contextlib.asynccontextmanager
async def callers(started: nodes.Started) -> AsyncGenerator[Callers]:
    async with httpx.AsyncClient(
        trust_env=False, verify=action_house.TLS, timeout=30, limits=httpx.Limits(max_connections=None)
    ) as http:
        yield Callers(started, http)


def listed(folder: Path) -> list[str]:
    """The nodes that Prometheus is told of."""
    found = json.loads((folder / scaling.TARGETS_FILE).read_text(encoding="utf-8"))
    return sorted(one["labels"]["node"] for one in found)


def num_starts(folder: Path) -> dict[str, int]:
    return {path.stem: len(path.read_text(encoding="ascii").splitlines()) for path in sorted(folder.glob("*.starts"))}


async def test_a_fleet_grows_and_shrinks_under_load_without_losing_a_request(folder: Path, tmp_path: Path) -> None:
    """From two nodes to four and back, callers all the while: every answer is a 200, and no node was started twice."""
    urls = scaling.paced(folder, FOUR)
    with gateway(tmp_path, {name: urls[name] for name in ("n1", "n2")}) as started:
        async with scaling.opened(folder, started.url) as stage, callers(started) as clients:
            await stage.apply(2, key="run_0:scale")
            grown = await stage.apply(4)
            assert (await stage.apply(4)).data["started"] == grown.data["started"] == ["n3", "n4"]
            cold_starts = grown.data["ready_after_seconds"]
            assert isinstance(cold_starts, dict)
            assert all(isinstance(one, float) and 0.1 < one < 60 for one in cold_starts.values())
            assert stage.running() == listed(folder) == sorted(await clients.known()) == [*FOUR]
            enough = asyncio.Event()
            loading = asyncio.create_task(clients.load(enough))
            while not all(one["outstanding"] for one in (await clients.known()).values()):
                await stage.clock.sleep(0.05)
            shrunk = await stage.apply(2, key="run_2:scale")
            assert stage.running() == listed(folder) == sorted(await clients.known()) == ["n1", "n2"]
            assert not loading.done()
            enough.set()
            assert clients.statuses == {200: await loading}
            assert shrunk.data["requests_lost"] == 0
            assert isinstance(shrunk.data["requests_ended"], int)
            assert shrunk.data["requests_ended"] >= 1
            assert num_starts(folder) == dict.fromkeys(FOUR, 1)


async def test_a_node_whose_request_does_not_end_is_kept(folder: Path, tmp_path: Path) -> None:
    """The request is answered in the end, the node serves on, and the next try succeeds."""
    urls = scaling.paced(folder, ("n1", "n2"), pace=0.03)
    with gateway(tmp_path, urls) as started:
        async with scaling.opened(folder, started.url) as stage, callers(started) as clients:
            await stage.apply(2, key="run_0:scale")
            async with asyncio.TaskGroup() as group:
                for number in range(2):  # one for each node
                    group.create_task(clients.ask(200, f"long {number}"))
                while not all(one["outstanding"] for one in (await clients.known()).values()):
                    await stage.clock.sleep(0.02)
                with pytest.raises(
                    errors.RetryLaterError, match=r"n2 was not stopped: 1 of its requests .*serves again"
                ):
                    await stage.apply(1, drain_seconds=0.5)
                assert stage.running() == ["n1", "n2"]
                assert {one["state"] for one in (await clients.known()).values()} == {"in_service"}
                assert not (await stage.targets.nodes.state("chat", "n2")).is_draining
            assert clients.statuses == {200: 2}
            done = await stage.apply(1, attempt=2)
            assert (stage.running(), done.data["requests_lost"]) == (["n1"], 0)


async def test_kill_9_in_the_middle_of_growing_is_completed_by_the_same_call(folder: Path, tmp_path: Path) -> None:
    """Who scales dies while the third node starts: sent again there are exactly four, each started once and registered."""
    urls = scaling.paced(folder, FOUR)
    with gateway(tmp_path, {name: urls[name] for name in ("n1", "n2")}) as started:
        async with scaling.opened(folder, started.url) as stage, callers(started) as clients:
            await stage.apply(2, key="run_0:scale")
            script = (
                "import sys; from pathlib import Path; from tests.support import scaling\n"
                "scaling.main(Path(sys.argv[1]), sys.argv[2], 4)\n"
            )
            victim = await asyncio.create_subprocess_exec(
                sys.executable, "-c", script, str(folder), started.url, cwd=scaling.ROOT
            )
            while "n3" not in stage.running():
                assert victim.returncode is None
                await stage.clock.sleep(0.01)
            victim.kill()
            assert await victim.wait() == -signal.SIGKILL
            assert "n3" not in await clients.known()
            done = await stage.apply(4)
            assert done.data["started"] == ["n3", "n4"]
            assert num_starts(folder) == dict.fromkeys(FOUR, 1)
            assert stage.running() == listed(folder) == sorted(await clients.known()) == [*FOUR]
            await clients.ask(2)
            assert clients.statuses == {200: 1}


async def test_a_node_that_never_becomes_ready_is_named_with_its_last_words(folder: Path, tmp_path: Path) -> None:
    """It is stopped again, and nothing has happened: the fleet is what it was."""
    urls = scaling.paced(folder, ("n1", "n2"))
    with gateway(tmp_path, {"n1": urls["n1"]}) as started:
        async with scaling.opened(folder, started.url) as stage, callers(started) as clients:
            await stage.apply(1, key="run_0:scale")
            (folder / "n2.broken").touch()
            with pytest.raises(errors.GiveUpError, match=r"^n2 did not come up and is stopped again: ") as caught:
                await stage.apply(2)
            assert "| the weights are missing" in str(caught.value)
            assert stage.running() == listed(folder) == sorted(await clients.known()) == ["n1"]


async def _run(repair: repairs.Repair, runbook: str, replicas: int, dedup_key: str) -> runs.Run:
    inputs: dict[str, outcomes.Json] = {"replicas": replicas}
    request = plans.PlanRequest(runbook, "chat", "", "tester", inputs=inputs, dedup_key=dedup_key)
    return await repair.ended(await repair.engine.submit(await repair.planner.draft(request)))


async def test_the_shipped_runbooks_grow_and_shrink(folder: Path, tmp_path: Path) -> None:
    """A run of each succeeds; growing that brings no recovery has failed, and takes nothing back."""
    urls = scaling.paced(folder, ("n1", "n2"))
    with gateway(tmp_path, {"n1": urls["n1"]}) as started:
        stage = repairs.opened(folder, started.url, token=nodes.ADMIN_TOKEN)
        async with stage as repair, callers(started) as clients:
            await repair.ready("n1")
            run = await _run(repair, "scale-out", 2, "out")
            assert run.state is outcomes.RunState.SUCCEEDED, run.sentence
            assert sorted(await clients.known()) == ["n1", "n2"]
            run = await _run(repair, "scale-in", 1, "in")
            assert run.state is outcomes.RunState.SUCCEEDED, run.sentence
            assert sorted(await clients.known()) == ["n1"]
            repair.stage.verdicts = [outcomes.Judged(outcomes.Verdict.WORSE, "latency_p99 is 4 s", has_control=False)]
            run = await _run(repair, "scale-out", 2, "out again")
            assert run.state is outcomes.RunState.FAILED, run.sentence
            assert sorted(await clients.known()) == ["n1", "n2"]  # nothing is taken from a service that is pressed
