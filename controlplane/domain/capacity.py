"""How many nodes a service has and should have: plans with the reasons that led to them, or why nobody can say.

Made by `controlplane.capacity` once a tick for each service whose pools dsctl may grow; read by decide, by guards, and by
whoever asks. Nodes are counted in serving units. Pure values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.domain import forecasts, outcomes


@dataclass(frozen=True, slots=True)
class PoolStanding:
    """What an actuator says of one pool: the nodes that are started (ready or not), and how many it could hold.

    `placeable` counts the nodes that run and those it could still start; more cannot be had, whatever the pool's
    maximum says.
    """

    pool: str
    nodes: tuple[str, ...]
    placeable: int


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether the forecast may act now, and the sentence that says why."""

    is_open: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Need:
    """One reason for a number of serving nodes, with its arithmetic.

    `name` is `arrivals`, `queue`, `stage`, `minimum` or `forecast`.
    """

    name: str
    nodes: int
    sentence: str
    numbers: Mapping[str, outcomes.Json] = field(default_factory=dict[str, outcomes.Json])


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What one pool has and should have; `placeable` as in its standing."""

    pool: str
    present: int
    desired: int
    minimum: int
    maximum: int
    placeable: int


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """How many nodes a service should have, and why.

    `present` are started, `ready` of them serve. `reactive` answers what is seen now, `predicted` what is foretold for
    one cold start ahead (None: no forecast, or its gate is closed). `desired` is the larger one, after hysteresis and
    within what the pools may hold and the actuators can place. `unmet` nodes are needed beyond that.

    All of them count started nodes, so they can be compared: a node that is out of service keeps its place, and
    `reactive`, `predicted` and `desired` are larger by it than what must serve. `pools` are in the order in which they
    are filled. `demand_rps` and `node_rps` are 0 where nobody knows them; `needs` then has no `arrivals`.
    """

    service: str
    at: datetime
    present: int
    ready: int
    desired: int
    reactive: int
    predicted: int | None
    unmet: int
    pools: tuple[PoolPlan, ...]
    needs: tuple[Need, ...]
    gate: Gate
    horizon_seconds: float
    node_rps: float
    demand_rps: float
    sentence: str

    @property
    def is_predicted(self) -> bool:
        """True when nodes are asked for that only the forecast calls for."""
        return self.predicted is not None and self.desired > self.present and self.predicted > self.reactive


@dataclass(frozen=True, slots=True)
class NoPlan:
    """Why nobody can say how many nodes are needed; nothing is grown or shrunk then."""

    service: str
    at: datetime
    sentence: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """Everything about one service's capacity at a tick, for whoever asks: demand, forecast and plan."""

    service: str
    plan: CapacityPlan | NoPlan
    forecast: forecasts.Forecast | forecasts.NoForecast
