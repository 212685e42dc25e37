"""Where nodes are added and from where they are taken: hot pools are filled before cold ones, the last is emptied first.

Called by the planner. Growing and shrinking start from what is started: nodes are never moved between pools for the sake
of the order. Pure functions over values.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.capacity import supply


@dataclass(frozen=True, slots=True)
class Placed:
    """The nodes each pool should have started, by pool, and how many more are needed than could be placed."""

    nodes: Mapping[str, int]
    unmet: int = 0

    @property
    def total(self) -> int:
        """The nodes of all pools."""
        return sum(self.nodes.values())


def grow(there: supply.Supply, wanted: int, floors: Mapping[str, int]) -> Placed:
    """Add nodes until `wanted` are started: minimums first, then nodes meant for a pool, then in the order of filling.

    `floors` are serving nodes by pool. No pool grows past its limit; one that is past it keeps what it has.
    """
    nodes = {one.pool.name: max(one.present, min(one.pool.min, one.limit)) for one in there.pools}
    left = max(0, wanted - sum(nodes.values()))
    meant = {one.pool.name: min(one.limit, floors.get(one.pool.name, 0) + one.lost) for one in there.pools}
    for goals in (meant, {one.pool.name: one.limit for one in there.pools}):
        for name, goal in goals.items():
            added = min(left, max(0, goal - nodes[name]))
            nodes[name] += added
            left -= added
    return Placed(nodes, left)


def shrink(there: supply.Supply, num: int, floors: Mapping[str, int]) -> Placed:
    """Take up to `num` nodes, from the last pools first, and leave each its minimum and what is meant for it."""
    nodes = {one.pool.name: one.present for one in there.pools}
    left = num
    for one in reversed(there.pools):
        least = max(one.pool.min, floors.get(one.pool.name, 0) + one.lost)
        taken = min(left, max(0, one.present - least))
        nodes[one.pool.name] -= taken
        left -= taken
    return Placed(nodes)
