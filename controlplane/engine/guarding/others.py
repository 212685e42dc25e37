"""Gates that protect from automation itself and from undoing what others did: breaker, ownership.

Called by `guard` in its order. Pure functions; `dispatch` and `recheck` store a breaker that trips.
"""

import math

from controlplane import phrases
from controlplane.domain import outcomes, owners, plans, runs
from controlplane.engine.guarding import world

# In the numbers of an answer: this refusal is what trips the breaker, and it is to be stored.
TRIPS = "trips"


def breaker(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Refuse automation when it has touched too many different nodes of the service lately, until a person resets it.

    What it counts is what it stops: nodes taken out of service or acted on destructively. Giving back passes, and so does
    ending what a run began, as long as that takes nothing more out.
    """
    gate, service = outcomes.Gate.BREAKER, plan.request.service
    state = context.breaker
    is_open = state is not None and state.is_open
    if not world.is_automatic(plan):
        said = f"the breaker of {service} is {'open' if is_open else 'closed'}"
        return world.passes(gate, f"{said}, but {plan.request.requested_by} asked" if is_open else said)
    if reason := _passes_open(plan, context):
        return world.passes(gate, f"{reason}, which the breaker never stops", is_open=is_open)
    if state is not None and state.is_open:
        said = f"the breaker of {service} is open since {world.at_clock(state.tripped_at)}: {state.sentence}"
        command = f"`dsctl automation breaker reset {service}`"
        hint = f"a person looking for the common cause, then {command} with --reason"
        return world.refuses(gate, f"{said}; {command} closes it", hint, is_open=True, nodes=world.names(state.nodes))
    return _count(plan, context)


def _count(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    gate, limits, service = outcomes.Gate.BREAKER, context.breaker_limits, plan.request.service
    before, units = _touched(plan, context), _units(plan, context)
    allowed = max(limits.nodes, math.floor(limits.percent * units / 100))
    after = before | counted(plan)
    numbers: dict[str, outcomes.Json] = {
        "touched": len(after),
        "touched_before": len(before),
        "allowed": allowed,
        "units": units,
        "window_seconds": limits.window_seconds,
        "nodes": world.names(after),
    }
    within = phrases.duration(limits.window_seconds)
    said = f"automation would have touched {phrases.count(len(after), 'node')} of {service} within {within}"
    if len(after) <= allowed:
        return world.passes(gate, f"{said}, at most {allowed}", is_open=False, **numbers)
    command = f"`dsctl automation breaker reset {service}`"
    said = f"{said} ({phrases.names(sorted(after))}), at most {allowed}: the breaker of {service} trips"
    hint = f"a person looking for the common cause, then {command} with --reason"
    return world.refuses(gate, f"{said}; {command} closes it", hint, is_open=True, **{TRIPS: True}, **numbers)


def counted(plan: plans.Plan) -> frozenset[str]:
    """Return the nodes by which a plan counts: taken out of service, or touched by something destructive."""
    destroyed = plan.blast.touched if plan.blast.is_destructive else ()
    return frozenset(plan.blast.unavailable) | frozenset(destroyed)


def _passes_open(plan: plans.Plan, context: world.Context) -> str:
    """Return why even an open breaker lets the plan pass, or nothing."""
    if plan.request.is_restoring:
        return "it gives back what automation took"
    if not counted(plan):
        return "it takes nothing out and destroys nothing"
    newly_out = frozenset(plan.blast.unavailable) - world.known_out(world.view_of(plan, context))
    if plan.request.is_follow_up and not newly_out:
        return "it ends what an earlier run began and takes nothing more out"
    return "the run has acted and finishes what it began" if context.has_acted else ""


def _touched(plan: plans.Plan, context: world.Context) -> frozenset[str]:
    """Return the nodes that policies' runs touched within the window and since the last reset, or are about to."""
    return frozenset(
        name
        for run in (*context.recent, *context.unfinished)
        if run.plan.request.service == plan.request.service and _is_counted(run, context)
        for name in counted(run.plan)
    )


def _is_counted(run: runs.Run, context: world.Context) -> bool:
    if run.plan.request.policy is None:
        return False
    if run.acted_at is None:
        return not run.state.is_final and not world.is_asking(run)  # it has not begun, and will
    reset = None if context.breaker is None else context.breaker.reset_at
    age = (context.now - run.acted_at).total_seconds()
    return age < context.breaker_limits.window_seconds and (reset is None or run.acted_at > reset)


def _units(plan: plans.Plan, context: world.Context) -> int:
    """Count the nodes of the service that dsctl can act on: what has no address is nobody's target."""
    view = world.view_of(plan, context)
    return 0 if view is None else sum(bool(node.address) for node in view.nodes.values())


def ownership(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Refuse to change what a controller owns, and automation to undo what a person holds."""
    gate = outcomes.Gate.OWNERSHIP
    if context.claims is None:
        return _unknown(plan, context)
    owned = next((one for one in context.claims if one.kind is owners.Kind.CONTROLLER), None)
    if owned is not None:
        said = f"{owned.owner} owns {owned.what}; change it there"
        return world.refuses(gate, said, f"a change at {owned.owner}", owner=owned.owner, what=owned.what)
    if not context.claims:
        return world.passes(gate, f"nobody else owns or holds what it changes on {plan.target}")
    held = context.claims[0]
    said = f"{held.what} was {held.how} by {held.owner}" if held.how else f"{held.what} is held by {held.owner}"
    numbers: dict[str, outcomes.Json] = {"holder": held.owner, "what": held.what}
    if not world.is_automatic(plan):
        return world.passes(gate, f"{said}, but {plan.request.requested_by} asked", **numbers)
    hint = f"{held.owner} giving {held.what} back"
    return world.refuses(gate, f"{said}; automation never undoes what somebody else did", hint, **numbers)


def _unknown(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    gate, said = outcomes.Gate.OWNERSHIP, f"who else holds {plan.target} cannot be told"
    if context.has_acted:
        return world.passes(gate, f"{said}, but the run has acted and finishes what it began")
    if not world.is_automatic(plan):
        return world.passes(gate, f"{said}, but {plan.request.requested_by} asked")
    return world.refuses(gate, f"{said}, so it is left alone", "the gateway answering again")
