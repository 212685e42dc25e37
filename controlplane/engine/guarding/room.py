"""Gates that ask what the fleet can spare: blast_radius for the nodes, capacity for the requests they have to carry.

Called by `guard` in its order. Pure functions.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from controlplane import phrases
from controlplane.domain import capacity as cap
from controlplane.domain import findings as fnd
from controlplane.domain import forecasts, outcomes, plans, windows
from controlplane.domain import signals as sig
from controlplane.engine.guarding import world

_NEVER = datetime.min.replace(tzinfo=UTC)
# How far ahead capacity is looked at most: a runbook's times are bounds, and few repairs take longer.
MAX_AHEAD_SECONDS = 1800.0
# What a plan of the capacity says is believed for as long as a view of the fleet.
_MAX_OUTLOOK_AGE_SECONDS = world.MAX_VIEW_AGE_SECONDS
# Where the detector of leaks says how long a node has left.
_SECONDS_LEFT = "seconds_to_limit"
_ALERT_SOURCE = "alert:"


def blast_radius(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Refuse what would leave more nodes out than allowed, or fewer ready than the pools need."""
    gate = outcomes.Gate.BLAST_RADIUS
    if not plan.blast.unavailable:
        return world.passes(gate, "takes no node out of service", touched=len(plan.blast.touched))
    view = world.view_of(plan, context)
    if view is None:
        said = f"which nodes of {plan.request.service} serve is unknown, so none may be taken out"
        return world.refuses(gate, said, "the metrics store answering again")
    fleet = _count(plan, context, view)
    if not fleet.newly_out:
        return world.passes(gate, "the nodes it takes out are out already", **fleet.numbers)
    waits = phrases.names(sorted(fleet.out - frozenset(plan.blast.unavailable))) or "none of the others"
    hint = f"nodes serving again ({waits} out for other reasons), or a wider limit"
    if len(fleet.out) > fleet.allowed:
        names = ", ".join(sorted(fleet.out))
        said = f"{phrases.count(len(fleet.out), 'node')} of {fleet.units} would be unavailable ({names})"
        return world.refuses(gate, f"{said}, at most {fleet.allowed} may be", hint, **fleet.numbers)
    if fleet.units - len(fleet.out) < fleet.min_ready:
        left = phrases.count(fleet.units - len(fleet.out), "node")
        said = f"{left} would stay ready, the pools need {fleet.min_ready}"
        return world.refuses(gate, said, hint, **fleet.numbers)
    said = f"{len(fleet.out)} of {phrases.count(fleet.units, 'node')} would be unavailable"
    return world.passes(gate, f"{said}, at most {fleet.allowed} may be", **fleet.numbers)


@dataclass(frozen=True, slots=True)
class _Count:
    """Who would be out of service if the plan ran: for any reason, ours or not."""

    units: int
    out: frozenset[str]
    newly_out: frozenset[str]
    allowed: int
    min_ready: int

    @property
    def numbers(self) -> dict[str, outcomes.Json]:
        """The numbers as they are stored with the answer."""
        return {
            "units": self.units,
            "unavailable": len(self.out),
            "newly_unavailable": len(self.newly_out),
            "allowed": self.allowed,
            "min_ready": self.min_ready,
            "nodes": world.names(self.out),
        }


def _count(plan: plans.Plan, context: world.Context, view: windows.ServiceView) -> _Count:
    """Count nodes: those not known to serve, those other runs take out, and those this plan takes out.

    Whoever took a node out (a crash, a person, an earlier run, its gateway) makes no difference. A node known to be
    out is not made worse by its repair; one whose state is unknown may well be serving. What a run took out counts as out
    until it was scraped anew: a reading from before an effect says nothing about it.
    """
    planned = frozenset(plan.blast.unavailable)
    not_serving = frozenset(name for name, node in view.nodes.items() if not node.is_serving) | _unseen(context, view)
    elsewhere = world.taken_elsewhere(plan, context)
    units = len(frozenset(view.nodes) | planned | elsewhere)
    return _Count(
        units=units,
        out=not_serving | elsewhere | planned,
        newly_out=planned - world.known_out(view),
        allowed=world.allowed_unavailable(plan.request.limits.max_unavailable, units),
        min_ready=context.service.min_ready,
    )


def _unseen(context: world.Context, view: windows.ServiceView) -> frozenset[str]:
    """Return the nodes that a run took out, or gave back, after their newest reading."""
    return frozenset(
        name
        for run in context.recent
        for name in run.plan.blast.unavailable
        if run.acted_at is not None and name in view.nodes and _read_at(view.nodes[name]) < run.acted_at
    )


def _read_at(node: windows.NodeView) -> datetime:
    """Return when it was last seen whether a node serves: by its gateway, else by its own scrape."""
    at_gateway = node.signals.get(windows.IN_SERVICE)
    reading = at_gateway if isinstance(at_gateway, sig.Value) else node.is_up
    return reading.at if isinstance(reading, sig.Value) else _NEVER


def capacity(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Refuse automation what would leave less capacity than is asked for, now and while the plan may take.

    A node that does not serve costs nothing. One that serves badly counts as it serves: what it gives to its callers
    would have to come from the others. What nobody knows, neither passes for enough nor keeps a bad node in service.
    """
    gate, view = outcomes.Gate.CAPACITY, world.view_of(plan, context)
    if not plan.blast.unavailable:
        return world.passes(gate, "takes no node out of service")
    if context.has_acted:
        return world.passes(gate, "the run has acted and finishes what it began")
    serving = _serving(plan, context, view)
    lost = serving & frozenset(plan.blast.unavailable)
    if not lost:
        return world.passes(gate, "the nodes it takes out do not serve now, so nothing is lost", serving=len(serving))
    planned = _planned(context)
    if isinstance(planned, str):
        return world.passes(gate, f"{planned}, so whether the others are enough is not known", serving=len(serving))
    return _weigh(plan, context, planned, _Room(len(serving), sorted(lost), planned.node_rps))


@dataclass(frozen=True, slots=True)
class _Room:
    """The nodes that serve now, those of them that would go, and what each carries."""

    serving: int
    lost: list[str]
    node_rps: float

    @property
    def remaining(self) -> int:
        """The nodes that would go on serving."""
        return self.serving - len(self.lost)

    @property
    def carried_rps(self) -> float:
        """What these carry."""
        return self.remaining * self.node_rps


def _serving(plan: plans.Plan, context: world.Context, view: windows.ServiceView | None) -> frozenset[str]:
    """Return the nodes that serve and that no other run is about to take out."""
    if view is None:
        return frozenset()
    known = frozenset(name for name, node in view.nodes.items() if node.is_serving)
    return known - world.taken_elsewhere(plan, context)


def _planned(context: world.Context) -> cap.CapacityPlan | str:
    """Return the newest plan of the service's capacity, or why it says nothing of now."""
    if context.outlook is None:
        return "nobody plans the capacity of this service"
    planned = context.outlook.plan
    age = (context.now - planned.at).total_seconds()
    if age > _MAX_OUTLOOK_AGE_SECONDS:
        return f"its capacity was last looked at {phrases.duration(age)} ago"
    if isinstance(planned, cap.NoPlan):
        return f"its capacity is not known ({planned.sentence})"
    if planned.node_rps <= 0 or not any(need.name == "arrivals" for need in planned.needs):
        return "what a node carries, or what arrives, is not known"
    return planned


def _weigh(plan: plans.Plan, context: world.Context, planned: cap.CapacityPlan, room: _Room) -> outcomes.GateAnswer:
    gate = outcomes.Gate.CAPACITY
    ahead = min(sum(step.timeout_seconds for step in plan.steps), MAX_AHEAD_SECONDS)
    foretold = _foretold(context, planned, ahead)
    needed = max(planned.demand_rps, foretold or 0.0)
    numbers: dict[str, outcomes.Json] = {
        "serving": room.serving,
        "remaining": room.remaining,
        "node_rps": round(room.node_rps, 3),
        "carried_rps": round(room.carried_rps, 3),
        "demand_rps": round(planned.demand_rps, 3),
        "forecast_p90_rps": None if foretold is None else round(foretold, 3),
        "ahead_seconds": ahead,
        "needed_rps": round(needed, 3),
        "nodes": [*room.lost],
    }
    said = _said(planned, room, foretold, ahead)
    if room.carried_rps >= needed:
        return world.passes(gate, said, **numbers)
    if left := _is_lost_anyway(plan, context):
        return world.passes(gate, f"{said}: too little, but {left}", **numbers)
    if not world.is_automatic(plan):
        return world.passes(gate, f"{said}: too little, but {plan.request.requested_by} asked", **numbers)
    hint = f"another node serving (scale-out), or demand below {phrases.rate(room.carried_rps)}"
    return world.refuses(gate, f"{said}: too little, so {_stays(context, room)}", hint, **numbers)


def _said(planned: cap.CapacityPlan, room: _Room, foretold: float | None, ahead: float) -> str:
    now = f"{phrases.rate(planned.demand_rps)} arrive"
    later = "" if foretold is None else f", up to {phrases.rate(foretold)} within {phrases.duration(ahead)}"
    left = f"{phrases.count(room.remaining, 'node')} of {room.serving} would carry {phrases.rate(room.carried_rps)}"
    return f"{left}; {now}{later}"


def _stays(context: world.Context, room: _Room) -> str:
    """Say what the refusal means for the nodes: a bad one goes on serving as it does."""
    named = phrases.names(room.lost)
    bad = context.incident is not None and context.incident.key.node in room.lost
    return f"{named} stays in service, bad as it is" if bad else f"{named} stays in service"


def _foretold(context: world.Context, planned: cap.CapacityPlan, ahead_seconds: float) -> float | None:
    """Return the largest upper bound of the forecast while the plan may take; None where it may not speak."""
    forecast = None if context.outlook is None else context.outlook.forecast
    if not isinstance(forecast, forecasts.Forecast) or not planned.gate.is_open:
        return None
    now = context.now.timestamp()
    found = forecast.highest_p90(now, now + ahead_seconds)
    return None if found is None else found[0]


def _is_lost_anyway(plan: plans.Plan, context: world.Context) -> str:
    """Say that the only node it takes will soon be gone by itself, as a detector foretells; empty when it will not be.

    An alert is not believed in this: whoever may post one would decide what the fleet can spare.
    """
    finding = None if context.incident is None else context.incident.finding
    if finding is None or finding.kind is not fnd.FaultClass.LEAK or finding.source.startswith(_ALERT_SOURCE):
        return ""
    if plan.blast.unavailable != (finding.node,):
        return ""
    try:
        left = float(finding.labels.get(_SECONDS_LEFT, "")) - (context.now - finding.at).total_seconds()
    except ValueError:
        return ""
    if not left <= MAX_AHEAD_SECONDS:
        return ""
    return f"{finding.node} runs out of {finding.signal} in {phrases.duration(max(left, 0.0))} and would be lost anyway"
