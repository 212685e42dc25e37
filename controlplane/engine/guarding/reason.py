"""Gates that ask whether there is reason to act, and whether that is known: resolved, freshness.

Called by `guard` in its order. A run that has acted passes both: its own effect makes alerts resolve and readings stale,
and stopping half-way would be worse. Pure functions.
"""

from collections.abc import Mapping

from controlplane import phrases
from controlplane.domain import outcomes, plans, windows
from controlplane.domain import signals as sig
from controlplane.engine import words
from controlplane.engine.guarding import world


def resolved(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Refuse when no source reports the incident any more."""
    gate, incident = outcomes.Gate.RESOLVED, context.incident
    if incident is None:
        return _without_incident(plan)
    if context.has_acted:
        return world.passes(gate, "the run has acted and finishes what it began")
    if incident.is_final:
        said = f"incident {incident.id} is closed; nothing is left to act on"
        return world.refuses(gate, said, "the trouble coming back, as an incident of its own")
    if plan.request.is_follow_up or plan.request.is_restoring:
        return world.passes(gate, "it ends what earlier runs of the incident began, whoever reports what meanwhile")
    if context.is_reported:
        return world.passes(gate, f"reported by {', '.join(incident.sources)}")
    said = f"no source reports incident {incident.id} any more ({', '.join(incident.sources)})"
    return world.refuses(gate, said, "a source reporting it again")


def _without_incident(plan: plans.Plan) -> outcomes.GateAnswer:
    gate, named = outcomes.Gate.RESOLVED, plan.request.incident_id
    if named:
        return world.refuses(gate, f"incident {named} is not known", "an incident that is there")
    return world.passes(gate, "no incident is named")


def freshness(plan: plans.Plan, context: world.Context) -> outcomes.GateAnswer:
    """Refuse to act on unknown data: automation always, a person where data or capacity would be lost."""
    gate = outcomes.Gate.FRESHNESS
    unknown, numbers = _what_is_unknown(plan, context)
    if not unknown:
        return world.passes(gate, f"the signals of {plan.target} are known", **numbers)
    if context.has_acted:
        return world.passes(gate, f"{unknown}, but the run has acted and finishes what it began", **numbers)
    hint = "the signals being known again; `dsctl doctor` names what is missing"
    if world.is_automatic(plan):
        return world.refuses(gate, f"{unknown}; automation never acts on unknown data", hint, **numbers)
    if world.is_risky(plan):
        what = "destroys data" if plan.blast.is_destructive else "takes nodes out of service"
        said = f"{unknown}; {plan.request.runbook} {what}, so nobody may run it on unknown data"
        return world.refuses(gate, said, hint, **numbers)
    return world.passes(gate, f"{unknown}, but {plan.request.requested_by} asked and nothing is destroyed", **numbers)


def _what_is_unknown(plan: plans.Plan, context: world.Context) -> tuple[str, dict[str, outcomes.Json]]:
    """Return why the target's state is not known, or nothing, and the numbers behind it."""
    if context.view is None:
        return "the metrics store did not answer", {}
    age = (context.now - context.view.at).total_seconds()
    numbers: dict[str, outcomes.Json] = {
        "view_age_seconds": round(age, 3),
        "max_age_seconds": world.MAX_VIEW_AGE_SECONDS,
    }
    if age > world.MAX_VIEW_AGE_SECONDS:
        return f"the newest view of the fleet is {phrases.duration(age)} old", numbers
    view = context.view.services.get(plan.request.service)
    if view is None:
        return f"service {plan.request.service} is not in the fleet view", numbers
    asked = _signals_asked(plan, context)
    if plan.request.node:
        return _node_unknown(view, plan.request.node, asked), numbers
    return _first_unknown(plan.request.service, view.signals, asked), numbers


_Excused = frozenset[sig.UnknownReason]
# An engine without a metric is not unknown for ever.
_FOR_THE_FINDING: _Excused = frozenset({sig.UnknownReason.NOT_IN_PROFILE})
# A ratio over no requests is no blindness: its source answered, and nobody else was answered. A hanging node looks so.
_FOR_THE_VERDICT: _Excused = _FOR_THE_FINDING | {sig.UnknownReason.NOT_FINITE}


def _signals_asked(plan: plans.Plan, context: world.Context) -> Mapping[str, _Excused]:
    """Return the signals that will judge the plan and the one that justifies it, with the gaps that are excused."""
    verify = () if plan.verify is None else plan.verify.signals
    finding = () if context.incident is None else (context.incident.finding.signal,)
    return {**dict.fromkeys(sorted(verify), _FOR_THE_VERDICT), **dict.fromkeys(finding, _FOR_THE_FINDING)}


def _node_unknown(view: windows.ServiceView, name: str, asked: Mapping[str, _Excused]) -> str:
    node = view.nodes.get(name)
    if node is None:
        return f"{words.target(view.service, name)} is not in the fleet view"
    if isinstance(node.is_up, sig.Unknown):
        return f"whether {name} is up is unknown: {node.is_up}"
    # A node known to be down or out of rotation has no readings of its traffic, and that is knowledge enough.
    return "" if node.is_out else _first_unknown(name, node.signals, asked)


def _first_unknown(target: str, readings: Mapping[str, sig.Reading], asked: Mapping[str, _Excused]) -> str:
    for signal, excused in asked.items():
        reading = readings.get(signal)
        if isinstance(reading, sig.Unknown) and reading.reason not in excused:
            return f"{signal} of {target} is unknown: {reading}"
    return ""
