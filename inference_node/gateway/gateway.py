"""The gateway as a whole: its parts, its leases, and the state the admin API shows.

Built by `__main__` and by tests. Imports no torch. Concurrency: one event loop and one named task, for the leases.
"""

import asyncio
from typing import Any

import httpx
import prometheus_client

from inference_node import clock, leases, operations, settings
from inference_node.gateway import admission, fleet, metrics

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
        self.fleet = fleet.Fleet(time, chosen.slow_start_seconds)
        self.admission = admission.Admission(
            chosen,
            book=self.leases,
            counted=self.metrics,
            clock=time,
            num_in_service=lambda: sum(each.is_choosable for each in self.fleet.members()),
        )
        self._lease_task: asyncio.Task[None] | None = None
        self._seen_nodes: set[str] = set()
        for each in chosen.nodes:
            self.fleet.configure(each.name, each.url, each.weight)
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

    @property
    def outstanding(self) -> int:
        """Requests inside, waiting and at nodes."""
        return self.admission.places.total

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
                restore=lambda: self.fleet.enter(member),
            )
        return member

    def return_node(self, name: str) -> fleet.Member:
        """Send an ejected node requests again, slowly at first."""
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

    def describe_node(self, member: fleet.Member) -> dict[str, Any]:
        """Return a node as the admin API shows it."""
        shown: dict[str, Any] = {
            "name": member.name,
            "url": member.url,
            "state": member.state,
            "weight": member.weight,
            "outstanding": member.outstanding,
            "slow_start_ratio": self.fleet.slow_start_ratio(member),
        }
        if member.state is fleet.State.EJECTED:
            shown["eject_expires_in_seconds"] = self.leases.expires_in(f"eject:{member.name}") or 0.0
            shown["eject_reason"] = member.eject_reason
        return shown

    def describe_nodes(self) -> list[dict[str, Any]]:
        """Return all nodes as the admin API shows them."""
        return [self.describe_node(member) for member in self.fleet.members()]

    def state(self) -> dict[str, Any]:
        """Return everything an operator may want to know."""
        return {
            "boot_id": self.operations.boot_id,
            "service": self.settings.service,
            "outstanding": self.outstanding,
            "max_outstanding": self.settings.max_outstanding,
            "max_at_nodes": self.admission.max_at_nodes(),
            "levels": self.admission.describe(),
            "rung": self.admission.degraded.rung,
            "queues": self.admission.describe_queues(),
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
            self.metrics.slow_start.remove(gone)
        self._seen_nodes = names
        for member in members:
            self.metrics.outstanding.labels(member.name).set(member.outstanding)
            self.metrics.in_service.labels(member.name).set(member.is_choosable)
            self.metrics.slow_start.labels(member.name).set(self.fleet.slow_start_ratio(member))
        self.admission.read_gauges()
        return prometheus_client.generate_latest(self.registry)
