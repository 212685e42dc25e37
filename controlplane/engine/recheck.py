"""The `ActGuard` port: the guard asked again at the moment of acting, on a world read anew.

Called by runs right before each effect. Concurrency: async, stateless. It asks the same list of gates as planning
does; the run that asks does not count against itself. A world that cannot be read is a refusal, never a pass.
"""

from controlplane.domain import errors, outcomes, plans
from controlplane.engine import facts, guard


class Recheck:
    """Asks all gates for this instant."""

    def __init__(self, gatherer: facts.Gatherer) -> None:
        self._gatherer = gatherer

    async def recheck(self, plan: plans.Plan, run_id: str) -> outcomes.Allowed | outcomes.Denied:
        """Answer for this instant; the run itself does not count against cooldown, rate or in-flight."""
        try:
            context = await self._gatherer.context(plan, run_id=run_id, is_fresh=True)
        except (errors.RetryLaterError, errors.NotFoundError) as error:
            gate = outcomes.Gate.FRESHNESS
            sentence = f"whether it is safe to act on {plan.target} cannot be told: {error}"
            return outcomes.Denied(gate, sentence, (outcomes.GateAnswer(gate, is_passed=False, sentence=sentence),))
        return guard.check(plan, context)
