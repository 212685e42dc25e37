"""Stores what the guard answered: each decision with all its numbers, and the breaker that a refusal trips.

Called by `dispatch` for what is planned and by `recheck` for what is refused at the moment of acting. Concurrency: async,
stateless. It decides nothing: what trips a breaker stands in the guard's answer.
"""

from controlplane.domain import ids, outcomes, plans, ports
from controlplane.engine.guarding import others


class Keeper:
    """Writes decisions and breakers."""

    def __init__(self, decisions: ports.DecisionStore, automation: ports.AutomationStore, clock: ports.Clock) -> None:
        self._decisions = decisions
        self._automation = automation
        self._clock = clock

    async def keep(self, plan: plans.Plan, answer: outcomes.Allowed | outcomes.Denied, run_id: str | None) -> str:
        """Store the guard's answer with its numbers, so that `why` and `why not` can be asked; return the decision's id.

        The breaker is stored first: a refusal that is noted and does not last would let the next plan through.
        """
        if isinstance(answer, outcomes.Denied):
            await self._trip(plan, answer)
        decision = self._decision(plan, answer, run_id)
        await self._decisions.record(decision)
        return decision.id

    async def _trip(self, plan: plans.Plan, denied: outcomes.Denied) -> None:
        if denied.gate is not outcomes.Gate.BREAKER or denied.answers[-1].numbers.get(others.TRIPS) is not True:
            return
        nodes = denied.answers[-1].numbers.get("nodes")
        named = [str(one) for one in nodes] if isinstance(nodes, list) else []
        await self._automation.trip(plan.request.service, denied.sentence, named)

    def _decision(
        self, plan: plans.Plan, answer: outcomes.Allowed | outcomes.Denied, run_id: str | None
    ) -> outcomes.Decision:
        now, request = self._clock.now(), plan.request
        is_denied = isinstance(answer, outcomes.Denied)
        return outcomes.Decision(
            id=ids.new_id(ids.IdKind.DECISION, now),
            at=now,
            service=request.service,
            target=plan.target,
            runbook=request.runbook,
            outcome="denied" if is_denied else "allowed",
            sentence=answer.sentence if is_denied else f"allowed: {request.runbook} on {plan.target}",
            incident_id=request.incident_id,
            policy=request.policy,
            plan_id=plan.id,
            run_id=run_id,
            answers=answer.answers,
        )
