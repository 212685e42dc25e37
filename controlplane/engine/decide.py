"""Chooses what to ask for: the first policy that matches an incident, and the request it stands for.

Called by the tick for each incident that some source reports now. It proposes; whether the proposal may act is the
guard's to say. Anything it cannot evaluate holds: a condition that is not true or false is neither. Pure
functions.

Policies are asked in the order of their files and the first match decides. A condition that cannot be told stops
the search: the policies behind it were written for what its author thought it would catch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controlplane import expressions, phrases
from controlplane.domain import capacity, errors, outcomes, plans, policies, ports, runs
from controlplane.domain import incidents as inc
from controlplane.engine import words


@dataclass(frozen=True, slots=True)
class Situation:
    """What decide knows about one incident: the CEL variables, the runs in flight on its target."""

    incident: inc.Incident
    variables: Mapping[str, object]
    unfinished: Sequence[runs.Run] = ()


def variables(
    incident: inc.Incident,
    service: Mapping[str, object],
    readers: Mapping[str, object],
    *,
    age_seconds: float,
    planned: capacity.CapacityPlan | capacity.NoPlan | None = None,
) -> dict[str, object]:
    """Return the CEL variables of an incident; `readers` are the functions `signal`, `ready_nodes`, `now`.

    `planned` is the capacity plan of its service; what it does not say is unknown to expressions.
    """
    finding = incident.finding
    return {
        "finding": {
            "kind": finding.kind.value,
            "service": finding.service,
            "node": finding.node,
            "target": words.target(finding.service, finding.node),
            "signal": finding.signal,
            "severity": finding.severity.value,
            "source": finding.source,
            "score": finding.score,
            "observed": finding.observed,
            "expected": finding.expected,
            "labels": dict(finding.labels),
        },
        "incident": {
            "id": incident.id,
            "severity": incident.severity.value,
            "age": age_seconds,
            "attempts": incident.attempts,
        },
        "service": service,
        **_of_plan(planned),
        **readers,
    }


def _of_plan(planned: capacity.CapacityPlan | capacity.NoPlan | None) -> dict[str, object]:
    if not isinstance(planned, capacity.CapacityPlan):
        return {}
    said = {
        "desired_replicas": planned.desired,
        "present_replicas": planned.present,
        "ready_replicas": planned.ready,
        "unmet_replicas": planned.unmet,
        "reactive_replicas": planned.reactive,
        "is_predicted": planned.is_predicted,
        "demand_rps": planned.demand_rps,
    }
    predicted = {} if planned.predicted is None else {"predicted_replicas": planned.predicted}
    return {"plan": {**said, **predicted}}


def match(
    situation: Situation, offered: Sequence[policies.Policy], conditions: ports.Conditions
) -> policies.Policy | outcomes.Hold:
    """Return the policy that answers this incident, or why none does."""
    incident = situation.incident
    if incident.state is inc.IncidentState.ESCALATED:
        return outcomes.Hold(outcomes.HoldReason.ESCALATED, f"held: handed to a person; {incident.sentence}")
    for policy in offered:
        if incident.key.service not in policy.services:
            continue
        try:
            if conditions.is_true(policy.when, situation.variables):
                return _in_flight(situation, policy) or policy
        except errors.InvalidInputError as error:
            said = f"held: the condition of policy {policy.name} is neither true nor false: {error}"
            return outcomes.Hold(outcomes.HoldReason.NOT_A_BOOL, said)
    said = f"held: no policy answers {incident.key.fault} on {_target(incident)}; a person has to look"
    return outcomes.Hold(outcomes.HoldReason.NO_POLICY, said)


def _in_flight(situation: Situation, policy: policies.Policy) -> outcomes.Hold | None:
    """Return why the policy has to wait: a run of its lane works on the target."""
    run = next((one for one in situation.unfinished if one.plan.lane is policy.lane), None)
    if run is None:
        return None
    said = f"run {run.id} ({run.plan.request.runbook} on {run.plan.target}) is {run.state}"
    return outcomes.Hold(outcomes.HoldReason.RUN_IN_FLIGHT, f"held: {said}")


def propose(
    situation: Situation, policy: policies.Policy, *, true_for_seconds: float
) -> plans.PlanRequest | outcomes.Hold:
    """Return the request `policy` makes for this incident, or why it makes none now.

    `true_for_seconds` is how long its condition has been true without a break.
    """
    incident = situation.incident
    if not 0 <= incident.attempts < policy.guard.max_attempts:
        return _spent(incident, policy)
    if true_for_seconds < policy.hold_seconds:
        return _holding(policy, true_for_seconds)
    try:
        resolved = expressions.resolve(dict(policy.inputs), situation.variables)
    except errors.InvalidInputError as error:
        said = f"held: the inputs of policy {policy.name} cannot be resolved: {error}"
        return outcomes.Hold(outcomes.HoldReason.INVALID_PLAN, said)
    inputs = resolved if isinstance(resolved, dict) else {}
    if policy.mode in (policies.Mode.OBSERVE, policies.Mode.SUGGEST):
        return _advice(incident, policy, inputs)
    return _request(incident, policy, inputs)


def dedup_key(policy: policies.Policy, incident: inc.Incident) -> str:
    """Return the key under which one attempt of one policy at one incident is stored at most once."""
    return f"{policy.name}:{incident.id}:{incident.attempts}"


def _request(incident: inc.Incident, policy: policies.Policy, inputs: Mapping[str, outcomes.Json]) -> plans.PlanRequest:
    return plans.PlanRequest(
        runbook=policy.runbook,
        service=incident.key.service,
        node=incident.key.node,
        requested_by=f"policy:{policy.name}",
        reason=words.with_demotion(words.trouble(incident.finding), policy),
        inputs=inputs,
        incident_id=incident.id,
        policy=policy.name,
        mode=policy.mode,
        limits=policy.guard,
        dedup_key=dedup_key(policy, incident),
        approval=policy.approval if policy.mode is policies.Mode.APPROVE else None,
    )


def _spent(incident: inc.Incident, policy: policies.Policy) -> outcomes.Hold:
    if incident.attempts < 0:
        said = f"{incident.attempts} attempts are stored for incident {incident.id}, which cannot be; it is not tried again"
        return outcomes.Hold(outcomes.HoldReason.ATTEMPTS_SPENT, said)
    tried = f"{policy.runbook} was tried {phrases.count(incident.attempts, 'time')} on {_target(incident)}"
    said = f"{tried} and the trouble is still reported; policy {policy.name} allows {policy.guard.max_attempts}"
    return outcomes.Hold(outcomes.HoldReason.ATTEMPTS_SPENT, said)


def _holding(policy: policies.Policy, true_for_seconds: float) -> outcomes.Hold:
    lasted, needed = phrases.duration(true_for_seconds), phrases.duration(policy.hold_seconds)
    said = f"held: policy {policy.name} has matched for {lasted} and asks for {needed}"
    return outcomes.Hold(outcomes.HoldReason.HOLDING, said)


def _advice(incident: inc.Incident, policy: policies.Policy, inputs: Mapping[str, outcomes.Json]) -> outcomes.Hold:
    """Say what would be done; in mode suggest, also how a person does it."""
    would = f"policy {policy.name} would run {policy.runbook} on {_target(incident)}: {words.trouble(incident.finding)}"
    if policy.mode is policies.Mode.OBSERVE:
        return outcomes.Hold(outcomes.HoldReason.OBSERVING, f"observing: {would}")
    command = words.command(policy.runbook, incident.key.service, incident.key.node, inputs)
    said = words.with_demotion(f"suggested: {would}; run `{command}`", policy)
    return outcomes.Hold(outcomes.HoldReason.OBSERVING, said)


def _target(incident: inc.Incident) -> str:
    return words.target(incident.key.service, incident.key.node)
