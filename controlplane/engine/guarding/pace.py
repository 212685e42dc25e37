"""Gates that keep automation from doing the same thing over and over: in_flight, cooldown, rate_limit, attempts.

Called by `guard` in its order. What they count is stored, so a restart gives nobody a new budget. Pure functions.
"""

from datetime import timedelta

from controlplane import phrases
from controlplane.domain import lanes, outcomes, plans, runs
from controlplane.engine.guarding import world


def in_flight(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Refuse while another run of the lane works on the target."""
    gate = outcomes.Gate.IN_FLIGHT
    other = next((run for run in context.unfinished if overlaps(run.plan, plan)), None)
    if other is None:
        return world.passes(gate, f"no other run is in flight on {plan.target}")
    said = f"run {other.id} ({other.plan.request.runbook} on {other.plan.target}) is {other.state}"
    hint = f"the end of run {other.id}"
    return world.refuses(gate, f"{said}; wait for its end, or cancel it", hint, run=other.id, state=other.state.value)


def overlaps(one: plans.Plan, other: plans.Plan) -> bool:
    """Say whether two plans touch the same thing: a service contains its nodes.

    Plans of different lanes do only where one takes away the node that the other is about: none is repaired while it
    is drained for good, and none that is being repaired leaves.
    """
    if one.request.service != other.request.service:
        return False
    if one.lane is not other.lane:
        return one.request.node in other.blast.unavailable or other.request.node in one.blast.unavailable
    return not one.request.node or not other.request.node or one.request.node == other.request.node


def cooldown(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Refuse to do the same to the same target again too soon, whoever did it."""
    gate, seconds = outcomes.Gate.COOLDOWN, plan.request.limits.cooldown_seconds
    newest = min(
        (ran for ran in context.history if _is_same_deed(ran.run, plan)), key=lambda ran: ran.seconds_ago, default=None
    )
    if newest is None:
        said = f"{plan.request.runbook} has not acted on {plan.target} lately"
        return world.passes(gate, said, cooldown_seconds=seconds)
    ago = phrases.duration(newest.seconds_ago)
    said = f"{plan.request.runbook} acted on {plan.target} {ago} ago (run {newest.run.id})"
    numbers: dict[str, outcomes.Json] = {
        "seconds_ago": round(newest.seconds_ago, 3),
        "cooldown_seconds": seconds,
        "run": newest.run.id,
    }
    if newest.seconds_ago >= seconds:
        return world.passes(gate, f"{said}, cooldown {phrases.duration(seconds)} is over", **numbers)
    left = seconds - newest.seconds_ago
    said = f"{said}, cooldown {phrases.duration(seconds)}; {phrases.duration(left)} left"
    return world.refuses(gate, said, _time(context, left), **numbers)


def _is_same_deed(run: runs.Run, plan: plans.Plan) -> bool:
    """Say whether `run` had the effect that `plan` would repeat; a run that never acted cools nothing."""
    is_same = run.plan.request.runbook == plan.request.runbook and run.plan.target == plan.target
    return is_same and run.acted_at is not None


def _time(context: world.Context, seconds: float) -> str:
    return f"waiting until {world.at_clock(context.now + timedelta(seconds=seconds))}"


def rate_limit(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Refuse more runs in an hour than the policy allows; people have a budget of their own per service."""
    gate, request = outcomes.Gate.RATE_LIMIT, plan.request
    ago = {
        ran.run.id: ran.seconds_ago
        for ran in context.history
        if ran.seconds_ago < world.RATE_WINDOW_SECONDS and _counts(ran.run, plan)
    }
    ago.update({run.id: 0.0 for run in context.unfinished if _counts(run, plan)})
    who, most = f"policy {request.policy}" if request.policy else "people", request.limits.max_per_hour
    said = f"{who} ran {request.runbook} {phrases.count(len(ago), 'time')} in the last hour"
    numbers: dict[str, outcomes.Json] = {"runs": len(ago), "max_per_hour": most}
    if len(ago) < most:
        return world.passes(gate, f"{said}, at most {most}", **numbers)
    # The run with which the count falls below the limit, when it is an hour old.
    oldest = sorted(ago.values(), reverse=True)[len(ago) - most]
    hint = _time(context, world.RATE_WINDOW_SECONDS - oldest)
    return world.refuses(gate, f"{said}, the limit is {most}", hint, **numbers)


def _counts(run: runs.Run, plan: plans.Plan) -> bool:
    """Say whether `run` draws on the same hourly budget: of the policy, or of people on this service."""
    one, other = run.plan.request, plan.request
    if one.runbook != other.runbook or one.policy != other.policy:
        return False
    return one.policy is not None or one.service == other.service


def attempts(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Refuse to try one policy on one incident more often than it allows, by what is stored of earlier tries.

    The incident counts its runs, and the runs themselves are counted too; the larger number holds. What cannot be read,
    or cannot be, is no reason to begin anew: it stops until a person has looked.
    """
    gate, request, incident = outcomes.Gate.ATTEMPTS, plan.request, context.incident
    if not world.is_automatic(plan):
        return world.passes(gate, f"{request.requested_by} asked; attempts bind policies only")
    if incident is None:
        return world.passes(gate, "no incident is named")
    is_step = plan.lane is lanes.Lane.DEGRADATION or request.is_follow_up or request.is_restoring
    if is_step or context.has_acted:
        said = "a step of the ladder, or the end of what was begun, is no attempt"
        return world.passes(gate, said if is_step else "the run has acted and finishes what it began")
    most, hint = request.limits.max_attempts, "a person handling the incident, or a larger max_attempts in the policy"
    if context.tried is None or incident.attempts < 0:
        how = "cannot be read" if context.tried is None else f"is stored as {incident.attempts}, which cannot be"
        said = f"how often {request.policy} has tried on incident {incident.id} {how}; it is not tried again"
        return world.refuses(gate, said, "a person looking at what is stored", max_attempts=most)
    runs_made = sum(_is_attempt(run, plan) for run in context.tried)
    # The tick may have counted the run that asks already; it was admitted with all the others.
    stored = incident.attempts - 1 if context.is_acting else incident.attempts
    made = max(runs_made, stored)
    numbers: dict[str, outcomes.Json] = {
        "attempts": made,
        "runs": runs_made,
        "incident_attempts": incident.attempts,
        "max_attempts": most,
    }
    said = f"policy {request.policy} has tried {phrases.count(max(made, 0), 'time')} on incident {incident.id}"
    if made < most:
        return world.passes(gate, f"{said}, at most {most}", **numbers)
    return world.refuses(gate, f"{said}, it allows {most}", hint, **numbers)


def _is_attempt(run: runs.Run, plan: plans.Plan) -> bool:
    one, asked = run.plan.request, plan.request
    if one.policy != asked.policy or one.incident_id != asked.incident_id:
        return False
    return not one.is_follow_up and not one.is_restoring
