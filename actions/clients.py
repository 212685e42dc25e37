"""What `wiring` hands to every action, third parties' included. A value; safe to share."""

from dataclasses import dataclass

from actions.node import admin as node_admin
from actions.node import directory
from actions.traffic import admin as gateway_admin


@dataclass(frozen=True, slots=True)
class Clients:
    """Typed clients of the targets, and the directory that knows their names."""

    where: directory.NodeDirectory
    nodes: node_admin.NodeAdmin
    gateways: gateway_admin.GatewayAdmin
