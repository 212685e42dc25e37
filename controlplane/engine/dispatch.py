"""The one door to acting: drafts a plan, asks the guard, keeps the answer, submits the run.

Called by the tick for policies and by the API for people; there is no other way to a run. Concurrency: async; all plans
go through one task, which judges those that wait one after the other, each in the knowledge of those let through before
it, so that two requests at the same moment cannot both find room in the blast radius. What waits together is stored in
one commit. It never acts itself.
"""

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.domain import errors, outcomes, plans, ports, remediation, runs
from controlplane.engine import facts, guard, keeping

# A burst of hundreds goes through in a few turns; the first of them are stored before the last are judged.
_MAX_TOGETHER = 32


_Passed = remediation.Submitted | remediation.Refused


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A plan before the door, and where its answer goes."""

    plan: plans.Plan
    passed: "asyncio.Future[_Passed]"

    def tell(self, said: _Passed | BaseException) -> None:
        """Give the answer, unless whoever asked has gone."""
        if self.passed.done():
            return
        if isinstance(said, BaseException):
            self.passed.set_exception(said)
        else:
            self.passed.set_result(said)


class Dispatch:
    """The `Remediator` port."""

    def __init__(
        self,
        *,
        planner: ports.Planner,
        gatherer: facts.Gatherer,
        keeper: keeping.Keeper,
        submitter: ports.RunSubmitter,
    ) -> None:
        self._planner = planner
        self._gatherer = gatherer
        self._keeper = keeper
        self._submitter = submitter
        self._waiting: list[_Waiting] = []
        self._doorman: asyncio.Task[None] | None = None

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
        passed = await self._pass(plan)
        if isinstance(passed, remediation.Submitted):
            await self._keeper.keep(plan, passed.guard, passed.run_id)
        return passed

    async def _pass(self, plan: plans.Plan) -> _Passed:
        """Wait for this plan's turn; raises what reading the world and submitting raise."""
        mine = _Waiting(plan, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        if self._doorman is None or self._doorman.done():
            # Not the one who asks: who goes away must not take along those behind.
            self._doorman = asyncio.create_task(self._keep_door(), name="dispatch")
        return await mine.passed

    async def _keep_door(self) -> None:
        """Let through whoever waits, until nobody does."""
        here: list[_Waiting] = []
        try:
            while self._waiting:
                here, self._waiting = self._waiting[:_MAX_TOGETHER], self._waiting[_MAX_TOGETHER:]
                await self._let_through([one for one in here if not one.passed.done()])
        finally:
            # Nobody is left when all went well.
            for one in (*here, *self._waiting):
                one.tell(errors.RetryLaterError("the door was closed before this plan was judged; ask again"))
            self._waiting.clear()

    async def _let_through(self, together: Sequence[_Waiting]) -> None:
        contexts = await asyncio.gather(*(self._gatherer.context(one.plan) for one in together), return_exceptions=True)
        ahead: list[runs.Run] = []
        allowed: list[tuple[_Waiting, outcomes.Allowed]] = []
        refused: list[tuple[_Waiting, outcomes.Denied, guard.Context | BaseException, int]] = []
        for one, context in zip(together, contexts, strict=True):
            try:
                answer = _judge(one.plan, context, ahead)
            except Exception as error:  # noqa: BLE001 - it belongs to whoever asked for this plan
                one.tell(error)
                continue
            if isinstance(answer, outcomes.Allowed):
                allowed.append((one, answer))
                ahead.append(runs.Run(one.plan.id, one.plan, outcomes.RunState.QUEUED, 0, one.plan.created_at))
            else:
                refused.append((one, answer, context, len(ahead)))
        # The runs first: whoever is refused because of one of them finds it, by its id and by its key.
        run_ids = await asyncio.gather(*(self._submit(one, answer) for one, answer in allowed))
        named = [dataclasses.replace(run, id=run_id) for run, run_id in zip(ahead, run_ids, strict=True)]
        await asyncio.gather(
            *(self._refuse(one, first, context, named[:before]) for one, first, context, before in refused)
        )

    async def _submit(self, one: _Waiting, answer: outcomes.Allowed) -> str:
        """Store a run and return its id, or the plan's where it could not be stored."""
        try:
            run_id = await self._submitter.submit(one.plan)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked for this plan
            one.tell(error)
            return one.plan.id
        one.tell(remediation.Submitted(one.plan, run_id, answer))
        return run_id

    async def _refuse(
        self,
        one: _Waiting,
        first: outcomes.Denied,
        context: guard.Context | BaseException,
        ahead: Sequence[runs.Run],
    ) -> None:
        """Judge again, with the ids that those ahead have got, and note it before anybody behind: it may trip the breaker."""
        try:
            again = _judge(one.plan, context, ahead)
            answer = again if isinstance(again, outcomes.Denied) else first
            one.tell(remediation.Refused(one.plan, answer, await self._keeper.keep(one.plan, answer, None)))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked for this plan
            one.tell(error)

    async def withdraw(self, run_id: str, why: str) -> bool:
        """Take a request back that waits for people; False when it does not, or has been answered meanwhile."""
        return await self._submitter.withdraw(run_id, why)


def _judge(
    plan: plans.Plan, context: guard.Context | BaseException, ahead: Sequence[runs.Run]
) -> outcomes.Allowed | outcomes.Denied:
    """Ask the guard, with those let through a moment ago counted as in flight; raises what reading the world raised."""
    if isinstance(context, BaseException):
        raise context
    return guard.check(plan, dataclasses.replace(context, unfinished=(*context.unfinished, *ahead)))
