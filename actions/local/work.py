"""What the parts of one try of `scale` share: whom they may call, on which fleet, and under which keys. A value."""

from collections.abc import Mapping
from dataclasses import dataclass

from actions import api, clients
from actions.local import fleet
from actions.node import keys
from actions.traffic import admin
from controlplane.domain import errors

# Of small calls to gateways and nodes.
CALL_SECONDS = 5.0
# For a last look at a node that hangs, and some small calls.
_CLOSING_SECONDS = 10.0
IN_SERVICE = "in_service"
EJECTED = "ejected"

Rotation = Mapping[str, admin.GatewayNode]


@dataclass(frozen=True, slots=True)
class Work:
    """One try of one step on one local fleet, begun at `began` (monotonic seconds)."""

    targets: clients.Clients
    local: fleet.LocalFleet
    context: api.ActionContext
    began: float

    @property
    def service(self) -> str:
        """The service whose fleet it is."""
        return self.context.scope.service

    @property
    def start_key(self) -> str:
        """What stands in the record of each process that any try of this step has started."""
        return keys.derive(self.context.idempotency_key, "start")

    @property
    def stop_key(self) -> str:
        """What stands in the record of each node that any try of this step has stopped."""
        return keys.derive(self.context.idempotency_key, "stop")

    @property
    def patient_until(self) -> float:
        """Until when nodes may be waited for: just the time is left then to stop some and to say so."""
        whole = self.context.timeout_seconds
        return self.began + max(whole / 2, whole - self.local.stop_seconds - _CLOSING_SECONDS)

    def key(self, call: str) -> str:
        """Return the key of one call of this try.

        Not of the step: a node that was put back in one try has to be taken out again in the next, and a gateway that
        remembers the first call would only repeat its answer. What is called is absolute, so twice does no harm.
        """
        return keys.derive(self.context.idempotency_key, f"{self.context.attempt}:{call}")


async def rotation(targets: clients.Clients, service: str) -> Rotation | None:
    """Return the nodes that the service's gateway knows, None where no gateway is configured."""
    try:
        return {one.name: one for one in await targets.gateways.nodes(service)}
    except errors.NotFoundError:
        return None
