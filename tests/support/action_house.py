"""A pair of fake nodes and their gateway, and the real clients pointed at them."""

import contextlib
import ssl
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from actions import api, clients, registry
from actions.local import fleet
from actions.node import admin, client, data, directory
from actions.traffic import admin as gateway_admin
from controlplane.domain import ports
from tests.support.clock import FakeClock
from tests.support.fake_node import TOKEN, FakeGateway, FakeNode

# Believes nobody, and costs nothing to make: the fakes speak plain HTTP.
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass
class House:
    """Two nodes of service `chat`, their gateway, and the actions on them."""

    n1: FakeNode
    n2: FakeNode
    gateway: FakeGateway
    clock: FakeClock
    targets: clients.Clients
    actions: registry.Registry

    def context(self, node: str = "n1", *, key: str = "run_1:step", timeout: float = 5.0) -> api.ActionContext:
        return api.ActionContext("run_1", "step", 1, key, 1, timeout, api.Scope("chat", node))


def connect(
    http: client.AdminClient,
    where: directory.NodeDirectory,
    nodes: data.NodeData,
    clock: ports.Clock,
    fleets: Mapping[str, fleet.LocalFleet] | None = None,
) -> clients.Clients:
    """The clients of service `chat`, whose gateway has the nodes' token."""
    gateways = gateway_admin.GatewayAdmin({"chat": http}, where)
    return clients.Clients(where, admin.NodeAdmin(http, where), gateways, nodes, clock, fleets or {})


@contextlib.asynccontextmanager
async def running(clock: FakeClock) -> AsyncGenerator[House]:
    """Serve until the block ends."""
    n1, n2 = FakeNode("n1", entries=812, clock=clock), FakeNode("n2", entries=40, clock=clock)
    gateway = FakeGateway("n1", "n2", clock=clock)
    async with (
        n1.running(),
        n2.running(),
        gateway.running(),
        client.AdminClient(token=TOKEN, token_setting="NODE_TOKEN", tls=TLS) as http,
        contextlib.AsyncExitStack() as stack,
    ):
        where = directory.StaticDirectory({"chat": {"n1": n1.url, "n2": n2.url}}, {"chat": gateway.url})
        nodes = data.NodeData("", tls=TLS)
        stack.push_async_callback(nodes.aclose)
        targets = connect(http, where, nodes, clock)
        yield House(n1, n2, gateway, clock, targets, registry.build(targets, offered=()))
