"""Builds what the capacity planner is given: a test names only the load, the nodes and the rules that matter to it."""

from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.capacity import node_capacity, planner
from controlplane.domain import capacity, forecasts, services, windows
from controlplane.domain import signals as sig
from tests.support import builders as b
from tests.support.clock import START, FakeClock

OPEN = capacity.Gate(True, "open: better than repeating the last value")
CLOSED = capacity.Gate(False, "closed: no better than repeating the last value")
NO_FORECAST = forecasts.NoForecast(b.SERVICE, forecasts.NoForecastReason.NOT_FITTED)
HOT = services.Pool("hot", "local", min=2, max=6)
COLD = services.Pool("cold", "local", min=0, max=4, queue_depth_per_node=50.0)


def service(*pools: services.Pool, **rules: Any) -> services.Service:
    """A service whose nodes carry 10 requests/s, with `rules` of its capacity; without pools it has HOT and COLD."""
    return b.service(pools=pools or (HOT, COLD), capacity=services.CapacityRules(**rules))


def carries(rps: float = 10.0) -> node_capacity.Estimate:
    return node_capacity.Estimate(rps, is_knee_seen=True, num_samples=100, sentence="as a test says")


def names(pool: str, number: int) -> tuple[str, ...]:
    return tuple(f"{pool}-{one}" for one in range(1, number + 1))


def standing(pool: str, number: int, placeable: int = 100) -> capacity.PoolStanding:
    return capacity.PoolStanding(pool, names(pool, number), placeable)


def starting(name: str) -> windows.NodeView:
    """A node that Prometheus knows and cannot scrape yet."""
    return b.node(name, up=False)


def seen(
    rps: float | sig.Reading = 0.0,
    *,
    waiting: float | sig.Reading = 0.0,
    hot: int = 2,
    cold: int = 0,
    nodes: Sequence[windows.NodeView] = (),
    placeable: Mapping[str, int] | None = None,
    **fields: Any,
) -> planner.Seen:
    """A look at `hot` and `cold` nodes that all serve, except those given in `nodes`."""
    most = placeable or {}
    standings: Mapping[str, capacity.PoolStanding] = fields.get("standings") or {
        pool: standing(pool, number, most.get(pool, 100)) for pool, number in (("hot", hot), ("cold", cold))
    }
    serving = [b.node(name) for one in standings.values() for name in one.nodes]
    readings = b.readings({"arrivals": rps, "waiting": waiting})
    defaults: dict[str, Any] = {
        **readings,
        "nodes": {one.node: one for one in [*serving, *nodes]},
        "standings": standings,
        "node_rps": carries(),
    }
    return planner.Seen(**defaults | fields)


def forecast(*p90: float, step_seconds: float = 300.0, start: float | None = None) -> forecasts.Forecast:
    """A forecast whose first step begins at START; its other bounds are below its p90."""
    accuracy = forecasts.Accuracy(900.0, 50, wape=0.1, bias=0.0, coverage=0.8, wape_last_value=0.2)
    low = tuple(value / 2 for value in p90)
    begin = START.timestamp() if start is None else start
    return forecasts.Forecast(b.SERVICE, START, START, begin, step_seconds, low, low, p90, low[0], accuracy)


class Planner:
    """Plans one look after the other and keeps the memory in between, as the tick does."""

    def __init__(self, of: services.Service | None = None) -> None:
        self.service = of or service()
        self.clock = FakeClock()
        self.memory = planner.Memory()

    def plan(
        self,
        look: planner.Seen,
        *,
        after: float = 0.0,
        ahead: forecasts.Forecast | forecasts.NoForecast = NO_FORECAST,
        gate: capacity.Gate = OPEN,
    ) -> capacity.CapacityPlan | capacity.NoPlan:
        """Plan `after` seconds."""
        self.clock.move(after)
        made, self.memory = planner.plan(
            self.service, look, ahead, gate, self.memory, self.clock.now(), self.clock.monotonic()
        )
        return made

    def known(self, look: planner.Seen, **fields: Any) -> capacity.CapacityPlan:
        """The same, where a plan must come out."""
        made = self.plan(look, **fields)
        assert isinstance(made, capacity.CapacityPlan), made
        return made

    def held(self, look: planner.Seen, **fields: Any) -> capacity.NoPlan:
        """The same, where none must come out."""
        made = self.plan(look, **fields)
        assert isinstance(made, capacity.NoPlan), made
        return made

    def calm(self, look: planner.Seen, seconds: float, **fields: Any) -> capacity.CapacityPlan:
        """Look every 15 s for `seconds`, first right now; return the last plan."""
        made = self.known(look, **fields)
        for _ in range(int(seconds // 15)):
            made = self.known(look, after=15.0, **fields)
        return made


def pools(plan: capacity.CapacityPlan) -> dict[str, int]:
    """The desired nodes by pool."""
    return {one.pool: one.desired for one in plan.pools}


def need(plan: capacity.CapacityPlan, name: str) -> capacity.Need:
    return next(one for one in plan.needs if one.name == name)
