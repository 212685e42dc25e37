"""The `ActGuard` port: the guard asked again at the moment of acting, on a world read anew.

Called by runs right before each effect. Concurrency: async; it remembers only what it has noted. It asks the same list of gates as planning
does; the run that asks does not count against itself. A world that cannot be read is a refusal, never a pass. Nor does a
run begin that its policy may no longer ask for: its record may have become bad since the run was stored, or its file and the
setting `mode`, which are read at start, may allow less (`offered` are the policies' modes by name). Each refusal is
stored as a decision with all its numbers, once for as long as it stays the same.
"""

import contextlib
from collections.abc import Mapping

from controlplane.domain import errors, outcomes, plans, policies, trust
from controlplane.engine import config, facts, guard, keeping

# As many refusals as are told apart; a run that is forgotten is noted once more.
_MAX_NOTED = 1000


class Recheck:
    """Asks all gates for this instant."""

    def __init__(
        self,
        gatherer: facts.Gatherer,
        trusts: trust.TrustStore | None = None,
        keeper: keeping.Keeper | None = None,
        offered: Mapping[str, policies.Mode] | None = None,
    ) -> None:
        self._gatherer = gatherer
        self._offered = offered
        self._trusts = trusts
        self._keeper = keeper
        self._noted: dict[str, outcomes.Gate] = {}

    async def recheck(self, plan: plans.Plan, run_id: str) -> outcomes.Allowed | outcomes.Denied:
        """Answer for this instant; the run itself does not count against cooldown, rate or in-flight."""
        answer = await self._answer(plan, run_id)
        if isinstance(answer, outcomes.Denied):
            await self._note(plan, answer, run_id)
        else:
            self._noted.pop(run_id, None)
        return answer

    async def _note(self, plan: plans.Plan, denied: outcomes.Denied, run_id: str) -> None:
        """Store a refusal; one that cannot be stored is a refusal all the same."""
        if self._keeper is None or self._noted.get(run_id) is denied.gate:
            return
        with contextlib.suppress(errors.DsctlError):
            if await self._gatherer.is_binding(denied, run_id):
                await self._keeper.keep(plan, denied, run_id)
            while len(self._noted) >= _MAX_NOTED:
                self._noted.pop(next(iter(self._noted)))
            self._noted[run_id] = denied.gate

    async def _answer(self, plan: plans.Plan, run_id: str) -> outcomes.Allowed | outcomes.Denied:
        try:
            context = await self._gatherer.context(plan, run_id=run_id, is_fresh=True)
            demotion = await self._demotion(plan)
        except (errors.RetryLaterError, errors.NotFoundError, errors.InvariantBrokenError) as error:
            gate = outcomes.Gate.FRESHNESS
            sentence = f"whether it is safe to act on {plan.target} cannot be told: {error}"
            return outcomes.Denied(gate, sentence, (outcomes.GateAnswer(gate, is_passed=False, sentence=sentence),))
        if demotion is not None and not context.has_acted:
            return _too_far(plan, demotion.mode, demotion.sentence)
        lowered = self._lowered(plan)
        if lowered is not None and not context.has_acted:
            return lowered
        return guard.check(plan, context)

    def _lowered(self, plan: plans.Plan) -> outcomes.Denied | None:
        """Refuse what the policies in force would not ask for any more."""
        request = plan.request
        if self._offered is None or request.policy is None or request.is_follow_up or request.is_restoring:
            return None
        mode = self._offered.get(request.policy, policies.Mode.OBSERVE)
        if config.capped(request.mode, mode) is request.mode:
            return None
        is_there = request.policy in self._offered
        why = f"policy {request.policy} is in mode {mode} by now" if is_there else f"policy {request.policy} is gone"
        return _too_far(plan, mode, why)

    async def _demotion(self, plan: plans.Plan) -> trust.Entry | None:
        """Return what its policy was taken back to, where that is less than the plan was made with.

        What ends or gives back what earlier runs began is let through: it is no new attempt.
        """
        request = plan.request
        if self._trusts is None or request.policy is None or request.is_follow_up or request.is_restoring:
            return None
        found = (await self._trusts.trusts()).get(request.policy, trust.Trust()).demotion
        is_less = found is not None and config.capped(request.mode, found.mode) is not request.mode
        return found if is_less else None


def _too_far(plan: plans.Plan, mode: policies.Mode, why: str) -> outcomes.Denied:
    gate, asked = outcomes.Gate.MODE, plan.request.mode
    sentence = f"the run was asked for in mode {asked}, and {why}"
    answer = outcomes.GateAnswer(gate, is_passed=False, sentence=sentence, numbers={"mode": mode.value})
    return outcomes.Denied(gate, sentence, (answer,))
