"""What of a service's nodes counts as capacity: those that serve, and those that are on their way.

Called by the planner. A node that was started and has never served counts as if it did, so that it is not asked for
twice; when it takes too long it is given up. One that served before and is known to be out (down, ejected, drained) is
lost: it keeps its place in the pool and carries nothing. One that nobody can see counts as before: unknown is no reason
to replace it. Pure functions over values; what must be remembered is passed in. Times are monotonic seconds.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from controlplane.domain import capacity, services, windows


class State(StrEnum):
    """What a started node is good for now."""

    READY = "ready"
    STARTING = "starting"
    UNSEEN = "not seen"
    OUT = "out of service"
    GIVEN_UP = "given up"


_LOST = (State.OUT, State.GIVEN_UP)


@dataclass(frozen=True, slots=True)
class Past:
    """What is remembered of a pool's started nodes: which have served, and when the others were first seen.

    Lost with the process: then a node that is out counts as starting until it is given up, which asks for less.
    """

    served: frozenset[str] = frozenset()
    starting: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class PoolSupply:
    """One pool: the state of each started node, how many are in each state, and how many could be placed."""

    pool: services.Pool
    placeable: int
    states: Mapping[str, State]
    counts: Mapping[State, int]

    @property
    def present(self) -> int:
        """Nodes that are started, whatever they are good for."""
        return len(self.states)

    @property
    def limit(self) -> int:
        """The most nodes the pool may have and its actuator can place."""
        return min(self.pool.max, self.placeable)

    @property
    def is_cold(self) -> bool:
        """True for a pool that grows by the requests that wait."""
        return self.pool.queue_depth_per_node is not None

    @property
    def lost(self) -> int:
        """Nodes that keep a place and carry nothing."""
        return sum(self.counts[state] for state in _LOST)

    @property
    def counted(self) -> int:
        """Nodes that count as capacity."""
        return self.present - self.lost

    @property
    def kept(self) -> int:
        """Nodes of the minimum that there are places for."""
        return max(0, min(self.pool.min, self.limit - self.lost))

    @property
    def settled(self) -> int:
        """Nodes that count as capacity and are not still starting."""
        return self.counted - self.counts[State.STARTING]


@dataclass(frozen=True, slots=True)
class Supply:
    """The pools that can be grown, in the order in which they are filled; `outside` nodes serve beside them."""

    pools: tuple[PoolSupply, ...]
    outside: int = 0

    @property
    def present(self) -> int:
        """Nodes that are started in the pools."""
        return sum(one.present for one in self.pools)

    @property
    def lost(self) -> int:
        """Nodes of the pools that keep a place and carry nothing."""
        return sum(one.lost for one in self.pools)

    @property
    def serving(self) -> int:
        """Nodes known to serve, in the pools and beside them."""
        return self.num(State.READY) + self.outside

    @property
    def minimum(self) -> int:
        """Nodes the pools have at least, together."""
        return sum(one.pool.min for one in self.pools)

    def num(self, state: State) -> int:
        """Return how many nodes of the pools are in one state."""
        return sum(one.counts[state] for one in self.pools)

    def named(self, state: State) -> list[str]:
        """Return the nodes of all pools in one state, sorted."""
        return sorted(name for one in self.pools for name, found in one.states.items() if found is state)

    def started_for(self, serving: int) -> int:
        """Return how many nodes the pools must have started so that `serving` serve, and each pool has its minimum.

        What of a minimum cannot be placed in its pool is asked of the pools together.
        """
        missing = sum(max(0, min(one.pool.min, one.limit) - one.present) for one in self.pools)
        least = max(self.minimum, self.present + missing if missing else 0)
        return max(least, max(0, serving - self.outside) + self.lost)


def count(
    service: services.Service,
    standings: Mapping[str, capacity.PoolStanding],
    nodes: Mapping[str, windows.NodeView],
    past: Mapping[str, Past],
    monotonic: float,
) -> tuple[Supply, Mapping[str, Past]]:
    """Return what there is, and what to remember of it by pool.

    A pool without a standing cannot be grown and is left out; while its actuator is silent, nothing of it is forgotten.
    """
    managed = [pool for pool in service.pools if pool.name in standings]
    found = [
        _pool(pool, standings[pool.name], nodes, past.get(pool.name, Past()), monotonic, service.capacity)
        for pool in sorted(managed, key=lambda pool: pool.queue_depth_per_node is not None)
    ]
    pools = tuple(one for one, _ in found)
    started = {name for one in pools for name in one.states}
    outside = sum(node.is_serving for name, node in nodes.items() if name not in started)
    return Supply(pools, outside), {**past, **{one.pool.name: kept for one, kept in found}}


def _pool(
    pool: services.Pool,
    standing: capacity.PoolStanding,
    nodes: Mapping[str, windows.NodeView],
    past: Past,
    monotonic: float,
    rules: services.CapacityRules,
) -> tuple[PoolSupply, Past]:
    states = {name: _state(name, nodes.get(name), past, monotonic, rules.give_up_seconds) for name in standing.nodes}
    served = frozenset(name for name, state in states.items() if state is State.READY or name in past.served)
    starting = {name: past.starting.get(name, monotonic) for name in states if name not in served}
    return PoolSupply(pool, standing.placeable, states, Counter(states.values())), Past(served, starting)


def _state(name: str, node: windows.NodeView | None, past: Past, monotonic: float, give_up_seconds: float) -> State:
    if node is not None and node.is_serving:
        return State.READY
    if name not in past.served:
        waited = monotonic - past.starting.get(name, monotonic)
        return State.GIVEN_UP if waited >= give_up_seconds else State.STARTING
    return State.OUT if node is not None and node.is_out else State.UNSEEN
