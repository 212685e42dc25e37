"""The gateway as a whole: its parts, its leases, and the state the admin API shows.

Built by `__main__` and by tests. Imports no torch. Concurrency: one event loop and one named task, for the leases.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import prometheus_client

from inference_node import clock, leases, levels, operations, settings
from inference_node.gateway import fleet, metrics

MAX_IDLE_CONNECTIONS = 100
IDLE_CONNECTION_SECONDS = 10
"""Shorter than the 30 s after which a node closes an idle connection, so that no request meets a closing one."""


class Gateway:
    """One gateway."""

    def __init__(
        self, chosen: settings.GatewaySettings, *, time: clock.Clock, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.settings = chosen
        self.clock = time
        self.operations = operations.Operations(time)
        self.registry = prometheus_client.CollectorRegistry()
        self.metrics = metrics.GatewayMetrics(self.registry)
        prometheus_client.ProcessCollector(registry=self.registry)
        self.leases = leases.LeaseBook(time)
        self.fleet = fleet.Fleet()
        self.shed: set[levels.Level] = set()
        self.outstanding = 0
        self._lease_task: asyncio.Task[None] | None = None
        self._seen_nodes: set[str] = set()
        for each in chosen.nodes:
            self.fleet.register(each.name, each.url, each.weight)
        self.client = httpx.AsyncClient(
            timeout=httpx.Timeout(chosen.read_timeout_seconds, connect=chosen.connect_timeout_seconds),
            limits=httpx.Limits(
                max_connections=chosen.max_outstanding,
                max_keepalive_connections=MAX_IDLE_CONNECTIONS,
                keepalive_expiry=IDLE_CONNECTION_SECONDS,
            ),
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    def start(self) -> None:
        """Begin to end leases on time."""
        self._lease_task = asyncio.create_task(self.leases.run(), name="leases")

    async def stop(self) -> None:
        """End the task and close the connections to the nodes."""
        if self._lease_task is not None:
            self._lease_task.cancel()
            await asyncio.gather(self._lease_task, return_exceptions=True)
        await self.client.aclose()

    def eject(self, name: str, reason: str, ttl_seconds: float) -> fleet.Member:
        """Send a node nothing new until the lease ends; a draining node goes on draining."""
        member = self.fleet.find(name)
        if member.state is not fleet.State.DRAINING:
            member.state = fleet.State.EJECTED
            member.eject_reason = reason
            self.leases.hold(
                f"eject:{name}",
                ttl_seconds=ttl_seconds,
                previous=str(fleet.State.IN_SERVICE),
                restore=_returned(member),
            )
        return member

    def return_node(self, name: str) -> fleet.Member:
        """Send an ejected node requests again."""
        member = self.fleet.find(name)
        self.leases.release(f"eject:{name}")
        return member

    def remove(self, name: str) -> fleet.Member:
        """Drain a node and forget it, with its leases."""
        member = self.fleet.remove(name)
        self.leases.forget(f"eject:{name}")
        self.leases.forget(f"weight:{name}")
        member.eject_reason = ""
        return member

    def weigh(self, name: str, weight: float, ttl_seconds: float | None) -> fleet.Member:
        """Change a node's share, for a time or until restart."""
        member = self.fleet.find(name)
        before, kind = member.weight, f"weight:{name}"
        member.weight = weight
        if ttl_seconds is None:
            self.leases.forget(kind)
        else:
            self.leases.hold(
                kind, ttl_seconds=ttl_seconds, previous=before, restore=lambda: setattr(member, "weight", before)
            )
        return member

    def set_levels(self, is_shed: Mapping[levels.Level, bool], ttl_seconds: float) -> None:
        """Shed or admit the given levels for a time; afterwards the state before the first change returns."""
        before = frozenset(self.shed)
        for level, shed in is_shed.items():
            (self.shed.add if shed else self.shed.discard)(level)
        self.leases.hold(
            "levels",
            ttl_seconds=ttl_seconds,
            previous={str(level): {"is_shed": level in before} for level in levels.Level},
            restore=lambda: self._restore_levels(before),
        )

    def describe_node(self, member: fleet.Member) -> dict[str, Any]:
        """Return a node as the admin API shows it."""
        shown: dict[str, Any] = {
            "name": member.name,
            "url": member.url,
            "state": member.state,
            "weight": member.weight,
            "outstanding": member.outstanding,
        }
        if member.state is fleet.State.EJECTED:
            shown["eject_expires_in_seconds"] = self.leases.expires_in(f"eject:{member.name}") or 0.0
            shown["eject_reason"] = member.eject_reason
        return shown

    def describe_nodes(self) -> list[dict[str, Any]]:
        """Return all nodes as the admin API shows them."""
        return [self.describe_node(member) for member in self.fleet.members()]

    def describe_levels(self) -> dict[str, Any]:
        """Return the levels as the admin API shows them."""
        return {str(level): {"is_shed": level in self.shed} for level in levels.Level}

    def state(self) -> dict[str, Any]:
        """Return everything an operator may want to know."""
        return {
            "boot_id": self.operations.boot_id,
            "service": self.settings.service,
            "outstanding": self.outstanding,
            "max_outstanding": self.settings.max_outstanding,
            "levels": self.describe_levels(),
            "nodes": self.describe_nodes(),
            "leases": self.leases.describe(),
        }

    def exposition(self) -> bytes:
        """Return the metrics as Prometheus reads them; a node that was removed is no longer shown."""
        members = self.fleet.members()
        names = {member.name for member in members}
        for gone in self._seen_nodes - names:
            self.metrics.outstanding.remove(gone)
            self.metrics.in_service.remove(gone)
        self._seen_nodes = names
        for member in members:
            self.metrics.outstanding.labels(member.name).set(member.outstanding)
            self.metrics.in_service.labels(member.name).set(member.is_choosable)
        self.metrics.load_ratio.set(self.outstanding / self.settings.max_outstanding)
        return prometheus_client.generate_latest(self.registry)

    def _restore_levels(self, before: frozenset[levels.Level]) -> None:
        self.shed.clear()
        self.shed.update(before)


def _returned(member: fleet.Member) -> Any:
    """Return what puts a member back into service when its ejection ends."""

    def put_back() -> None:
        member.state = fleet.State.IN_SERVICE
        member.eject_reason = ""

    return put_back
