"""What `wiring` hands to every action, third parties' included. A value; safe to share."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from actions.local import fleet
from actions.node import admin as node_admin
from actions.node import data as node_data
from actions.node import directory
from actions.traffic import admin as gateway_admin
from controlplane.domain import ports


@dataclass(frozen=True, slots=True)
class Clients:
    """Typed clients of the targets, the directory that knows their names, and the time.

    `fleets` are the services whose nodes are processes of this machine.
    """

    where: directory.NodeDirectory
    nodes: node_admin.NodeAdmin
    gateways: gateway_admin.GatewayAdmin
    data: node_data.NodeData
    clock: ports.Clock
    fleets: Mapping[str, fleet.LocalFleet] = field(default_factory=dict[str, fleet.LocalFleet])
