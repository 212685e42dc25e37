"""Gates that ask whether automation may act at all: the brake, the mode, maintenance and silences, and who agreed.

Called by `guard` in its order. A person passes the first four, and the answer says so. Pure functions.
"""

from collections.abc import Mapping
from datetime import timedelta

from controlplane import expressions, phrases
from controlplane.domain import alerting, approvals, errors, maintenance, outcomes, plans, policies
from controlplane.engine import words
from controlplane.engine.guarding import world


def kill_switch(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Refuse automation while somebody holds the brake."""
    gate = outcomes.Gate.KILL_SWITCH
    if not context.paused:
        return world.passes(gate, "automation is not paused")
    holders = "; ".join(f"{who}: {reason or 'no reason given'}" for who, reason in sorted(context.paused.items()))
    held_by: list[outcomes.Json] = [*sorted(context.paused)]
    if world.is_automatic(plan):
        said = f"automation is paused ({holders}); `dsctl automation resume` releases it"
        return world.refuses(gate, said, f"{', '.join(sorted(context.paused))} releasing the brake", held_by=held_by)
    return world.passes(
        gate, f"automation is paused ({holders}), but {plan.request.requested_by} asked", held_by=held_by
    )


def mode(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:  # noqa: ARG001 - every gate has one shape
    """Refuse a policy that may not act by itself; one in mode approve may where people are asked first."""
    gate, request = outcomes.Gate.MODE, plan.request
    if not world.is_automatic(plan):
        return world.passes(gate, f"{request.requested_by} asked; modes bind policies only")
    said = f"policy {request.policy} is in mode {request.mode}"
    if request.mode is policies.Mode.AUTO:
        return world.passes(gate, said, mode=request.mode.value)
    if request.mode is policies.Mode.APPROVE and _asks_first(plan):
        return world.passes(gate, f"{said}, and the plan asks people first", mode=request.mode.value)
    command = words.command(request.runbook, request.service, request.node, request.inputs)
    hint = f"a person running `{command}`, or mode auto in the policy and in the setting `mode`"
    return world.refuses(gate, f"{said}; run `{command}`", hint, mode=request.mode.value)


def in_maintenance(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Refuse automation in the service's maintenance windows, but for giving back what it took."""
    gate = outcomes.Gate.MAINTENANCE
    found = maintenance.in_force(context.service.maintenance, context.now)
    if found is None:
        return world.passes(gate, "no maintenance is on", windows=len(context.service.maintenance))
    window, ends = found
    said = f"{plan.request.service} is in maintenance {maintenance.spoken(window)} until {ends:%Y-%m-%d %H:%M} UTC"
    numbers: dict[str, outcomes.Json] = {"window": window.name, "until": ends.isoformat()}
    if plan.request.is_restoring:
        return world.passes(gate, f"{said}, but this gives back what automation took", **numbers)
    if world.is_automatic(plan):
        return world.refuses(gate, said, f"the end of the window, {world.at_clock(ends)}", **numbers)
    return world.passes(gate, f"{said}, but {plan.request.requested_by} asked", **numbers)


def silence(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Refuse automation where a silence of Alertmanager matches, and what is risky while silences are not known."""
    gate, silences = outcomes.Gate.SILENCE, context.silences
    age = None if silences is None else (context.now - silences.read_at).total_seconds()
    if silences is None or age is None or age > world.MAX_SILENCES_AGE_SECONDS:
        how = "were never read" if age is None else f"were last read {phrases.duration(age)} ago"
        if world.is_risky(plan):
            said = f"the silences {how}, so whether this is maintenance is unknown"
            return world.refuses(gate, said, "Alertmanager answering again", age_seconds=age)
        return world.passes(gate, f"the silences {how}; nothing is destroyed, so this passes", age_seconds=age)
    found = _matching(silences, _labels(plan, context))
    if found is None:
        return world.passes(gate, "no silence matches", age_seconds=age, silences=len(silences.active))
    if found.ends_at <= context.now:
        return world.passes(gate, f"silence {found.id} has ended", age_seconds=age)
    return _silenced(plan, found)


def _silenced(plan: plans.Plan, found: alerting.Silence) -> outcomes.GateAnswer:
    gate = outcomes.Gate.SILENCE
    until = found.ends_at.strftime("%Y-%m-%d %H:%M UTC")
    said = f"silence {found.id} by {found.created_by or 'somebody'} ({found.comment or 'no comment'}) matches"
    numbers: dict[str, outcomes.Json] = {"silence": found.id, "until": found.ends_at.isoformat()}
    if plan.request.is_restoring:
        return world.passes(gate, f"{said} until {until}, but this gives back what automation took", **numbers)
    if world.is_automatic(plan):
        return world.refuses(gate, f"{said} until {until}", f"the end of the silence, {until}", **numbers)
    return world.passes(gate, f"{said} until {until}, but {plan.request.requested_by} asked", **numbers)


def _labels(plan: plans.Plan, context: world.Context) -> dict[str, str]:
    """Return the labels a silence is matched against: the alert's, and the target of the plan."""
    own = {"service": plan.request.service}
    if plan.request.node:
        own["node"] = plan.request.node
    return own if context.incident is None else {**context.incident.finding.labels, **own}


def _matching(silences: alerting.Silences, labels: Mapping[str, str]) -> alerting.Silence | None:
    """Return the matching silence that lasts longest."""
    found = [one for one in silences.active if all(_matches(matcher, labels) for matcher in one.matchers)]
    return max(found, key=lambda one: (one.ends_at, one.id), default=None)


def _matches(matcher: tuple[str, str, bool, bool], labels: Mapping[str, str]) -> bool:
    """Say whether one matcher matches, as Alertmanager does: a label that is absent is empty."""
    name, value, is_regex, is_equal = matcher
    text = labels.get(name, "")
    if not is_regex:
        return (text == value) is is_equal
    try:
        return expressions.matches(value, text) is is_equal
    except errors.InvalidInputError:
        return True  # a silence that nobody can read is taken to be meant for us


def _asks_first(plan: plans.Plan) -> bool:
    return bool(plan.steps) and plan.steps[0].kind is plans.StepKind.APPROVAL


def approval(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Refuse, at the moment of acting, what the people whom the plan asks have not agreed to."""
    gate = outcomes.Gate.APPROVAL
    asked = [step for step in plan.steps if step.kind is plans.StepKind.APPROVAL and step.decided is not False]
    if plan.request.mode is policies.Mode.APPROVE and world.is_automatic(plan) and not _asks_first(plan):
        said = f"policy {plan.request.policy} is in mode approve, and the plan asks nobody"
        return world.refuses(gate, said, "a plan that begins by asking")
    if not asked:
        return world.passes(gate, "nobody has to agree first")
    if not context.is_acting:
        number = sum(max(step.quorum, 1) for step in asked)
        return world.passes(gate, f"waits for {phrases.count(number, 'approval')} first", wanted=number)
    due = [step for step in plan.steps[: context.step + 1] if step in asked and step.name not in context.skipped]
    for step in due:
        if not (answer := _agreed(step, plan, context)).is_passed:
            return answer
    return _agreed(due[-1], plan, context) if due else world.passes(gate, "the plan asks people later")


def _agreed(step: plans.PlannedStep, plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Weigh the answers to one step: for this very plan, by others than who asked, not too old, no refusal among them."""
    gate, quorum = outcomes.Gate.APPROVAL, max(step.quorum, 1)
    answers = [one for one in context.approvals if one.step == step.name]
    against = next((one for one in answers if not one.is_approved), None)
    if against is not None:
        why = f": {against.reason}" if against.reason else ""
        return world.refuses(gate, f"{against.who} rejected step {step.name}{why}", "another request", quorum=quorum)
    lasts = _lasts_seconds(plan, context)
    wrong = {one.who: why for one in answers if (why := _is_void(one, plan, context, lasts))}
    agreed = sorted({one.who for one in answers} - set(wrong))
    by: list[outcomes.Json] = [*agreed]
    numbers: dict[str, outcomes.Json] = {"quorum": quorum, "approved_by": by, "plan_hash": plan.hash}
    if len(agreed) >= quorum:
        return world.passes(gate, f"{phrases.names(agreed)} approved step {step.name}", **numbers)
    said = f"{len(agreed)} of {phrases.count(quorum, 'approval')} for step {step.name}"
    void = "; ".join(f"that of {who} does not count: {why}" for who, why in sorted(wrong.items()))
    more = phrases.count(quorum - len(agreed), "more approval")
    return world.refuses(gate, f"{said}; {void}" if void else said, more, **numbers)


def _is_void(one: approvals.Approval, plan: plans.Plan, context: world.Context, lasts_seconds: float) -> str:
    """Return why an approval does not count, or nothing."""
    if one.plan_hash != plan.hash:
        return f"it is for plan {one.plan_hash}"
    if one.who == plan.request.requested_by:
        return "nobody approves the own request"
    if not context.has_acted and context.now - one.at > timedelta(seconds=lasts_seconds):
        return f"it was given {phrases.duration((context.now - one.at).total_seconds())} ago"
    return ""


def _lasts_seconds(plan: plans.Plan, context: world.Context) -> float:
    """Return how long an answer counts before the first effect: as long as the plan may have waited until here."""
    before = plan.steps[: context.step + 1]
    return sum(step.timeout_seconds for step in before if step.kind is not plans.StepKind.ACTION)
