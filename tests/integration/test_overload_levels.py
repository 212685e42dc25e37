"""Overload through a real gateway: what premium suffers without the ladder, what it keeps with it, and how leases end."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from actions import api, clients
from actions.node import client, data, directory
from actions.traffic import levels
from controlplane import clock
from tests.support import action_house, gateways, nodes, paced_node, prometheus

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

OBJECTIVE_SECONDS = 1.5
# 200 tokens of 20 ms: a burst of such jobs holds all eight places of the node for four seconds.
LONG, SHORT = 200, 8
TIME = clock.SystemClock()


@dataclass
class Seen:
    """What callers of a level got."""

    seconds: list[float] = field(default_factory=list[float])
    answers: list[httpx.Response] = field(default_factory=list[httpx.Response])

    @property
    def codes(self) -> set[int]:
        return {each.status_code for each in self.answers}

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


@pytest.fixture
def gateway(tmp_path: Path) -> Generator[nodes.Started]:
    with nodes.run_gateway(tmp_path, api_keys=gateways.KEYS) as started:
        yield started


@asynccontextmanager
async def overloaded(gateway: nodes.Started) -> AsyncGenerator[clients.Clients]:
    """A node behind the gateway, and the clients that actions use."""
    keys = [{"key": nodes.GATEWAY_KEY, "is_gateway": True}]
    async with (
        paced_node.served(api_keys=keys, admin_tokens=[nodes.ADMIN_TOKEN]) as url,
        client.AdminClient(token=nodes.ADMIN_TOKEN, token_setting="TOKEN") as http,
    ):
        where = directory.StaticDirectory({"chat": {"a": url}}, {"chat": gateway.url})
        data_api = data.NodeData("")
        yield action_house.connect(http, where, data_api, TIME)
        await data_api.aclose()


async def surge(gateway: nodes.Started) -> dict[str, Seen]:
    """Send a burst of batch jobs, then four seconds of premium and standard at a steady rate, whoever answers or not."""
    seen = {level: Seen() for level in gateways.LEVELS}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30, limits=httpx.Limits(), trust_env=False) as http:

        async def ask(level: str, number: int, max_tokens: int) -> None:
            started = TIME.monotonic()
            body = {"prompt": f"{level} {number}", "temperature": 0, "max_tokens": max_tokens}
            headers = {"authorization": f"Bearer key-{level}", "cache-control": "no-cache"}
            answer = await http.post("/v1/completions", json=body, headers=headers)
            seen[level].seconds.append(TIME.monotonic() - started)
            seen[level].answers.append(answer)

        async with asyncio.TaskGroup() as group:
            for number in range(16):
                group.create_task(ask("batch", number, LONG))
            for number in range(16):
                await asyncio.sleep(0.25)  # noqa: TID251 - a steady rate of arrivals in real time
                group.create_task(ask("premium", number, SHORT))
                group.create_task(ask("standard", number, SHORT))
    return seen


async def set_rung(targets: clients.Clients, rung: int) -> None:
    context = api.ActionContext("run_1", "set", 1, f"rung-{rung}", 1, 10.0, api.Scope("chat"))
    await levels.SetRung(targets).apply({"rung": rung, "ttl_seconds": 600}, context)


async def register(gateway: nodes.Started, targets: clients.Clients) -> None:
    url = targets.where.node_url("chat", "a")
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.put(f"{gateway.url}/admin/v1/nodes/a", json={"url": url}, headers=gateway.admin)
    assert answer.status_code == 200, answer.text


async def test_the_ladder_keeps_premium_whole_and_tells_batch_to_come_back(gateway: nodes.Started) -> None:
    """The same surge three times: without the ladder, with batch shed, with standard shed too."""
    async with overloaded(gateway) as targets:
        await register(gateway, targets)
        before = await surge(gateway)
        assert before["premium"].p99 > OBJECTIVE_SECONDS
        await set_rung(targets, 2)
        batch_shed = await surge(gateway)
        assert batch_shed["premium"].codes == batch_shed["standard"].codes == {200}
        assert batch_shed["premium"].p99 < OBJECTIVE_SECONDS
        assert batch_shed["batch"].codes == {429}
        assert all(int(each.headers["retry-after"]) >= 1 for each in batch_shed["batch"].answers)
        await set_rung(targets, 4)
        both_shed = await surge(gateway)
        assert both_shed["premium"].codes == {200}
        assert both_shed["standard"].codes == both_shed["batch"].codes == {429}


def test_leases_end_when_the_control_plane_is_killed(gateway: nodes.Started) -> None:
    """kill -9 in the middle of holding a rung: it outlives the process by one lease, and then everybody is served."""
    ttl = 2.0
    argv = [sys.executable, "-m", "tests.support.rung_keeper", gateway.url, gateway.admin_token, "2", str(ttl)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=root) as keeper:
        try:
            assert keeper.stdout is not None
            # More renewals than one lease would last.
            assert [keeper.stdout.readline() for _ in range(8)] == ["kept\n"] * 8
            assert state(gateway) == (2, True)
        finally:
            keeper.kill()
    killed = TIME.monotonic()
    prometheus.until(lambda: state(gateway) == (None, False), "full service returns")
    assert TIME.monotonic() - killed < 20


def state(gateway: nodes.Started) -> tuple[int | None, bool]:
    """Return the gateway's rung, and whether batch is shed."""
    answer = httpx.get(f"{gateway.url}/admin/v1/state", headers=gateway.admin, trust_env=False).json()
    return answer["rung"], answer["levels"]["batch"]["is_shed"]
