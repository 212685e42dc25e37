"""A stage for growing and shrinking: a local fleet of cheap processes, its gateway, and the action `scale`.

`paced` defines nodes that are real but for their model; `opened` builds clients and action over any fleet. `main` is a
process of its own that scales through the action, to be killed in the middle of it.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actions import api, clients
from actions.local import fleet, scale
from actions.node import client, data, directory
from controlplane import clock
from controlplane.demo import processes
from controlplane.domain import outcomes
from tests.support import action_house, fake_node, local_fleets, nodes

ROOT = Path(__file__).parents[2]
TARGETS_FILE = "targets.json"


@dataclass
class Scaling:
    """The action on service `chat`, and what it works on."""

    local: fleet.LocalFleet
    targets: clients.Clients
    action: scale.Scale
    clock: clock.SystemClock

    def context(self, *, key: str = "run_1:scale", attempt: int = 1, seconds: float = 60.0) -> api.ActionContext:
        return api.ActionContext(key.partition(":")[0], "scale", attempt, key, 1, seconds, api.Scope("chat"))

    async def apply(
        self,
        replicas: int,
        *,
        key: str = "run_1:scale",
        attempt: int = 1,
        seconds: float = 60.0,
        **params: outcomes.Json,
    ) -> api.ActionResult:
        """Scale in one try of a step."""
        context = self.context(key=key, attempt=attempt, seconds=seconds)
        return await self.action.apply({"replicas": replicas, **params}, context)

    def running(self) -> list[str]:
        """The names of the nodes whose processes run."""
        return sorted(one.name for one in self.local.members() if one.is_running)


def paced(folder: Path, names: Sequence[str], *, pace: float = 0.02) -> Mapping[str, str]:
    """Write a local fleet of paced nodes, and return their URLs."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = dict(zip(names, processes.free_ports(len(names)), strict=True))
    defined = {
        name: {
            "argv": [
                sys.executable,
                *("-m", "tests.support.paced_process", "--folder", str(folder)),
                *("--name", name, "--port", str(port), "--pace", str(pace)),
            ],
            "url": f"http://127.0.0.1:{port}",
            "environment": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        }
        for name, port in ports.items()
    }
    local_fleets.define(folder, defined, stop_seconds=5.0, targets_file=TARGETS_FILE)
    return {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}


@contextlib.asynccontextmanager
async def opened(folder: Path, gateway_url: str | None, *, token: str = nodes.ADMIN_TOKEN) -> AsyncGenerator[Scaling]:
    """Build the clients and the action over the fleet that stands in `folder`."""
    time = clock.SystemClock()
    local = fleet.LocalFleet("chat", folder, time)
    gateways = {} if gateway_url is None else {"chat": gateway_url}
    where = directory.StaticDirectory({"chat": {name: local.url(name) for name in local.names()}}, gateways)
    node_data = data.NodeData("", tls=action_house.TLS)
    async with client.AdminClient(token=token, token_setting="TOKEN", tls=action_house.TLS) as http:
        targets = action_house.connect(http, where, node_data, time, {"chat": local})
        yield Scaling(local, targets, scale.Scale(targets), time)
    await node_data.aclose()


@dataclass
class Sleepers:
    """Nodes whose HTTP is a fake of the test's own process, and whose processes only sleep."""

    nodes: dict[str, fake_node.FakeNode]
    gateway: fake_node.FakeGateway
    scaling: Scaling


@contextlib.asynccontextmanager
async def sleepers(
    folder: Path, names: Sequence[str], *, registered: Sequence[str], has_gateway: bool = True
) -> AsyncGenerator[Sleepers]:
    """Serve the fakes, define the fleet, and start the registered nodes."""
    fakes = {name: fake_node.FakeNode(name) for name in names}
    gateway = fake_node.FakeGateway(*registered)
    async with contextlib.AsyncExitStack() as stack:
        for one in (*fakes.values(), gateway):
            await stack.enter_async_context(one.running())
        defined = {name: {"argv": list(local_fleets.SLEEPER), "url": one.url} for name, one in fakes.items()}
        local = local_fleets.define(folder, defined, stop_seconds=5.0, targets_file=TARGETS_FILE)
        for name in registered:
            await local.start(name)
        url = gateway.url if has_gateway else None
        scaling = await stack.enter_async_context(opened(folder, url, token=fake_node.TOKEN))
        yield Sleepers(fakes, gateway, scaling)


async def _scale(folder: Path, gateway_url: str, replicas: int) -> None:
    async with opened(folder, gateway_url) as scaling:
        await scaling.apply(replicas, max_starting=1)


def main(folder: Path, gateway_url: str, replicas: int) -> None:
    """Be the process: scale once, one node after the other."""
    asyncio.run(_scale(folder, gateway_url, replicas))
