"""The `Actuator` port over the local fleets: how many nodes a service has, and how many it could have.

Built by `wiring`; asked by capacity planning at every tick. Reads files only: whether a node answers is not its question.
Concurrency: async; safe to share.
"""

from collections.abc import Mapping

from actions.local import fleet
from controlplane.domain import capacity, errors


class LocalActuator:
    """Knows the nodes that are processes of this machine, by service."""

    def __init__(self, fleets: Mapping[str, fleet.LocalFleet]) -> None:
        self._fleets = fleets

    async def standing(self, service: str) -> Mapping[str, capacity.PoolStanding]:
        """Return the service's pools by name: the nodes that were started and not stopped on purpose, and all defined ones.

        Raises NotFoundError where it starts nothing for the service, InvalidInputError for a file that cannot be read.
        """
        local = self._fleets.get(service)
        if local is None:
            raise errors.NotFoundError(
                f"dsctl does not start the nodes of {service}; set local_fleets.{service}.folder where it should"
            )
        members = local.members()
        return {
            pool: capacity.PoolStanding(
                pool=pool,
                nodes=tuple(one.name for one in members if one.pool == pool and one.is_started),
                placeable=sum(one.pool == pool for one in members),
            )
            for pool in dict.fromkeys(one.pool for one in members)
        }
