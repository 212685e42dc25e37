"""Carries one incident of overload up and down the ladder: reads the rung, keeps its leases, chooses the next step.

Called by `handle` for an incident that a policy with a ladder answers. The rung is what the gateway says, so that a
restart, a lapsed lease and somebody's hand are seen for what they are. Every change of rung is a run, asked for through
the one door. Between changes the leases are renewed with the parameters of the run that set the rung, and only while
automation may act: while somebody holds the brake, or the policy is not in mode auto, nothing is renewed and full
service returns by itself. Concurrency: async, under the tick's lock; bounded in time.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from controlplane import expressions
from controlplane.domain import errors, outcomes, plans, policies, ports, rungs, runs, services, windows
from controlplane.domain import incidents as inc
from controlplane.engine import decide, ladder, words

ACTION = "set_rung"
# A gateway that needs longer is as good as silent; the other incidents of this tick wait meanwhile.
LOOK_SECONDS = 5.0
# Renewed when a third of the lease is gone, so that two renewals may fail before it ends.
RENEW_BELOW = 2 / 3
# The newest run that set the rung is among these: each of an incident's runs is a change of rung.
_RUNS_READ = 20


@dataclass(frozen=True, slots=True)
class Climbed:
    """What one look came to: a request to make, or just the sentence; `problem` is empty when nothing went wrong.

    `topic` is what the sentence is about: its numbers change at every tick, and only a new topic is worth keeping.
    """

    sentence: str
    topic: str
    standing: rungs.Standing | None = None
    request: plans.PlanRequest | None = None
    problem: str = ""


class Climber:
    """Holds the ladders' memories, one per incident."""

    def __init__(
        self, control: rungs.RungControl, automation: ports.AutomationStore, store: ports.RunStore, clock: ports.Clock
    ) -> None:
        self._control = control
        self._automation = automation
        self._runs = store
        self._clock = clock
        self._memories: dict[str, ladder.Memory] = {}

    def forget_all_but(self, incident_ids: Collection[str]) -> None:
        """Drop what is remembered about incidents that are closed."""
        for gone in set(self._memories) - set(incident_ids):
            self._memories.pop(gone)

    async def climb(
        self,
        incident: inc.Incident,
        policy: policies.Policy,
        service: services.Service,
        view: windows.FleetView | None,
        variables: Mapping[str, object],
    ) -> Climbed:
        """Look where the service stands, keep it there, and say what comes next."""
        pace = policy.ladder or policies.Ladder()
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                standing = await self._control.standing(service.name)
                problem = await self._keep(incident, policy, standing)
        except (errors.DsctlError, TimeoutError) as error:
            why = str(error) or f"no answer within {LOOK_SECONDS:g} s"
            said = f"held: on which rung {service.name} stands is unknown: {why}"
            return Climbed(said, "rung unknown", problem=f"ladder: {said}")
        if standing.is_foreign:
            said = f"held: somebody sheds levels of {service.name} by hand; the ladder leaves that alone"
            return Climbed(said, "by hand")
        now = self._clock.monotonic()
        pressed = ladder.pressure(ladder.terms(service), view.services.get(service.name) if view else None)
        memory = ladder.remember(self._memories.get(incident.id), standing.rung, pressed, now, pace)
        self._memories[incident.id] = memory
        step = ladder.propose(memory, pressed, now, pace)
        if isinstance(step, ladder.Stay):
            topic = f"stays on rung {standing.rung}"
            return Climbed(_said(standing, memory, now, step.sentence), topic, standing, problem=problem)
        if policy.mode is not policies.Mode.AUTO:
            return Climbed(_advice(incident, policy, step), f"would set rung {step.rung}", standing, problem=problem)
        try:
            inputs = expressions.resolve(dict(policy.inputs), variables)
        except errors.InvalidInputError as error:
            said = f"held: the inputs of policy {policy.name} cannot be resolved: {error}"
            return Climbed(said, "inputs", standing)
        request = _request(incident, policy, standing, step, inputs if isinstance(inputs, dict) else {})
        said = _said(standing, memory, now, step.sentence)
        return Climbed(said, f"sets rung {step.rung}", standing, request, problem)

    async def _keep(self, incident: inc.Incident, policy: policies.Policy, standing: rungs.Standing) -> str:
        """Renew the leases of a rung that one of the incident's runs set; return what went wrong, if anything."""
        if not standing.rung or standing.is_foreign or policy.mode is not policies.Mode.AUTO:
            return ""
        if await self._automation.paused():
            return ""
        step = await self._setter(incident, standing.rung)
        if step is None:
            return ""
        ttl = step.params.get("ttl_seconds")
        left = standing.expires_in_seconds
        if left is not None and isinstance(ttl, int | float) and left > ttl * RENEW_BELOW:
            return ""
        try:
            missed = await self._control.renew(incident.key.service, step.params)
        except errors.DsctlError as error:
            return f"ladder: rung {standing.rung} of {incident.key.service} was not renewed: {error}"
        return f"ladder: rung {standing.rung} of {incident.key.service} was renewed, but {missed}" if missed else ""

    async def _setter(self, incident: inc.Incident, rung: int) -> plans.PlannedStep | None:
        """Return the step of the newest run that set this rung for this incident."""
        for run in await self._runs.find(incident_id=incident.id, limit=_RUNS_READ):
            if run.state is outcomes.RunState.SUCCEEDED and (step := setting_step(run)) is not None:
                return step if step.params.get("rung") == rung else None
        return None


def setting_step(run: runs.Run) -> plans.PlannedStep | None:
    """Return the step of a run that sets a rung, or None when it has none."""
    return next((step for step in run.plan.steps if step.action == ACTION), None)


def _said(standing: rungs.Standing, memory: ladder.Memory, now: float, said: str) -> str:
    return ladder.describe(standing, memory, now, said) if standing.rung else f"held: {rungs.describe(0)}; {said}"


def _request(
    incident: inc.Incident,
    policy: policies.Policy,
    standing: rungs.Standing,
    step: ladder.Step,
    inputs: Mapping[str, outcomes.Json],
) -> plans.PlanRequest:
    return plans.PlanRequest(
        runbook=policy.runbook,
        service=incident.key.service,
        node="",
        requested_by=f"policy:{policy.name}",
        reason=step.sentence,
        inputs={**inputs, "rung": step.rung},
        incident_id=incident.id,
        policy=policy.name,
        mode=policy.mode,
        limits=policy.guard,
        dedup_key=decide.dedup_key(policy, incident),
        is_restoring=step.rung < standing.rung,
    )


def _advice(incident: inc.Incident, policy: policies.Policy, step: ladder.Step) -> str:
    """Say what would be done; in the modes between observe and auto, also how a person does it."""
    service = incident.key.service
    would = f"policy {policy.name} would put {service} on {rungs.describe(step.rung)}: {step.sentence}"
    if policy.mode is policies.Mode.OBSERVE:
        return f"observing: {would}"
    verb = "suggested" if policy.mode is policies.Mode.SUGGEST else "waits for a person"
    command = words.command(policy.runbook, service, "", {"rung": step.rung})
    return words.with_demotion(f"{verb}: {would}; run `{command}`", policy)
