"""A stage for repairing nodes: real processes of a local fleet, a gateway, the shipped runbooks and a real run engine.

`opened` builds it over a folder and a gateway's URL, so that a second process can build the same one after a kill.
`main` is such a process: it drives one eject-and-restart of n1 to its end, or dies at the fail point it was given.
"""

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path

from actions import registry
from actions.local import fleet
from actions.node import client, data, directory
from controlplane import clock
from controlplane.demo import processes
from controlplane.domain import plans, runs, services
from controlplane.runs import config, engine, failpoints, planning
from controlplane.runs.language import checks, library
from controlplane.store import database as db
from controlplane.store import house
from tests.support import action_house, fake_node, local_fleets
from tests.support import runs as support
from tests.support import store as stores

ROOT = Path(__file__).parents[2]
NODES = ("n1", "n2")
DEDUP_KEY = "the one repair"
SIGNALS = ("latency_p99", "server_error_ratio", "cache_wrong_ratio", "queue_depth", "success_ratio")
SETTINGS = config.RunSettings(poll_seconds=0.05, wait_poll_seconds=0.2, retry_seconds=0.2, lease_seconds=6.0)
# A node of these is ready within a second; the machine may be busy with other things.
END_SECONDS = 90.0


class Stage(support.Stage):
    """Answers as a test says; follow-ups are drafted and submitted, as the service does it behind its guard."""

    def __init__(self) -> None:
        super().__init__()
        self.planner: planning.RunbookPlanner | None = None
        self.engine: engine.RunEngine | None = None

    async def follow_up(self, plan: plans.Plan, runbook: str, dedup_key: str) -> str:
        assert self.planner is not None
        assert self.engine is not None
        await super().follow_up(plan, runbook, dedup_key)
        request = dataclasses.replace(plan.request, runbook=runbook, inputs={}, dedup_key=dedup_key, is_follow_up=True)
        return await self.engine.submit(await self.planner.draft(request))


@dataclass
class Repair:
    """Everything a repair needs."""

    local: fleet.LocalFleet
    store: house.House
    stage: Stage
    planner: planning.RunbookPlanner
    engine: engine.RunEngine
    actions: registry.Registry
    http: data.NodeData
    clock: clock.SystemClock

    async def submit(self, runbook: str, **inputs: float) -> str:
        """Draft and submit a run on n1; the same run when it was submitted before."""
        request = plans.PlanRequest(runbook, "chat", "n1", "tester", inputs=inputs, dedup_key=f"{DEDUP_KEY} {runbook}")
        return await self.engine.submit(await self.planner.draft(request))

    async def ended(self, run_id: str, *, within_seconds: float = END_SECONDS) -> runs.Run:
        """Wait until a run is final."""
        deadline = self.clock.monotonic() + within_seconds
        while not (run := await self.store.runs.get(run_id)).state.is_final:
            assert self.clock.monotonic() < deadline, f"{run_id} does not end: {run}"
            await self.clock.sleep(0.05)
        return run

    async def follow_up(self, run_id: str) -> runs.Run:
        """Wait until another run was submitted."""
        while not (others := [one for one in await self.store.runs.find() if one.id != run_id]):
            await self.clock.sleep(0.05)
        return others[0]

    async def answers(self, name: str = "n1") -> data.Answer:
        """Ask a node something."""
        return await self.http.complete(self.local.url(name), "hello", max_tokens=4, within_seconds=5.0)

    async def ready(self, *names: str, within_seconds: float = END_SECONDS) -> None:
        """Start nodes and wait until they answer."""
        for name in names:
            await self.local.start(name)
        deadline = self.clock.monotonic() + within_seconds
        for name in names:
            while not await self.http.is_ready(self.local.url(name)):
                assert self.local.status(name).is_running, self.local.last_words(name)
                assert self.clock.monotonic() < deadline, self.local.last_words(name)
                await self.clock.sleep(0.05)


def define(folder: Path, *flags: str) -> Mapping[str, str]:
    """Write a local fleet of two fake nodes, and return their URLs; `flags` go to each of them."""
    ports = processes.free_ports(len(NODES))
    urls = {name: f"http://127.0.0.1:{port}" for name, port in zip(NODES, ports, strict=True)}
    nodes = {
        name: {
            "argv": [
                sys.executable,
                *("-m", "tests.support.node_process", "--folder", str(folder), "--name", name),
                *("--port", str(port), *flags),
            ],
            "url": urls[name],
            "environment": {"PYTHONPATH": str(ROOT)},
        }
        for name, port in zip(NODES, ports, strict=True)
    }
    local_fleets.define(folder, nodes, stop_seconds=5.0)
    return urls


@contextlib.asynccontextmanager
async def opened(
    folder: Path,
    gateway_url: str,
    *,
    token: str = fake_node.TOKEN,
    api_key: str = "",
    points: failpoints.FailPoints | None = None,
) -> AsyncGenerator[Repair]:
    """Build the stage over the fleet that stands in `folder`, start its engine, and stop it in the end."""
    time = clock.SystemClock()
    local = fleet.LocalFleet("chat", folder, time)
    where = directory.StaticDirectory(
        {"chat": {name: local.url(name) for name in local.names()}}, {"chat": gateway_url}
    )
    node_data = data.NodeData(api_key, tls=action_house.TLS)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(node_data.aclose)
        http = await stack.enter_async_context(
            client.AdminClient(token=token, token_setting="TOKEN", tls=action_house.TLS)
        )
        actions = registry.build(action_house.connect(http, where, node_data, time, {"chat": local}), offered=())
        planner = planning.RunbookPlanner(
            runbooks=library.load(checks.Vocabulary(actions, SIGNALS)),
            actions=actions,
            managed={"chat": services.Service("chat", "dsctl", {})},
            where=where,
            clock=time,
        )
        store = house.open_house(db.DatabaseSettings(stores.sqlite_url(folder)), time)
        stack.callback(store.close)
        stage = Stage()
        driven = support.make_engine(store, time, stage, actions, SETTINGS, points)
        stage.planner, stage.engine = planner, driven
        await driven.start()
        stack.push_async_callback(driven.stop)
        yield Repair(local, store, stage, planner, driven, actions, node_data, time)


async def _drive(folder: Path, gateway_url: str, armed: str) -> None:
    points = failpoints.read_environment({"DSCTL_FAILPOINT": armed})
    async with opened(folder, gateway_url, points=points) as repair:
        await repair.ended(await repair.submit("eject-and-restart", drain_seconds=1))


def main(folder: Path, gateway_url: str, armed: str) -> None:
    """Be the process: submit the repair of n1, or find it again, and drive it to its end."""
    asyncio.run(_drive(folder, gateway_url, armed))
