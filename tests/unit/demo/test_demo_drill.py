"""The hands of a story on the local fleet: what is asked of whom, and how the state of the fleet is read."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from actions.local import definitions
from actions.local import fleet as local
from controlplane import clock as clocks
from controlplane.demo import configuration, drill
from controlplane.domain import errors
from controlplane.scenarios import judging, stories
from tests.support.clock import FakeClock

Call = tuple[str, str, str, Any]


class Fleet:
    """Two nodes and a gateway, as answers of their admin APIs."""

    def __init__(self, folder: Path) -> None:
        self.files = configuration.Files.open(folder, configuration.Size(2, 1))
        self.at = self.files.addresses
        self.calls: list[Call] = []
        self.away: set[str] = set()
        self.status = 200
        self.nodes = {name: {"degradation": {"level": 0}, "is_draining": False} for name in self.files.started}
        self.members: dict[str, dict[str, Any]] = {
            name: {"name": name, "state": "in_service", "weight": 1.0} for name in self.files.started
        }
        self.shed: set[str] = set()
        self.rung: int | None = None

    def answer(self, request: httpx.Request) -> httpx.Response:
        names = {url: name for name, url in {**self.at.nodes, "gateway": self.at.gateway}.items()}
        name = names[f"http://{request.url.netloc.decode()}"]
        if name in self.away:
            raise httpx.ConnectError("connection refused")
        body = json.loads(request.content) if request.content else None
        self.calls.append((name, request.method, request.url.path, body))
        return httpx.Response(self.status, json=self._gateway() if name == "gateway" else self.nodes[name])

    def _gateway(self) -> dict[str, Any]:
        levels = {level: {"is_shed": level in self.shed} for level in ("premium", "standard", "batch")}
        return {"levels": levels, "nodes": list(self.members.values()), "rung": self.rung}

    def drill(self, clock: FakeClock) -> drill.Drill:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        return drill.Drill(http, self.files, clock)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


async def test_a_fault_is_switched_on_with_its_parameters_and_an_end(fleet: Fleet, clock: FakeClock):
    """Should the demo be killed, the node forgets the fault by itself."""
    await fleet.drill(clock).inject("node-2", "slow_decode", {"factor": 10}, 90.4)
    assert fleet.calls == [("node-2", "PUT", "/admin/v1/faults/slow_decode", {"factor": 10, "ttl_seconds": 90})]


async def test_withdrawing_a_poison_removes_the_wrong_answers_too(fleet: Fleet, clock: FakeClock):
    """They outlive the fault, and the next story has to start clean."""
    await fleet.drill(clock).withdraw("node-1", "poison_cache")
    assert [call[1:3] for call in fleet.calls] == [
        ("DELETE", "/admin/v1/faults/poison_cache"),
        ("POST", "/admin/v1/cache/flush"),
    ]


async def test_withdrawing_waits_for_a_node_that_is_being_restarted(fleet: Fleet, clock: FakeClock):
    """A story may end while its node is on the way back."""
    fleet.away = {"node-1"}
    withdrawing = asyncio.ensure_future(fleet.drill(clock).withdraw("node-1", "wedge"))
    await pass_time(clock, 10)
    assert not withdrawing.done()
    fleet.away.clear()
    await pass_time(clock, 5)
    await withdrawing
    assert [call[:2] for call in fleet.calls] == [("node-1", "DELETE")]


async def test_withdrawing_from_a_node_that_stays_away_is_given_up(fleet: Fleet, clock: FakeClock):
    """The wait is bounded, and says whom it was for."""
    fleet.away = {"node-1"}
    withdrawing = asyncio.ensure_future(fleet.drill(clock).withdraw("node-1", "wedge"))
    await pass_time(clock, 70)
    with pytest.raises(errors.RetryLaterError, match="node-1 does not answer DELETE /faults/wedge"):
        await withdrawing


async def test_a_spare_that_nobody_started_is_not_missed(fleet: Fleet, clock: FakeClock):
    """It is asked once its gateway knows it; until then it is no part of the fleet."""
    seen = await fleet.drill(clock).look()
    assert (seen.in_service, seen.complaints()) == (2, ())
    assert not [call for call in fleet.calls if call[0] == "node-3"]
    fleet.members["node-3"] = {"name": "node-3", "state": "in_service", "weight": 1.0}
    fleet.nodes["node-3"] = {"degradation": {"level": 0}, "is_draining": False}
    assert (await fleet.drill(clock).look()).in_service == 3


@pytest.mark.parametrize(("num_spare", "names"), [(0, ["node-1", "node-2"]), (1, ["node-1", "node-2", "node-3"])])
async def test_a_story_is_offered_its_spares_and_no_others(
    fleet: Fleet, clock: FakeClock, num_spare: int, names: list[str]
):
    """What is not in fleet.yaml cannot be started: one story's spare is not another's."""
    await fleet.drill(clock).prepare(stories.FleetNeeds(nodes=2, spare=num_spare))
    local = definitions.read(fleet.files.folder)
    assert list(local.nodes) == names
    assert [local.nodes[name].pool for name in names] == ["hot", "hot", "cold"][: len(names)]


async def test_a_node_that_died_of_its_leak_is_started_again(fleet: Fleet, clock: FakeClock):
    """In observe mode nobody else does, and the next story needs it."""
    configuration.write_fleet(fleet.files, 0)
    path = fleet.files.folder / definitions.FILE
    path.write_text(re.sub(r"argv:.*?url", "argv: [sleep, '60']\n    url", path.read_text(), flags=re.DOTALL))
    await fleet.drill(clock).withdraw("node-2", "leak")
    nodes = local.LocalFleet("chat", fleet.files.folder, clocks.SystemClock())
    assert (nodes.status("node-1").is_running, nodes.status("node-2").is_running) == (False, True)
    assert [call[:2] for call in fleet.calls] == [("node-2", "DELETE")]
    await nodes.stop("node-2")


async def test_a_refusal_is_final(fleet: Fleet, clock: FakeClock):
    """A node without faults_enabled will not change its mind."""
    fleet.status = 403
    with pytest.raises(errors.GiveUpError, match="node-1 refused PUT /faults/wedge with 403"):
        await fleet.drill(clock).inject("node-1", "wedge", {}, 60)


async def test_a_fleet_in_full_service_is_whole(fleet: Fleet, clock: FakeClock):
    """Nothing shed, ejected, draining, degraded or at a lower share."""
    assert await fleet.drill(clock).look() == judging.SeenFleet(in_service=2)


async def test_the_rung_is_read_from_the_gateway(fleet: Fleet, clock: FakeClock):
    """Where the service stands on the ladder is what the story of an overload waits for."""
    fleet.rung = 3
    assert (await fleet.drill(clock).look()).rung == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda fleet: fleet.shed.add("batch"), "level batch is shed"),
        (lambda fleet: fleet.members["node-1"].update(state="ejected"), "node-1 is ejected"),
        (lambda fleet: fleet.members["node-2"].update(weight=0.25), "node-2 has a share of 0.25"),
        (lambda fleet: fleet.nodes["node-1"].update(degradation={"level": 2}), "node-1 is degraded to rung 2"),
        (lambda fleet: fleet.nodes["node-2"].update(is_draining=True), "node-2 is draining"),
        (lambda fleet: fleet.away.add("node-2"), "node-2 does not answer"),
        (lambda fleet: fleet.away.add("gateway"), "the gateway does not answer"),
    ],
)
async def test_what_is_not_in_full_service_is_named(
    fleet: Fleet, clock: FakeClock, change: Callable[[Fleet], None], said: str
):
    """A story waits for this to be gone, so each reason has words."""
    change(fleet)
    assert (await fleet.drill(clock).look()).complaints() == (said,)


async def pass_time(clock: FakeClock, seconds: int) -> None:
    """Let the fake clock go on, second by second."""
    for _ in range(seconds):
        for _ in range(10):
            await clock.sleep(0)
        clock.move(1)
