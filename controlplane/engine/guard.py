"""The gates between a plan and its effects: one ordered list, asked when a plan is made and again before each effect.

Called by `dispatch` (planned) and `recheck` (acting); both read the world into a frozen `Context` first, so the same
context always gives the same answer, with the sentence and the numbers a person needs. It never reads, never
waits and never forgets the numbers. Pure functions.

Who is asked what: the kill switch, the mode and a silence stop automation (a request with a policy); a person may
pass them, and the answer says so. Unknown data stops automation always, and a person where the plan destroys or
takes nodes out of service. All other gates hold for everybody. A run that has acted already finishes what it
began: the gates that ask whether there is reason to begin (resolved, freshness) then pass.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from controlplane import expressions, phrases
from controlplane.domain import alerting, errors, outcomes, plans, policies, runs, services, windows
from controlplane.domain import incidents as inc
from controlplane.domain import signals as sig
from controlplane.engine import words

# The tick runs every 15 s; a view or a list of silences older than four of them says nothing about now.
MAX_VIEW_AGE_SECONDS = 60.0
MAX_SILENCES_AGE_SECONDS = 60.0
RATE_WINDOW_SECONDS = 3600.0
# No target is scraped so seldom that its newest reading is older than this and still counts as fresh.
RECENT_SECONDS = 300.0
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Ran:
    """A run that has ended or acted, with seconds since it last did; never negative, however the clock was set."""

    run: runs.Run
    seconds_ago: float


@dataclass(frozen=True, slots=True)
class Context:
    """Everything the gates may know, read at one instant.

    `unfinished` and `history` leave out the run being asked about; `recent` are runs of the service that ended lately,
    whatever their runbook. `is_reported` says whether some source still
    reports the incident. `has_acted` is true when that run already had an effect.
    """

    now: datetime
    service: services.Service
    view: windows.FleetView | None
    paused: Mapping[str, str] = field(default_factory=dict[str, str])
    incident: inc.Incident | None = None
    is_reported: bool = True
    silences: alerting.Silences | None = None
    unfinished: tuple[runs.Run, ...] = ()
    history: tuple[Ran, ...] = ()
    recent: tuple[runs.Run, ...] = ()
    has_acted: bool = False


def check(plan: plans.Plan, context: Context) -> outcomes.Allowed | outcomes.Denied:
    """Ask the gates in order and stop at the first refusal."""
    answers: list[outcomes.GateAnswer] = []
    for gate in _GATES:
        answer = gate(plan, context)
        answers.append(answer)
        if not answer.is_passed:
            return outcomes.Denied(answer.gate, answer.sentence, tuple(answers))
    return outcomes.Allowed(tuple(answers))


def _pass(gate: outcomes.Gate, sentence: str, **numbers: outcomes.Json) -> outcomes.GateAnswer:
    return outcomes.GateAnswer(gate, True, sentence, numbers)


def _deny(gate: outcomes.Gate, sentence: str, **numbers: outcomes.Json) -> outcomes.GateAnswer:
    return outcomes.GateAnswer(gate, False, sentence, numbers)


def _is_automatic(plan: plans.Plan) -> bool:
    return plan.request.policy is not None


def _is_risky(plan: plans.Plan) -> bool:
    """True when being wrong about the state of the fleet would cost data or capacity."""
    return plan.blast.is_destructive or bool(plan.blast.unavailable)


def _kill_switch(plan: plans.Plan, context: Context) -> outcomes.GateAnswer:
    gate = outcomes.Gate.KILL_SWITCH
    if not context.paused:
        return _pass(gate, "automation is not paused")
    holders = "; ".join(f"{who}: {reason or 'no reason given'}" for who, reason in sorted(context.paused.items()))
    held_by: list[outcomes.Json] = [*sorted(context.paused)]
    if _is_automatic(plan):
        return _deny(gate, f"automation is paused ({holders}); `dsctl automation resume` releases it", held_by=held_by)
    return _pass(gate, f"automation is paused ({holders}), but {plan.request.requested_by} asked", held_by=held_by)


def _mode(plan: plans.Plan, context: Context) -> outcomes.GateAnswer:  # noqa: ARG001 - every gate has one shape
    gate, request = outcomes.Gate.MODE, plan.request
    if not _is_automatic(plan):
        return _pass(gate, f"{request.requested_by} asked; modes bind policies only")
    if request.mode is policies.Mode.AUTO:
        return _pass(gate, f"policy {request.policy} is in mode auto", mode=request.mode.value)
    command = words.command(request.runbook, request.service, request.node, request.inputs)
    return _deny(gate, f"policy {request.policy} is in mode {request.mode}; run `{command}`", mode=request.mode.value)


def _resolved(plan: plans.Plan, context: Context) -> outcomes.GateAnswer:
    gate, incident = outcomes.Gate.RESOLVED, context.incident
    if incident is None:
        named = plan.request.incident_id
        return _deny(gate, f"incident {named} is not known") if named else _pass(gate, "no incident is named")
    if context.has_acted:
        return _pass(gate, "the run has acted and finishes what it began")
    if incident.is_final:
        return _deny(gate, f"incident {incident.id} is closed; nothing is left to act on")
    if plan.request.is_follow_up or plan.request.is_restoring:
        return _pass(gate, "it ends what earlier runs of the incident began, whoever reports what meanwhile")
    if context.is_reported:
        return _pass(gate, f"reported by {', '.join(incident.sources)}")
    return _deny(gate, f"no source reports incident {incident.id} any more ({', '.join(incident.sources)})")


def _freshness(plan: plans.Plan, context: Context) -> outcomes.GateAnswer:
    gate = outcomes.Gate.FRESHNESS
    unknown, numbers = _what_is_unknown(plan, context)
    if not unknown:
        return _pass(gate, f"the signals of {plan.target} are known", **numbers)
    if context.has_acted:
        return _pass(gate, f"{unknown}, but the run has acted and finishes what it began", **numbers)
    if _is_automatic(plan):
        return _deny(gate, f"{unknown}; automation never acts on unknown data", **numbers)
    if _is_risky(plan):
        what = "destroys data" if plan.blast.is_destructive else "takes nodes out of service"
        return _deny(gate, f"{unknown}; {plan.request.runbook} {what}, so nobody may run it on unknown data", **numbers)
    return _pass(gate, f"{unknown}, but {plan.request.requested_by} asked and nothing is destroyed", **numbers)


def _what_is_unknown(plan: plans.Plan, context: Context) -> tuple[str, dict[str, outcomes.Json]]:
    """Return why the target's state is not known, or nothing, and the numbers behind it."""
    if context.view is None:
        return "the metrics store did not answer", {}
    age = (context.now - context.view.at).total_seconds()
    numbers: dict[str, outcomes.Json] = {"view_age_seconds": round(age, 3), "max_age_seconds": MAX_VIEW_AGE_SECONDS}
    if age > MAX_VIEW_AGE_SECONDS:
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


def _signals_asked(plan: plans.Plan, context: Context) -> Mapping[str, _Excused]:
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


def _silence(plan: plans.Plan, context: Context) -> outcomes.GateAnswer:
    gate, silences = outcomes.Gate.SILENCE, context.silences
    age = None if silences is None else (context.now - silences.read_at).total_seconds()
    if silences is None or age is None or age > MAX_SILENCES_AGE_SECONDS:
        how = "were never read" if age is None else f"were last read {phrases.duration(age)} ago"
        if _is_risky(plan):
            return _deny(gate, f"the silences {how}, so whether this is maintenance is unknown", age_seconds=age)
        return _pass(gate, f"the silences {how}; nothing is destroyed, so this passes", age_seconds=age)
    found = _matching(silences, _labels(plan, context))
    if found is None:
        return _pass(gate, "no silence matches", age_seconds=age, silences=len(silences.active))
    if found.ends_at <= context.now:
        return _pass(gate, f"silence {found.id} has ended", age_seconds=age)
    said = f"silence {found.id} by {found.created_by or 'somebody'} ({found.comment or 'no comment'}) matches"
    until = found.ends_at.strftime("%Y-%m-%d %H:%M UTC")
    if _is_automatic(plan):
        return _deny(gate, f"{said} until {until}", silence=found.id, until=found.ends_at.isoformat())
    return _pass(gate, f"{said} until {until}, but {plan.request.requested_by} asked", silence=found.id)


def _labels(plan: plans.Plan, context: Context) -> dict[str, str]:
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


def _in_flight(plan: plans.Plan, context: Context) -> outcomes.GateAnswer:
    gate = outcomes.Gate.IN_FLIGHT
    other = next((run for run in context.unfinished if overlaps(run.plan, plan)), None)
    if other is None:
        return _pass(gate, f"no other run is in flight on {plan.target}")
    said = f"run {other.id} ({other.plan.request.runbook} on {other.plan.target}) is {other.state}"
    return _deny(gate, f"{said}; wait for its end, or cancel it", run=other.id, state=other.state.value)


def overlaps(one: plans.Plan, other: plans.Plan) -> bool:
    """Say whether two plans of one lane touch the same thing: a service contains its nodes."""
    if one.lane is not other.lane or one.request.service != other.request.service:
        return False
    return not one.request.node or not other.request.node or one.request.node == other.request.node


def _cooldown(plan: plans.Plan, context: Context) -> outcomes.GateAnswer:
    gate, cooldown = outcomes.Gate.COOLDOWN, plan.request.limits.cooldown_seconds
    newest = min(
        (ran for ran in context.history if _is_same_deed(ran.run, plan)), key=lambda ran: ran.seconds_ago, default=None
    )
    if newest is None:
        return _pass(gate, f"{plan.request.runbook} has not acted on {plan.target} lately", cooldown_seconds=cooldown)
    ago = phrases.duration(newest.seconds_ago)
    said = f"{plan.request.runbook} acted on {plan.target} {ago} ago (run {newest.run.id})"
    numbers: dict[str, outcomes.Json] = {
        "seconds_ago": round(newest.seconds_ago, 3),
        "cooldown_seconds": cooldown,
        "run": newest.run.id,
    }
    if newest.seconds_ago >= cooldown:
        return _pass(gate, f"{said}, cooldown {phrases.duration(cooldown)} is over", **numbers)
    left = phrases.duration(cooldown - newest.seconds_ago)
    return _deny(gate, f"{said}, cooldown {phrases.duration(cooldown)}; {left} left", **numbers)


def _is_same_deed(run: runs.Run, plan: plans.Plan) -> bool:
    """Say whether `run` had the effect that `plan` would repeat; a run that never acted cools nothing."""
    is_same = run.plan.request.runbook == plan.request.runbook and run.plan.target == plan.target
    return is_same and run.acted_at is not None


def _rate_limit(plan: plans.Plan, context: Context) -> outcomes.GateAnswer:
    gate, request = outcomes.Gate.RATE_LIMIT, plan.request
    recent = {ran.run.id for ran in context.history if ran.seconds_ago < RATE_WINDOW_SECONDS and _counts(ran.run, plan)}
    recent.update(run.id for run in context.unfinished if _counts(run, plan))
    who = f"policy {request.policy}" if request.policy else "people"
    said = f"{who} ran {request.runbook} {phrases.count(len(recent), 'time')} in the last hour"
    numbers: dict[str, outcomes.Json] = {"runs": len(recent), "max_per_hour": request.limits.max_per_hour}
    if len(recent) < request.limits.max_per_hour:
        return _pass(gate, f"{said}, at most {request.limits.max_per_hour}", **numbers)
    return _deny(gate, f"{said}, the limit is {request.limits.max_per_hour}", **numbers)


def _counts(run: runs.Run, plan: plans.Plan) -> bool:
    """Say whether `run` draws on the same hourly budget: of the policy, or of people on this service."""
    one, other = run.plan.request, plan.request
    if one.runbook != other.runbook or one.policy != other.policy:
        return False
    return one.policy is not None or one.service == other.service


def allowed_unavailable(limit: policies.MaxUnavailable, units: int) -> int:
    """Return how many of `units` serving units may be unavailable at once.

    >>> allowed_unavailable(policies.MaxUnavailable(percent=10, nodes=3), 25)
    2
    """
    return min(limit.nodes, max(1, math.floor(limit.percent * units / 100)))


def _blast_radius(plan: plans.Plan, context: Context) -> outcomes.GateAnswer:
    gate = outcomes.Gate.BLAST_RADIUS
    if not plan.blast.unavailable:
        return _pass(gate, "takes no node out of service", touched=len(plan.blast.touched))
    view = None if context.view is None else context.view.services.get(plan.request.service)
    if view is None:
        return _deny(gate, f"which nodes of {plan.request.service} serve is unknown, so none may be taken out")
    fleet = _count(plan, context, view)
    if not fleet.newly_out:
        return _pass(gate, "the nodes it takes out are out already", **fleet.numbers)
    if len(fleet.out) > fleet.allowed:
        names = ", ".join(sorted(fleet.out))
        said = f"{phrases.count(len(fleet.out), 'node')} of {fleet.units} would be unavailable ({names})"
        return _deny(gate, f"{said}, at most {fleet.allowed} may be", **fleet.numbers)
    if fleet.units - len(fleet.out) < fleet.min_ready:
        left = phrases.count(fleet.units - len(fleet.out), "node")
        return _deny(gate, f"{left} would stay ready, the pools need {fleet.min_ready}", **fleet.numbers)
    said = f"{len(fleet.out)} of {phrases.count(fleet.units, 'node')} would be unavailable"
    return _pass(gate, f"{said}, at most {fleet.allowed} may be", **fleet.numbers)


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
        }


def _count(plan: plans.Plan, context: Context, view: windows.ServiceView) -> _Count:
    """Count nodes: those not known to serve, those other runs take out, and those this plan takes out.

    Whoever took a node out (a crash, a person, an earlier run, its gateway) makes no difference. A node known to be
    out is not made worse by its repair; one whose state is unknown may well be serving. What a run took out counts as out
    until it was scraped anew: a reading from before an effect says nothing about it.
    """
    planned = frozenset(plan.blast.unavailable)
    not_serving = frozenset(name for name, node in view.nodes.items() if not node.is_serving) | _unseen(context, view)
    known_out = frozenset(name for name, node in view.nodes.items() if node.is_out)
    elsewhere = frozenset(
        name
        for run in context.unfinished
        if run.plan.request.service == plan.request.service
        for name in run.plan.blast.unavailable
    )
    units = len(frozenset(view.nodes) | planned | elsewhere)
    return _Count(
        units=units,
        out=not_serving | elsewhere | planned,
        newly_out=planned - known_out,
        allowed=allowed_unavailable(plan.request.limits.max_unavailable, units),
        min_ready=context.service.min_ready,
    )


def _unseen(context: Context, view: windows.ServiceView) -> frozenset[str]:
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


# The order of `outcomes.Gate`: cheap and final questions first, so that a refusal names the plainest reason.
_GATES: tuple[Callable[[plans.Plan, Context], outcomes.GateAnswer], ...] = (
    _kill_switch,
    _mode,
    _resolved,
    _freshness,
    _silence,
    _in_flight,
    _cooldown,
    _rate_limit,
    _blast_radius,
)
