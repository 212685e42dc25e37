"""The gates between a plan and its effects: one ordered list, asked when a plan is made and again before each effect.

Called by `dispatch` (planned) and `recheck` (acting); both read the world into a frozen `Context` first, so the same
context always gives the same answer, with the sentence and the numbers a person needs. It never reads, never
waits and never forgets the numbers. Pure functions; the gates themselves stand in `guarding`.

Who is asked what: the kill switch, the mode, maintenance, a silence, the attempts and the breaker stop automation (a
request with a policy); a person may pass them, and the answer says so. So it is with what another person holds, and with
capacity, which is an estimate. Unknown data stops automation always, and a person where the plan destroys or takes nodes
out of service. All other gates hold for everybody. A run that has acted already finishes what it began: the gates that
ask whether there is reason to begin (resolved, freshness), and those that have counted it already (attempts, breaker, capacity),
then pass.
"""

from collections.abc import Callable, Sequence

from controlplane.domain import outcomes, plans
from controlplane.engine.guarding import automation, others, pace, reason, room, world

MAX_VIEW_AGE_SECONDS = world.MAX_VIEW_AGE_SECONDS
MAX_SILENCES_AGE_SECONDS = world.MAX_SILENCES_AGE_SECONDS
RATE_WINDOW_SECONDS = world.RATE_WINDOW_SECONDS
RECENT_SECONDS = world.RECENT_SECONDS

Ran = world.Ran
Context = world.Context
Gate = Callable[[plans.Plan, Context], outcomes.GateAnswer]

overlaps = pace.overlaps
allowed_unavailable = world.allowed_unavailable

# The order of `outcomes.Gate`: cheap and final questions first, so that a refusal names the plainest reason.
GATES: tuple[Gate, ...] = (
    automation.kill_switch,
    automation.mode,
    reason.resolved,
    reason.freshness,
    automation.in_maintenance,
    automation.silence,
    pace.in_flight,
    pace.cooldown,
    pace.rate_limit,
    pace.attempts,
    room.blast_radius,
    others.breaker,
    others.ownership,
    room.capacity,
    automation.approval,
)


def check(plan: plans.Plan, context: Context, gates: Sequence[Gate] = GATES) -> outcomes.Allowed | outcomes.Denied:
    """Ask the gates in order and stop at the first refusal. Tests leave one out, to see that it is missed."""
    answers: list[outcomes.GateAnswer] = []
    for gate in gates:
        answer = gate(plan, context)
        answers.append(answer)
        if not answer.is_passed:
            return outcomes.Denied(answer.gate, answer.sentence, tuple(answers))
    return outcomes.Allowed(tuple(answers))
