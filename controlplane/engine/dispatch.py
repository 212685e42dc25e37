"""The one door to acting: drafts a plan, asks the guard, keeps the answer, submits the run.

Called by the tick for policies and by the API for people; there is no other way to a run. Concurrency: async; guard
and submission happen under one lock, so that two requests at the same moment cannot both find room in the blast
radius. It never acts itself.
"""

import asyncio

from controlplane.domain import errors, ids, outcomes, plans, ports, remediation
from controlplane.engine import facts, guard


class Dispatch:
    """The `Remediator` port."""

    def __init__(
        self,
        *,
        planner: ports.Planner,
        gatherer: facts.Gatherer,
        decisions: ports.DecisionStore,
        submitter: ports.RunSubmitter,
        clock: ports.Clock,
    ) -> None:
        self._planner = planner
        self._gatherer = gatherer
        self._decisions = decisions
        self._submitter = submitter
        self._clock = clock
        self._lock = asyncio.Lock()

    async def preview(self, request: plans.PlanRequest) -> remediation.Preview:
        """Dry run: the plan with its difference and the guard's answer; nothing is stored. Raises as `draft`."""
        plan = await self._planner.draft(request)
        return remediation.Preview(plan, guard.check(plan, await self._gatherer.context(plan)))

    async def remediate(
        self, request: plans.PlanRequest, *, expected_hash: str | None = None
    ) -> remediation.Submitted | remediation.Refused:
        """Draft, guard and submit.

        Raises as `draft` does, and ConflictError when the plan is no longer the one that was approved or another run
        took the target. A refusal is stored before it is returned.
        """
        plan = await self._planner.draft(request)
        if expected_hash is not None and plan.hash != expected_hash:
            raise errors.ConflictError(
                f"the plan for {request.runbook} on {plan.target} is now {plan.hash}, not {expected_hash} as approved; "
                "look at the new difference (--dry-run) and ask again"
            )
        async with self._lock:
            answer = guard.check(plan, await self._gatherer.context(plan))
            if isinstance(answer, outcomes.Denied):
                return remediation.Refused(plan, answer, await self._keep(plan, answer, None))
            run_id = await self._submitter.submit(plan)
        await self._keep(plan, answer, run_id)
        return remediation.Submitted(plan, run_id, answer)

    async def _keep(self, plan: plans.Plan, answer: outcomes.Allowed | outcomes.Denied, run_id: str | None) -> str:
        """Store the guard's answer with its numbers, so that `why` and `why not` can be asked later."""
        now, request = self._clock.now(), plan.request
        is_denied = isinstance(answer, outcomes.Denied)
        decision = outcomes.Decision(
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
        await self._decisions.record(decision)
        return decision.id
