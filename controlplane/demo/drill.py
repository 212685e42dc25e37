"""Where stories put their hands on the local fleet: faults go in and out through the admin APIs, and its state is read.

Called by the runner of scenarios, through its port `Fleet`. Starts and stops nothing. Async; one HTTP client, closed by
whoever opened it; every call has a timeout.
"""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast

import httpx

from actions.local import fleet as local
from controlplane.demo import configuration, constants
from controlplane.domain import errors, outcomes, ports
from controlplane.scenarios import judging, stories

_TIMEOUT_SECONDS = 10.0
_LOOK_TIMEOUT_SECONDS = 2.0
# A node that is being restarted answers again within this time on a machine with two busy cores.
_AWAY_SECONDS = 60.0
_AWAY_PAUSE_SECONDS = 1.0
_POISON, _LEAK = "poison_cache", "leak"
_IN_SERVICE = "in_service"


class Drill:
    """The runner's hands and eyes on the local fleet."""

    def __init__(self, http: httpx.AsyncClient, files: configuration.Files, clock: ports.Clock) -> None:
        self._http = http
        self._files = files
        self._addresses = files.addresses
        self._clock = clock
        self._nodes = local.LocalFleet(constants.SERVICE, files.folder, clock)

    async def prepare(self, needs: stories.FleetNeeds) -> None:
        """Offer a story's spares in fleet.yaml, which is read anew for each operation."""
        configuration.write_fleet(self._files, needs.spare)

    async def inject(self, node: str, fault: str, params: dict[str, outcomes.Json], ttl_seconds: float) -> None:
        """Switch a fault on at a node; raises GiveUpError when it refuses, RetryLaterError when it does not answer."""
        await self._call(node, "PUT", f"/faults/{fault}", {**params, "ttl_seconds": round(ttl_seconds)})

    async def withdraw(self, node: str, fault: str) -> None:
        """Switch a fault off and remove what it left behind; waits for a node that is being restarted.

        Raises as `inject` does.
        """
        give_up = self._clock.monotonic() + _AWAY_SECONDS
        while True:
            try:
                await self._heal(node, fault)
            except errors.RetryLaterError:
                if self._clock.monotonic() >= give_up:
                    raise
                await self._clock.sleep(_AWAY_PAUSE_SECONDS)
            else:
                return

    async def _heal(self, node: str, fault: str) -> None:
        if fault == _LEAK:  # one that nobody restarted has died of it
            await self._nodes.start(node)
        await self._call(node, "DELETE", f"/faults/{fault}", None)
        if fault == _POISON:  # wrong answers outlive the fault, for that is what makes it trouble
            await self._call(node, "POST", "/cache/flush", {"tier": "all"})

    async def look(self) -> judging.SeenFleet:
        """Return the rung of the ladder, and what is not in full service."""
        gateway = await self._state("the gateway", self._addresses.gateway)
        if isinstance(gateway, str):
            return judging.SeenFleet(limited=(gateway,))
        limited = [f"level {level} is shed" for level, state in gateway["levels"].items() if state["is_shed"]]
        limited += [text for node in gateway["nodes"] for text in _member(node)]
        members = {node["name"]: node["state"] for node in gateway["nodes"]}
        for name, url in self._addresses.nodes.items():
            if name in members or name in self._files.started:
                limited += _node(name, await self._state(name, url))
        in_service = sum(state == _IN_SERVICE for state in members.values())
        return judging.SeenFleet(gateway["rung"] or 0, tuple(limited), in_service)

    async def _state(self, name: str, url: str) -> Mapping[str, Any] | str:
        """Return what `/admin/v1/state` says, or why it says nothing."""
        try:
            answer = await self._http.get(f"{url}/admin/v1/state", timeout=_LOOK_TIMEOUT_SECONDS)
        except httpx.TransportError:
            return f"{name} does not answer"
        return cast("Mapping[str, Any]", answer.json()) if answer.is_success else f"{name} answers {answer.status_code}"

    async def _call(self, node: str, method: str, path: str, body: Mapping[str, outcomes.Json] | None) -> None:
        url = f"{self._addresses.nodes[node]}/admin/v1{path}"
        try:
            answer = await self._http.request(method, url, json=body)
        except httpx.TransportError as error:
            raise errors.RetryLaterError(f"{node} does not answer {method} {path}: {error!r}") from error
        if not answer.is_success:
            raise errors.GiveUpError(f"{node} refused {method} {path} with {answer.status_code}: {answer.text[:200]}")


@contextlib.asynccontextmanager
async def open_drill(files: configuration.Files, clock: ports.Clock) -> AsyncGenerator[Drill]:
    """Yield the drill of a demo's fleet, with the token for its admin APIs."""
    headers = {"Authorization": f"Bearer {files.admin_token}"}
    async with httpx.AsyncClient(headers=headers, timeout=_TIMEOUT_SECONDS, trust_env=False) as http:
        yield Drill(http, files, clock)


def _member(node: Mapping[str, Any]) -> list[str]:
    """Return what keeps a node of the gateway from its full share."""
    if node["state"] != _IN_SERVICE:
        return [f"{node['name']} is {node['state']}"]
    return [f"{node['name']} has a share of {node['weight']:g}"] if node["weight"] < 1 else []


def _node(name: str, state: Mapping[str, Any] | str) -> list[str]:
    """Return what a node itself holds back."""
    if isinstance(state, str):
        return [state]
    rung, is_draining = state["degradation"]["level"], state["is_draining"]
    return [f"{name} is degraded to rung {rung}"] * (rung > 0) + [f"{name} is draining"] * is_draining
