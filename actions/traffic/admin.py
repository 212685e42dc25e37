"""The admin API of a gateway, typed. Called by the actions on traffic. Concurrency: async, stateless."""

from collections.abc import Mapping, Sequence

import pydantic

from actions.node import admin, client, directory
from controlplane.domain import errors, outcomes

NODES = "/admin/v1/nodes"
LEVELS = "/admin/v1/levels"


class GatewayNode(pydantic.BaseModel):
    """A node as its gateway sees it."""

    model_config = pydantic.ConfigDict(extra="ignore", strict=True, frozen=True)

    name: str
    state: str
    weight: float
    outstanding: int
    slow_start_ratio: float = 1.0
    eject_expires_in_seconds: float | None = None
    eject_reason: str = ""


class _GatewayNodes(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore", strict=True, frozen=True)

    nodes: list[GatewayNode]


class GatewayNodeSet(pydantic.BaseModel):
    """The answer to a change of one node at the gateway."""

    model_config = pydantic.ConfigDict(extra="ignore", strict=True, frozen=True)

    node: GatewayNode
    boot_id: str


class GatewayNodeRemoved(pydantic.BaseModel):
    """The answer to a removal; the node is gone once nothing is outstanding."""

    model_config = pydantic.ConfigDict(extra="ignore", strict=True, frozen=True)

    is_removed: bool
    outstanding: int


class LevelState(pydantic.BaseModel):
    """Whether a gateway refuses a level."""

    model_config = pydantic.ConfigDict(extra="ignore", strict=True, frozen=True)

    is_shed: bool


class Levels(pydantic.BaseModel):
    """What a gateway's state says about service levels; `rung` is None where no ladder has set them."""

    model_config = pydantic.ConfigDict(extra="ignore", strict=True, frozen=True)

    levels: dict[str, LevelState]
    rung: int | None
    leases: list[admin.Lease]

    @property
    def expires_in_seconds(self) -> float | None:
        """When the change of levels ends by itself; None where there is none."""
        return next((lease.expires_in_seconds for lease in self.leases if lease.kind == "levels"), None)

    @property
    def is_foreign(self) -> bool:
        """True when somebody changed levels without the ladder."""
        return self.rung is None and self.expires_in_seconds is not None

    def shed(self) -> tuple[str, ...]:
        """Return the names of the levels that are refused."""
        return tuple(sorted(name for name, level in self.levels.items() if level.is_shed))


class GatewayAdmin:
    """Calls the gateway of a service; `http` holds a client per service, since each gateway has its own token."""

    def __init__(self, http: Mapping[str, client.AdminClient], where: directory.NodeDirectory) -> None:
        self._http = http
        self._where = where

    def _reach(self, service: str) -> tuple[client.AdminClient, str]:
        """Return the client and the URL of a service's gateway; raises NotFoundError."""
        url = self._where.gateway_url(service)
        http = self._http.get(service)
        if http is None:
            raise errors.NotFoundError(f"no admin token is configured for {_name(service)}; add it to the settings")
        return http, url

    async def nodes(self, service: str) -> Sequence[GatewayNode]:
        """Return the registered nodes."""
        target = _name(service)
        http, url = self._reach(service)
        answer = await http.read(url, NODES, target=target)
        return admin.read_as(_GatewayNodes, answer, target).nodes

    async def node(self, service: str, name: str) -> GatewayNode:
        """Return one registered node; raises NotFoundError."""
        for found in await self.nodes(service):
            if found.name == name:
                return found
        raise errors.NotFoundError(f"{_name(service)} has no node {name!r}; register it first")

    async def operation(self, service: str, key: str) -> admin.Operation | None:
        """Return what the gateway remembers under a key, None when it remembers nothing."""
        http, url = self._reach(service)
        return await admin.operation(http, url, key, target=_name(service))

    async def register(
        self, service: str, name: str, node_url: str, *, key: str, timeout_seconds: float
    ) -> GatewayNodeSet:
        """PUT `/admin/v1/nodes/{name}`: a node the gateway does not know joins; an ejected one stays ejected."""
        target = _name(service)
        http, url = self._reach(service)
        answer = await http.change(
            "PUT",
            url,
            f"{NODES}/{client.segment(name)}",
            target=target,
            body={"url": node_url},
            key=key,
            timeout_seconds=timeout_seconds,
        )
        return admin.changed_as(GatewayNodeSet, answer, target)

    async def remove(self, service: str, name: str, *, key: str, timeout_seconds: float) -> GatewayNodeRemoved:
        """DELETE `/admin/v1/nodes/{name}`: nothing more is sent to it; raises NotFoundError when it is gone already."""
        target = _name(service)
        http, url = self._reach(service)
        answer = await http.change(
            "DELETE",
            url,
            f"{NODES}/{client.segment(name)}",
            target=target,
            body=None,
            key=key,
            timeout_seconds=timeout_seconds,
        )
        return admin.changed_as(GatewayNodeRemoved, answer, target)

    async def levels(self, service: str) -> Levels:
        """Return which levels the gateway refuses, and on which rung that is."""
        target = _name(service)
        http, url = self._reach(service)
        return admin.read_as(Levels, await http.read(url, admin.STATE, target=target), target)

    async def set_levels(
        self, service: str, *, body: Mapping[str, outcomes.Json], key: str, timeout_seconds: float
    ) -> None:
        """PUT `/admin/v1/levels`."""
        http, url = self._reach(service)
        await http.change(
            "PUT", url, LEVELS, target=_name(service), body=body, key=key, timeout_seconds=timeout_seconds
        )

    async def end_levels(self, service: str, *, key: str, timeout_seconds: float) -> None:
        """DELETE `/admin/v1/levels`."""
        http, url = self._reach(service)
        await http.change(
            "DELETE", url, LEVELS, target=_name(service), body=None, key=key, timeout_seconds=timeout_seconds
        )

    async def change_node(
        self,
        service: str,
        name: str,
        verb: str,
        *,
        body: Mapping[str, outcomes.Json] | None,
        key: str,
        timeout_seconds: float,
    ) -> GatewayNodeSet:
        """POST `/admin/v1/nodes/{name}/{verb}`."""
        target = _name(service)
        http, url = self._reach(service)
        answer = await http.change(
            "POST",
            url,
            f"{NODES}/{client.segment(name)}/{verb}",
            target=target,
            body=body,
            key=key,
            timeout_seconds=timeout_seconds,
        )
        return admin.changed_as(GatewayNodeSet, answer, target)


def _name(service: str) -> str:
    return f"the gateway of {service}"
