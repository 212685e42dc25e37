"""How many nodes a service should have: desired = max(reactive, predicted), and the sentence that says why.

Called once a tick for each service whose nodes dsctl may start, with everything that was read; it reads nothing, asks no
clock and changes nothing. The rules, in the order they are applied:

1. What is seen asks for nodes (`needs`): arrivals with headroom, requests that wait, stages, the pools' minimum.
2. A forecast whose gate is open may ask for more, one cold start ahead. It never asks for less.
3. Growing is immediate, and bounded by the pools and by what actuators can place; the rest is unmet.
4. Shrinking waits until fewer nodes were enough for a while without break, is tried out at N-1 on the nodes known to
   serve, and goes one step at a time.
5. Unknown holds: without arrivals, or without knowing what a node carries, only a need that is known for certain may
   grow anything, and nothing shrinks.

Nodes that start count as if they served until they are given up (`supply`). Pure functions over values; the memory is
passed in and handed back, and losing it only costs time. `monotonic` paces, `now` is only compared with forecasts.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from controlplane import phrases
from controlplane.capacity import needs, node_capacity, pace, placing, supply
from controlplane.domain import capacity, forecasts, services, windows
from controlplane.domain import signals as sig

# Of a large fleet a tenth goes at once, of a small one a single node; then the rest is looked at again.
_STEP_RATIO = 0.1
_ARRIVALS, _REJECTED = "request_rate", "rejected_rate"
_SAID = (supply.State.STARTING, supply.State.UNSEEN, supply.State.OUT)
_WAITING = ("gateway_queue_depth", "queue_depth")


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything the plan of one service rests on.

    `arrivals` are requests per second; `rejected` those refused before they were counted there, None when arrivals
    contain them. `waiting` are requests that wait in front of the nodes and at them. `nodes` are the service's nodes as
    observed, `standings` what actuators started, by pool. `cold_start_seconds` is None until it was measured.
    """

    arrivals: sig.Reading
    waiting: sig.Reading
    nodes: Mapping[str, windows.NodeView]
    standings: Mapping[str, capacity.PoolStanding]
    node_rps: node_capacity.Estimate | node_capacity.NoEstimate
    rejected: sig.Reading | None = None
    cold_start_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What one plan leaves for the next of the same service: nodes by pool, stages that are on, and recent needs."""

    nodes: Mapping[str, supply.Past] = field(default_factory=dict[str, supply.Past])
    stages: frozenset[services.Stage] = frozenset()
    recent: pace.Pace = field(default_factory=pace.Pace)


@dataclass(frozen=True, slots=True)
class _Case:
    """One look, taken apart: what there is, what is asked for now, and what the forecast adds (None: nothing)."""

    service: services.Service
    there: supply.Supply
    asked: needs.Asked
    minimum: capacity.Need
    foretold: capacity.Need | None
    further: capacity.Need | None  # the same over the time a shrink must hold for
    monotonic: float
    recent: pace.Pace = field(default_factory=pace.Pace)

    @property
    def serving(self) -> int:
        """The serving nodes that are needed now."""
        return max(self.asked.nodes, 0 if self.foretold is None else self.foretold.nodes)

    @property
    def all_needs(self) -> tuple[capacity.Need, ...]:
        """Every reason, in the order in which equals are named."""
        return (*self.asked.needs, self.minimum, *([] if self.foretold is None else [self.foretold]))


def look(
    view: windows.ServiceView | None,
    standings: Mapping[str, capacity.PoolStanding],
    node_rps: node_capacity.Estimate | node_capacity.NoEstimate,
    *,
    cold_start_seconds: float | None = None,
    adds_rejected: bool = False,
) -> Seen:
    """Take a service's view apart; None: it could not be read.

    `adds_rejected` where `request_rate` counts only what was admitted, as for an engine without a gateway.
    """
    readings: Mapping[str, sig.Reading] = {} if view is None else view.signals
    missing = sig.UnknownReason.SOURCE_UNREACHABLE if view is None else sig.UnknownReason.NOT_IN_PROFILE
    rejected = readings.get(_REJECTED, sig.Unknown(missing)) if adds_rejected else None
    return Seen(
        arrivals=readings.get(_ARRIVALS, sig.Unknown(missing)),
        waiting=_sum([readings.get(name, sig.Unknown(missing)) for name in _WAITING]),
        nodes={} if view is None else view.nodes,
        standings=standings,
        node_rps=node_rps,
        rejected=None if _is_unmapped(rejected) else rejected,
        cold_start_seconds=cold_start_seconds,
    )


def _is_unmapped(reading: sig.Reading | None) -> bool:
    return isinstance(reading, sig.Unknown) and reading.reason is sig.UnknownReason.NOT_IN_PROFILE


def _sum(readings: list[sig.Reading]) -> sig.Reading:
    """Add up; one that is not mapped is left out, any other unknown makes the sum unknown."""
    asked = [one for one in readings if not _is_unmapped(one)]
    unknown = next((one for one in asked if isinstance(one, sig.Unknown)), None)
    values = [one for one in asked if isinstance(one, sig.Value)]
    if unknown is not None or not values:
        return unknown or sig.Unknown(sig.UnknownReason.NOT_IN_PROFILE)
    return sig.Value(sum(one.value for one in values), min(one.at for one in values))


def plan(
    service: services.Service,
    seen: Seen,
    forecast: forecasts.Forecast | forecasts.NoForecast,
    gate: capacity.Gate,
    memory: Memory,
    now: datetime,
    monotonic: float,
) -> tuple[capacity.CapacityPlan | capacity.NoPlan, Memory]:
    """Return how many nodes the service should have, and the memory for the next look."""
    there, past = supply.count(service, seen.standings, seen.nodes, memory.nodes, monotonic)
    if not there.pools:
        said = f"no actuator says what the pools of {service.name} have; see docs/capacity.md"
        return capacity.NoPlan(service.name, now, said), Memory(past, memory.stages)
    readings = needs.Readings(seen.arrivals, seen.rejected, seen.waiting)
    asked = needs.ask(service, readings, seen.node_rps, there, memory.stages)
    ahead = _horizon(service.capacity, seen.cold_start_seconds, forecast)
    foretold, further = (
        _foretell(service, seen, asked, forecast, gate, now, seconds)
        for seconds in (ahead, ahead + service.capacity.shrink_after_seconds)
    )
    case = _Case(service, there, asked, needs.minimum(there), foretold, further, monotonic)
    case = dataclasses.replace(case, recent=_recent(case, memory.recent))
    kept = Memory(past, asked.stages, case.recent)
    if asked.blind and there.started_for(asked.nodes) <= there.present:
        return capacity.NoPlan(service.name, now, f"{asked.blind}; {_there(case)}"), kept
    return _decide(case, seen, gate, now, ahead), kept


def _horizon(
    rules: services.CapacityRules, measured: float | None, forecast: forecasts.Forecast | forecasts.NoForecast
) -> float:
    """Return how far to look ahead: one cold start, and never less than one step of the forecast."""
    seconds = rules.cold_start_seconds if measured is None else measured
    return max(seconds, forecast.step_seconds) if isinstance(forecast, forecasts.Forecast) else seconds


def _foretell(
    service: services.Service,
    seen: Seen,
    asked: needs.Asked,
    forecast: forecasts.Forecast | forecasts.NoForecast,
    gate: capacity.Gate,
    now: datetime,
    ahead_seconds: float,
) -> capacity.Need | None:
    """Return what the forecast asks for, None where it may not: with unknown arrivals it cannot be compared with now."""
    if asked.blind or isinstance(seen.node_rps, node_capacity.NoEstimate):
        return None
    if not gate.is_open or isinstance(forecast, forecasts.NoForecast):
        return None
    return needs.foretold(forecast, seen.node_rps, service.capacity, now, ahead_seconds)


def _recent(case: _Case, before: pace.Pace) -> pace.Pace:
    """Note what is needed; a look at which that is not known breaks the row."""
    if case.asked.blind or case.asked.gap:
        return pace.Pace()
    return pace.note(before, case.serving, case.monotonic, case.service.capacity.shrink_after_seconds)


def _decide(case: _Case, seen: Seen, gate: capacity.Gate, now: datetime, ahead: float) -> capacity.CapacityPlan:
    there, asked = case.there, case.asked
    reactive = there.started_for(asked.nodes)
    predicted = None if case.foretold is None else there.started_for(case.foretold.nodes)
    placed = placing.grow(there, max(reactive, predicted or 0), asked.floors)
    said = _growth(case, placed)
    if placed.total == there.present and not placed.unmet:
        placed, said = _shrink(case)
    return capacity.CapacityPlan(
        service=case.service.name,
        at=now,
        present=there.present,
        ready=there.num(supply.State.READY),
        desired=placed.total,
        reactive=reactive,
        predicted=predicted,
        unmet=placed.unmet + asked.beyond,
        pools=tuple(_pool_plan(one, placed) for one in there.pools),
        needs=case.all_needs,
        gate=gate,
        horizon_seconds=ahead,
        node_rps=seen.node_rps.rps if isinstance(seen.node_rps, node_capacity.Estimate) else 0.0,
        demand_rps=asked.demand.rps if isinstance(asked.demand, needs.Demand) else 0.0,
        sentence="; ".join(part for part in (_why(case), _there(case), said) if part),
    )


def _pool_plan(one: supply.PoolSupply, placed: placing.Placed) -> capacity.PoolPlan:
    return capacity.PoolPlan(
        pool=one.pool.name,
        present=one.present,
        desired=placed.nodes[one.pool.name],
        minimum=one.pool.min,
        maximum=one.pool.max,
        placeable=one.placeable,
    )


def _shrink(case: _Case) -> tuple[placing.Placed, str]:
    """Return the pools with one step taken away, or as they are and why nothing goes (nothing said: all is needed)."""
    there, asked = case.there, case.asked
    stays = placing.Placed({one.pool.name: one.present for one in there.pools})
    spare = min(there.serving - case.serving, there.present - there.minimum)
    step = min(max(1, int(_STEP_RATIO * there.present)), spare)
    if step <= 0 or placing.shrink(there, step, asked.floors).total == there.present:
        return stays, ""
    if asked.gap:
        return stays, f"nothing goes while {asked.gap}"
    window = case.service.capacity.shrink_after_seconds
    wait = pace.wait_seconds(case.recent, there.serving - 1, case.monotonic, window)
    if wait > 0:
        return stays, f"fewer would be enough; one goes in {phrases.duration(wait)} if that lasts"
    if case.further is not None and case.further.nodes >= there.serving:
        return stays, f"none goes, since the forecast needs {case.further.nodes}: {case.further.sentence}"
    enough = max(case.recent.highest, 0 if case.further is None else case.further.nodes)
    gone = placing.shrink(there, min(step, there.serving - enough), asked.floors)
    num = there.present - gone.total
    said = f"{phrases.count(num, 'node')} can go: {there.serving - num} were enough for {phrases.duration(window)}"
    return gone, said


def _growth(case: _Case, placed: placing.Placed) -> str:
    """Return which pools grow to how many nodes, and what cannot be had."""
    grown = [
        f"{one.pool.name} to {placed.nodes[one.pool.name]}"
        for one in case.there.pools
        if placed.nodes[one.pool.name] > one.present
    ]
    unmet = placed.unmet + case.asked.beyond
    limits = ", ".join(f"{one.pool.name} at most {one.limit}" for one in case.there.pools)
    said = [f"grows {' and '.join(grown)}"] if grown else []
    return "; ".join(said + ([f"{unmet} more cannot be placed ({limits})"] if unmet else []))


def _why(case: _Case) -> str:
    lead = needs.largest(case.all_needs)
    return f"needs {phrases.count(lead.nodes, 'node')}: {lead.sentence} ({lead.name})"


def _there(case: _Case) -> str:
    """Return what is there, in one clause: `3 are there, 2 ready, 1 starting`."""
    there = case.there
    parts = [f"{there.present} are there, {there.num(supply.State.READY)} ready"]
    parts += [f"{there.num(state)} {state}" for state in _SAID if there.num(state)]
    if number := there.num(supply.State.GIVEN_UP):
        waited = phrases.duration(case.service.capacity.give_up_seconds)
        parts.append(f"{number} given up after {waited} ({phrases.names(there.named(supply.State.GIVEN_UP))})")
    if there.outside:
        parts.append(f"{there.outside} more serve outside the pools")
    return ", ".join(parts)
