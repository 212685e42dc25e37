"""The later rooms of a tick, for one incident: follow its run, or decide, ask the guard, submit, or tell people.

Called by the tick, one incident after the other. Every way through ends with the sentence an operator reads.
Concurrency: async, under the tick's lock. Memory (since when a policy matches, whom was told when) is a matter of
pace only: after a restart holds start again and people are told once more.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from controlplane import expressions
from controlplane.domain import (
    capacity,
    errors,
    ids,
    outcomes,
    plans,
    policies,
    ports,
    remediation,
    runs,
    services,
    windows,
)
from controlplane.domain import incidents as inc
from controlplane.engine import autonomy, climb, correlate, decide, facts, follow, words

_FOLLOWED = frozenset({inc.IncidentState.ACTING, inc.IncidentState.VERIFYING})
# Whom escalations go to when the runbook names nobody.
_DEFAULT_RECEIVER = "oncall"


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the loop is, in seconds.

    `quiet_seconds`: how long all sources must be quiet before an incident ends by itself. `grace_seconds`: how long
    alerts may take to resolve after a verified recovery. `tell_seconds`: how often an escalation is repeated, which
    keeps it firing in Alertmanager.
    """

    quiet_seconds: float = 60.0
    grace_seconds: float = 300.0
    tell_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Hands:
    """The ports an incident is handled through."""

    incidents: ports.IncidentStore
    runs: ports.RunStore
    decisions: ports.DecisionStore
    remediator: remediation.Remediator
    notifier: ports.Notifier
    conditions: ports.Conditions
    services: Mapping[str, services.Service]
    policies: Sequence[policies.Policy]
    climber: climb.Climber
    reviewer: autonomy.Autonomy | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """What this tick knows beside the incident itself; `newest` is the newest run of each incident that has any."""

    now: datetime
    view: windows.FleetView | None
    correlated: correlate.Correlated
    unfinished: Sequence[runs.Run]
    newest: Mapping[str, runs.Run]
    outlooks: Mapping[str, capacity.Outlook] = field(default_factory=dict[str, capacity.Outlook])
    offered: Sequence[policies.Policy] = ()
    _runs_of: Mapping[str, Sequence[runs.Run]] = field(init=False)
    _scopes: Mapping[tuple[str, bool], Sequence[inc.Incident]] = field(init=False)

    def __post_init__(self) -> None:
        """Sort what each incident asks for, so that thousands of them do not each look through all."""
        runs_of: dict[str, list[runs.Run]] = {}
        for run in self.unfinished:
            runs_of.setdefault(run.plan.request.service, []).append(run)
        object.__setattr__(self, "_runs_of", runs_of)
        object.__setattr__(self, "_scopes", correlate.by_scope(self.correlated.incidents))

    def in_flight(self, key: inc.IncidentKey) -> Sequence[runs.Run]:
        """Return the unfinished runs on the target of an incident."""
        return [run for run in self._runs_of.get(key.service, ()) if _is_on(run, key)]

    def cause_of(self, incident: inc.Incident) -> inc.Incident | None:
        """Return the incident that probably explains this one: of the other scope of its service."""
        scope = (incident.key.service, not incident.key.node)
        return correlate.cause_of(incident, self._scopes.get(scope, ()))


@dataclass(frozen=True, slots=True)
class Handled:
    """The sentence of one incident, and what went wrong while handling it (empty when nothing did)."""

    sentence: str
    problem: str = ""


async def read_offered(hands: Hands) -> Sequence[policies.Policy]:
    """Return the policies as they may act in this tick: never further than their record allows."""
    return hands.policies if hands.reviewer is None else await hands.reviewer.review()


class Handler:
    """Handles incidents, and remembers what the pace of the loop needs."""

    def __init__(self, hands: Hands, pace: Pace, clock: ports.Clock) -> None:
        self._hands = hands
        self._pace = pace
        self._clock = clock
        self._true_since: dict[str, tuple[str, float]] = {}
        self._told_at: dict[str, float] = {}
        self._topics: dict[str, str] = {}

    def forget_all_but(self, incident_ids: Collection[str]) -> None:
        """Drop what is remembered about incidents that are closed."""
        self._hands.climber.forget_all_but(incident_ids)
        for memory in (self._true_since, self._told_at, self._topics):
            for gone in set(memory) - set(incident_ids):
                memory.pop(gone)

    async def handle(self, incident: inc.Incident, moment: Moment) -> Handled:
        """Take one incident one step further, and say so."""
        run = moment.newest.get(incident.id) or await self._own_run(incident)
        if run is not None and run.id != incident.run_id:
            incident = follow.adopt(incident, run.id, moment.now)
            await self._hands.incidents.save(incident, f"followed from here on: run {run.id}, {run.state}")
        if run is not None and incident.state in _FOLLOWED:
            policy = _policy_of(run, moment)
            if run.state is outcomes.RunState.SUCCEEDED and policy is not None and policy.ladder is not None:
                return await self._climb(incident, policy, moment)
            return await self._follow(incident, run, moment)
        if waiting := moment.correlated.held.get(incident.id):
            self._true_since.pop(incident.id, None)
            return Handled(waiting, problem=await self._keep_telling(incident, run))
        if incident.state is inc.IncidentState.ESCALATED:
            return await self._tell(incident, run, incident.sentence)
        if cause := moment.cause_of(incident):
            return await self._symptom(incident, cause)
        return await self._decide(incident, moment)

    async def _own_run(self, incident: inc.Incident) -> runs.Run | None:
        """Return the run the incident names; raises NotFoundError when that is gone."""
        return None if incident.run_id is None else await self._hands.runs.get(incident.run_id)

    async def _follow(self, incident: inc.Incident, run: runs.Run, moment: Moment) -> Handled:
        self._true_since.pop(incident.id, None)  # nobody asks the policy meanwhile
        run = await self._take_back(incident, run, moment)
        policy = _policy_of(run, moment)
        followed = follow.follow(
            incident,
            run,
            now=moment.now,
            is_reported=incident.id in moment.correlated.reported,
            grace_seconds=self._pace.grace_seconds,
            was_denied=await self._was_denied(run),
            repeats=policy is not None and policy.repeats,
        )
        if followed.note:
            await self._hands.incidents.save(followed.incident, followed.note)
        if followed.incident.state is inc.IncidentState.ESCALATED:
            return await self._tell(followed.incident, run, followed.sentence)
        return Handled(followed.sentence)

    async def _take_back(self, incident: inc.Incident, run: runs.Run, moment: Moment) -> runs.Run:
        """Cancel a run that still asks people about trouble that is over, and return the run as it is then."""
        if not follow.is_moot(incident, run, moment.now, quiet_seconds=self._pace.quiet_seconds):
            return run
        why = f"no source reports incident {incident.id} any more ({', '.join(incident.sources)})"
        is_over = await self._hands.remediator.withdraw(run.id, why)
        return await self._hands.runs.get(run.id) if is_over else run

    async def _was_denied(self, run: runs.Run) -> bool:
        """Say whether the guard stopped the run; only asked where it matters."""
        if run.state is not outcomes.RunState.CANCELLED:
            return False
        events = await self._hands.runs.events(run.id)
        return any(event.kind is runs.RunEventKind.GUARD_DENIED for event in events)

    async def _symptom(self, incident: inc.Incident, cause: inc.Incident) -> Handled:
        target = words.target(cause.key.service, cause.key.node)
        sentence = (
            f"held: probable cause is {cause.key.fault} on {target} ({cause.id}, {cause.state}); "
            "acted on there, not twice"
        )
        self._true_since.pop(incident.id, None)
        return await self._hold(incident, f"symptom of {cause.id}", sentence)

    async def _decide(self, incident: inc.Incident, moment: Moment) -> Handled:
        situation = self._situation(incident, moment)
        policy = decide.match(situation, moment.offered, self._hands.conditions)
        if isinstance(policy, outcomes.Hold):
            self._true_since.pop(incident.id, None)
            return await self._hold(incident, policy.reason.value, policy.sentence)
        if policy.ladder is not None:
            return await self._climb(incident, policy, moment)
        answer = decide.propose(situation, policy, true_for_seconds=self._true_for(incident, policy))
        if isinstance(answer, plans.PlanRequest):
            return await self._ask(incident, answer, moment)
        if answer.reason is outcomes.HoldReason.ATTEMPTS_SPENT:
            return await self._escalate(incident, answer.sentence, moment)
        return await self._hold(incident, f"{policy.name}: {answer.reason.value}", answer.sentence, policy)

    async def _climb(self, incident: inc.Incident, policy: policies.Policy, moment: Moment) -> Handled:
        """Keep the rung, change it by one, or close the incident once full service is back and all are quiet."""
        service, situation = self._hands.services[incident.key.service], self._situation(incident, moment)
        climbed = await self._hands.climber.climb(incident, policy, service, moment.view, situation.variables)
        if climbed.request is not None:
            asked = await self._ask(incident, climbed.request, moment)
            return dataclasses.replace(asked, problem=asked.problem or climbed.problem)
        rung = climbed.standing.rung if climbed.standing else None
        if rung == 0 and incident.run_id is not None and incident.quiet_since is not None:
            return await self._recovered(incident, climbed, moment)
        if rung and incident.state is inc.IncidentState.OPEN and incident.run_id is not None:
            incident = dataclasses.replace(incident, state=inc.IncidentState.VERIFYING, updated_at=moment.now)
            await self._hands.incidents.save(incident, climbed.sentence)
        await self._hold(incident, f"{policy.name}: {climbed.topic}", climbed.sentence, policy)
        return Handled(climbed.sentence, climbed.problem)

    async def _recovered(self, incident: inc.Incident, climbed: climb.Climbed, moment: Moment) -> Handled:
        said = f"closed: full service again on {_target(incident)}; {climbed.sentence.removeprefix('held: ')}"
        closed = dataclasses.replace(
            incident,
            state=inc.IncidentState.CLOSED,
            verdict=outcomes.Verdict.RECOVERED,
            sentence=said,
            updated_at=moment.now,
            closed_at=moment.now,
        )
        await self._hands.incidents.save(closed, said)
        return Handled(said)

    def _situation(self, incident: inc.Incident, moment: Moment) -> decide.Situation:
        key = incident.key
        variables = decide.variables(
            incident,
            expressions.service_variables(self._hands.services[key.service]),
            facts.readers(moment.view, key.service, key.node, moment.now),
            age_seconds=max(0.0, (moment.now - incident.opened_at).total_seconds()),
            planned=None if (outlook := moment.outlooks.get(key.service)) is None else outlook.plan,
        )
        return decide.Situation(incident, variables, moment.in_flight(key))

    def _true_for(self, incident: inc.Incident, policy: policies.Policy) -> float:
        """Return for how long this policy has matched this incident without a break."""
        now = self._clock.monotonic()
        name, since = self._true_since.get(incident.id, ("", now))
        if name != policy.name:
            self._true_since[incident.id] = (policy.name, now)
            return 0.0
        return now - since

    async def _ask(self, incident: inc.Incident, request: plans.PlanRequest, moment: Moment) -> Handled:
        """Ask for the runbook; a refusal or a plan that cannot be drafted holds the incident until the next tick."""
        try:
            answer = await self._hands.remediator.remediate(request)
        except errors.DsctlError as error:
            said = f"held: {request.runbook} cannot be run on {_target(incident)}: {error}"
            return await self._hold(incident, f"{request.policy}: {type(error).__name__}", said)
        if isinstance(answer, remediation.Refused):
            if answer.guard.gate is outcomes.Gate.ATTEMPTS:
                return await self._escalate(incident, answer.guard.sentence, moment)
            said = f"held: {answer.guard.sentence}"
            await self._note(incident, f"{request.policy}: {answer.guard.gate}", said)
            # An open breaker waits for a person, and so does the incident; reset, it is tried again by itself.
            is_open = answer.guard.gate is outcomes.Gate.BREAKER
            return await self._tell(incident, None, said) if is_open else Handled(said)
        said = f"{_begins(answer)}: {request.runbook} on {_target(incident)} as run {answer.run_id}; {request.reason}"
        adopted = follow.adopt(incident, answer.run_id, moment.now)
        await self._hands.incidents.save(dataclasses.replace(adopted, sentence=said), said)
        return Handled(said)

    async def _escalate(self, incident: inc.Incident, why: str, moment: Moment) -> Handled:
        said = f"escalated: {why}"
        after = dataclasses.replace(incident, state=inc.IncidentState.ESCALATED, sentence=said, updated_at=moment.now)
        await self._hands.incidents.save(after, said)
        run = moment.newest.get(after.id) or await self._own_run(after)
        return await self._tell(after, run, said)

    async def _tell(self, incident: inc.Incident, run: runs.Run | None, sentence: str) -> Handled:
        """Tell people, and again while nothing changes: Alertmanager forgets what is not repeated."""
        last = self._told_at.get(incident.id)
        if last is not None and self._clock.monotonic() - last < self._pace.tell_seconds:
            return Handled(sentence)
        key = incident.key
        try:
            await self._hands.notifier.escalate(incident.id, key.service, key.node, _receiver(run), sentence)
        except errors.DsctlError as error:
            failed = f"nobody could be told of incident {incident.id}: {error}; the next tick tries again"
            return Handled(f"{sentence}; {failed}", problem=failed)
        self._told_at[incident.id] = self._clock.monotonic()
        return Handled(sentence)

    async def _keep_telling(self, incident: inc.Incident, run: runs.Run | None) -> str:
        """Go on telling people of what nobody reports while it is unknown rather than quiet; return what went wrong."""
        if incident.state is not inc.IncidentState.ESCALATED or incident.quiet_since is not None:
            return ""
        return (await self._tell(incident, run, incident.sentence)).problem

    async def _hold(
        self, incident: inc.Incident, topic: str, sentence: str, policy: policies.Policy | None = None
    ) -> Handled:
        """Keep a refusal of decide, once per topic: its numbers change every tick, its reason does not."""
        if not await self._note(incident, topic, sentence):
            return Handled(sentence)
        now = self._clock.now()
        decision = outcomes.Decision(
            id=ids.new_id(ids.IdKind.DECISION, now),
            at=now,
            service=incident.key.service,
            target=_target(incident),
            runbook=policy.runbook if policy else "",
            outcome="held",
            sentence=sentence,
            incident_id=incident.id,
            policy=policy.name if policy else None,
        )
        await self._hands.decisions.record(decision)
        return Handled(sentence)

    async def _note(self, incident: inc.Incident, topic: str, sentence: str) -> bool:
        """Put the sentence on the incident's timeline when it is about something new; say whether it was."""
        if self._topics.get(incident.id) == topic or incident.sentence == sentence:
            return False
        await self._hands.incidents.save(dataclasses.replace(incident, sentence=sentence), sentence)
        self._topics[incident.id] = topic
        return True


def _is_on(run: runs.Run, key: inc.IncidentKey) -> bool:
    """Say whether a run works on the incident's target: a service contains its nodes."""
    request = run.plan.request
    return request.service == key.service and (not request.node or not key.node or request.node == key.node)


def _policy_of(run: runs.Run, moment: Moment) -> policies.Policy | None:
    """Return the policy that asked for the run; None when a person did, or when it is not in force any more."""
    name = run.plan.request.policy
    return next((one for one in moment.offered if one.name == name), None)


def _target(incident: inc.Incident) -> str:
    return words.target(incident.key.service, incident.key.node)


def _begins(answer: remediation.Submitted) -> str:
    """Return how a run begins: by asking people, with the command that answers, or by acting."""
    if answer.plan.steps[0].kind is plans.StepKind.APPROVAL:
        return f"waits for approval (`{words.approval(answer.run_id)}`)"
    return "acting"


def _receiver(run: runs.Run | None) -> str:
    """Return whom the runbook names for escalations."""
    edges = () if run is None else run.plan.edges_at(run.step)
    named = [edge.argument for edge in edges if edge.kind is plans.EdgeKind.ESCALATE]
    return named[0] if named else _DEFAULT_RECEIVER
