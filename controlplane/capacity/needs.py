"""How many serving nodes a service needs, and why: one need for each reason, with the numbers it was computed from.

Called by the planner. A need that cannot be known is not made up: it is left out, and a sentence says what is missing.
Unknown readings can only keep a need from being stated, so they never lower what is asked for below what is there (the
planner holds then). Pure functions over values.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from controlplane import phrases
from controlplane.capacity import node_capacity, supply
from controlplane.domain import capacity, forecasts, services
from controlplane.domain import signals as sig

# 30 requests/s with 30 % headroom at 13 a node are 3 nodes, however floats round.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Readings:
    """What is seen of the load: `rejected` is None where arrivals contain the refused requests."""

    arrivals: sig.Reading
    rejected: sig.Reading | None
    waiting: sig.Reading


@dataclass(frozen=True, slots=True)
class Demand:
    """Arrivals in requests per second, `refused` among them; with a `gap` there may be more than that."""

    rps: float
    refused: float = 0.0
    gap: str = ""


@dataclass(frozen=True, slots=True)
class NoDemand:
    """Why nobody knows what arrives."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What the present calls for.

    `floors` are the serving nodes meant for certain pools; `beyond` the nodes that no cold pool has room for. `blind`
    says why the arrivals give no need; with a `gap` more may be needed than is known, so nothing may shrink.
    """

    needs: tuple[capacity.Need, ...]
    demand: Demand | NoDemand
    stages: frozenset[services.Stage]
    floors: Mapping[str, int] = field(default_factory=dict[str, int])
    beyond: int = 0
    blind: str = ""
    gap: str = ""

    @property
    def nodes(self) -> int:
        """The serving nodes that the largest need asks for."""
        return max((need.nodes for need in self.needs), default=0)


def nodes_for(rps: float, node_rps: float, headroom_ratio: float) -> int:
    """Return how many nodes carry a rate with headroom to spare.

    >>> nodes_for(45.0, 11.8, 0.3), nodes_for(30.0, 13.0, 0.3), nodes_for(0.0, 13.0, 0.3)
    (5, 3, 0)
    """
    return max(0, math.ceil(rps * (1.0 + headroom_ratio) / node_rps - _ROUNDING))


def ask(
    service: services.Service,
    readings: Readings,
    node_rps: node_capacity.Estimate | node_capacity.NoEstimate,
    there: supply.Supply,
    active: frozenset[services.Stage],
) -> Asked:
    """Return every need that can be known now. `active` are the stages that were on before."""
    demand = _demand(readings)
    carried = _arrivals(demand, node_rps, service.capacity)
    served = carried.nodes if isinstance(carried, capacity.Need) else 0
    staged, stages, stage_floors = _stages(service, demand, active)
    queued, queue_floors, beyond = _queue(readings.waiting, served, there)
    stated = (carried, queued, staged)
    return Asked(
        needs=tuple(need for need in stated if isinstance(need, capacity.Need)),
        demand=demand,
        stages=stages,
        floors={
            name: max(stage_floors.get(name, 0), queue_floors.get(name, 0)) for name in stage_floors | queue_floors
        },
        beyond=beyond,
        blind=carried if isinstance(carried, str) else "",
        gap=_gap(demand, readings.waiting),
    )


def _demand(readings: Readings) -> Demand | NoDemand:
    """Return what arrives; a rate made of completions and queue growth may dip below zero."""
    if isinstance(readings.arrivals, sig.Unknown):
        return NoDemand(f"arrivals are unknown: {readings.arrivals}")
    arrived = max(0.0, readings.arrivals.value)
    if readings.rejected is None:
        return Demand(arrived)
    if isinstance(readings.rejected, sig.Unknown):
        return Demand(arrived, gap=f"the requests that are refused are unknown: {readings.rejected}")
    refused = max(0.0, readings.rejected.value)
    return Demand(arrived + refused, refused)


def _gap(demand: Demand | NoDemand, waiting: sig.Reading) -> str:
    """Return what else may be needed; an engine without a queue metric is not unknown for ever."""
    if isinstance(demand, NoDemand):
        return demand.sentence
    if isinstance(waiting, sig.Unknown) and waiting.reason is not sig.UnknownReason.NOT_IN_PROFILE:
        return demand.gap or f"the requests that wait are unknown: {waiting}"
    return demand.gap


def _arrivals(
    demand: Demand | NoDemand,
    node_rps: node_capacity.Estimate | node_capacity.NoEstimate,
    rules: services.CapacityRules,
) -> capacity.Need | str:
    if isinstance(demand, NoDemand):
        return demand.sentence
    if isinstance(node_rps, node_capacity.NoEstimate):
        advice = "state capacity.requests_per_second_per_node, or wait for load"
        return f"what a node carries is not known: {node_rps}; {advice}"
    number = nodes_for(demand.rps, node_rps.rps, rules.headroom_ratio)
    least = "at least " if demand.gap else ""
    refused = f" ({demand.refused:.1f} of them refused)" if demand.refused else ""
    return capacity.Need(
        "arrivals",
        number,
        f"{least}{phrases.rate(demand.rps)}{refused} {_at(node_rps, rules)}",
        {
            "demand_rps": demand.rps,
            "refused_rps": demand.refused,
            "headroom_ratio": rules.headroom_ratio,
            "node_rps": node_rps.rps,
        },
    )


def _at(node_rps: node_capacity.Estimate, rules: services.CapacityRules) -> str:
    return f"with {phrases.share(rules.headroom_ratio)} headroom at {node_rps.rps:.1f} a node"


def _stages(
    service: services.Service, demand: Demand | NoDemand, before: frozenset[services.Stage]
) -> tuple[capacity.Need | None, frozenset[services.Stage], dict[str, int]]:
    """Return the need of the stages that are on, which they are, and how many nodes are meant for which pool.

    Without demand nobody knows which are, so they ask for nothing and stay as they were.
    """
    if isinstance(demand, NoDemand):
        return None, before, {}
    release = service.capacity.release_ratio
    on = [one for one in service.capacity.stages if _is_on(one, demand, one in before, release)]
    if not on:
        return None, frozenset(), {}
    more, least = sum(one.nodes for one in on), sum(pool.min for pool in service.pools)
    floors = {
        pool.name: pool.min + sum(one.nodes for one in on if one.pool == pool.name)
        for pool in service.pools
        if any(one.pool == pool.name for one in on)
    }
    above = " and ".join(f"{one.above_qps:g}" for one in on)
    said = (
        f"{phrases.rate(demand.rps)}: above {above}, {more} more than the minimum of {least} are kept, "
        f"each stage until {phrases.share(release)} of its threshold"
    )
    numbers = {"demand_rps": demand.rps, "stage_nodes": more, "minimum": least, "release_ratio": release}
    return capacity.Need("stage", least + more, said, numbers), frozenset(on), floors


def _is_on(stage: services.Stage, demand: Demand, was_on: bool, release_ratio: float) -> bool:
    """Say whether a stage is on: above its threshold, and from then on until clearly below it.

    Where more may arrive than is known, nothing is released.
    """
    if demand.rps > stage.above_qps:
        return True
    return was_on and (bool(demand.gap) or demand.rps >= release_ratio * stage.above_qps)


def _queue(waiting: sig.Reading, served: int, there: supply.Supply) -> tuple[capacity.Need | None, dict[str, int], int]:
    """Return the need of the requests that wait, the cold nodes meant for them by pool, and those without room.

    They come on top of what carries the arrivals and of the hot nodes that are there already: as long as requests wait
    in numbers, those are not enough. Hot nodes that start are no reason for more, since they may be. Only as many as the
    cold pools have room for: were the rest asked of hot pools, which are there in the next look, the same requests would
    be counted again and again. Below the depth of one node nobody is called: a few always wait.
    """
    cold = [one for one in there.pools if one.is_cold]
    if isinstance(waiting, sig.Unknown) or not cold or waiting.value < _depth(cold[0]):
        return None, {}, 0
    left, floors = waiting.value, dict[str, int]()
    for one in cold:
        called = min(max(0, one.limit - one.lost - one.kept), math.ceil(left / _depth(one)))
        floors[one.pool.name] = one.kept + called
        left = max(0.0, left - called * _depth(one))
    called, least = sum(floors.values()), sum(one.kept for one in cold)
    beyond = math.ceil(left / _depth(cold[-1]))
    beside = max(served - least, there.outside + sum(one.settled for one in there.pools if not one.is_cold))
    said = f"{waiting.value:.0f} requests wait, {_depth(cold[0]):g} for each cold node: {called} beside {beside} others"
    numbers = {"waiting": waiting.value, "cold": called, "beside": beside, "beyond": beyond}
    return capacity.Need("queue", beside + called, said, numbers), floors, beyond


def _depth(cold: supply.PoolSupply) -> float:
    return cold.pool.queue_depth_per_node or math.inf


def minimum(there: supply.Supply) -> capacity.Need:
    """Return what the pools keep whatever happens; nodes that are out count, since they are there."""
    each = ", ".join(f"{one.pool.name} {one.pool.min}" for one in there.pools)
    return capacity.Need("minimum", there.minimum, f"the pools keep {each}", {"minimum": there.minimum})


def foretold(
    forecast: forecasts.Forecast,
    node_rps: node_capacity.Estimate,
    rules: services.CapacityRules,
    now: datetime,
    ahead_seconds: float,
) -> capacity.Need | None:
    """Return the need of the highest p90 of the next `ahead_seconds`; None where the forecast says nothing of them."""
    begin = now.timestamp()
    found = forecast.highest_p90(begin, begin + ahead_seconds)
    if found is None or not math.isfinite(found[0]):
        return None
    rps, at = max(0.0, found[0]), datetime.fromtimestamp(max(found[1], begin), tz=UTC)
    numbers = {
        "p90_rps": rps,
        "at": at.timestamp(),
        "horizon_seconds": ahead_seconds,
        "headroom_ratio": rules.headroom_ratio,
        "node_rps": node_rps.rps,
    }
    until = f"{at:%H:%M} UTC (p90, the most within {phrases.duration(ahead_seconds)})"
    number = nodes_for(rps, node_rps.rps, rules.headroom_ratio)
    return capacity.Need("forecast", number, f"{phrases.rate(rps)} at {until} {_at(node_rps, rules)}", numbers)


def largest(needs: Sequence[capacity.Need]) -> capacity.Need:
    """Return the need that asks for the most nodes, of equals the first; there must be one."""
    return max(needs, key=lambda need: need.nodes)
