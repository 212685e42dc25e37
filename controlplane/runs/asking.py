"""Steps that ask people: who may answer, when the answers are enough, and what becomes of the run. Pure functions.

Called by `ledger`, which admits answers, and by `waiting`, which weighs them. A step is agreed to when as many different
people as its quorum said yes to this very plan; one no ends the run, and so does the end of its time. Answers may come
before the step's turn: they are kept, and count then.
"""

import dataclasses
from collections.abc import Sequence
from datetime import datetime

from controlplane import phrases
from controlplane.domain import approvals, errors, outcomes, plans, runs
from controlplane.runs import moves, transitions

_Kind = runs.RunEventKind
_State = outcomes.RunState
_Answers = Sequence[approvals.Approval]
# Whom the news that an approval is wanted goes to, for the routes of Alertmanager to tell apart from other escalations.
RECEIVER = "approvers"
# The step that comes first where a policy in mode approve asks.
FIRST = "approval"


def ask_first(request: plans.PlanRequest, steps: tuple[plans.PlannedStep, ...]) -> tuple[plans.PlannedStep, ...]:
    """Return the steps behind one that asks people, where the policy's mode wants that; else as they are."""
    rule = request.approval
    if rule is None:
        return steps
    is_taken = any(step.name == FIRST for step in steps)
    target = f"{request.service}/{request.node}" if request.node else request.service
    first = plans.PlannedStep(
        name=f"{FIRST}-of-policy" if is_taken else FIRST,
        kind=plans.StepKind.APPROVAL,
        timeout_seconds=rule.expires_seconds,
        prompt=f"May policy {request.policy} run {request.runbook} on {target}?",
        quorum=rule.quorum,
    )
    return (first, *steps)


def find_question(plan: plans.Plan, cursor: moves.Cursor) -> plans.PlannedStep | None:
    """Return the step that an answer given now is for: the next one that asks, whether it is its turn or not yet."""
    if cursor.phase is not moves.Phase.STEPS:
        return None
    ahead = [step for step in plan.steps[cursor.step :] if step.decided is not False]
    return next((step for step in ahead if step.kind is plans.StepKind.APPROVAL), None)


def settle_step(given: approvals.Approval, asked: plans.PlannedStep) -> str:
    """Return the question an answer is for; raises ConflictError where another one was looked at than is asked by now."""
    if given.step not in {"", asked.name}:
        raise errors.ConflictError(
            f"{given.run_id} asks about step {asked.name} by now, not {given.step} as answered; look at it and answer again"
        )
    return asked.name


def check(given: approvals.Approval, plan: plans.Plan, cursor: moves.Cursor, answers: _Answers) -> None:
    """Raise ConflictError for an answer that may not count; `answers` are those the step has."""
    if given.plan_hash != plan.hash:
        raise errors.ConflictError(
            f"the plan of {given.run_id} is {plan.hash}, not {given.plan_hash} as answered; look at it and answer again"
        )
    if given.is_approved and given.who == plan.request.requested_by:
        raise errors.ConflictError(f"{given.who} asked for {given.run_id} and cannot approve it; somebody else has to")
    earlier = next((one for one in answers if one.who == given.who), None)
    if earlier is not None:
        said = "approved" if earlier.is_approved else "rejected"
        raise errors.ConflictError(f"{given.who} has {said} step {given.step} of {given.run_id} already; that counts")
    is_its_turn = plan.steps[cursor.step].name == given.step
    if is_its_turn and cursor.deadline_at is not None and given.at >= cursor.deadline_at:
        raise errors.ConflictError(f"step {given.step} of {given.run_id} has expired; ask for the runbook again")


def make_entry(given: approvals.Approval) -> moves.Entry:
    """Return the event that tells of an answer."""
    kind = _Kind.APPROVED if given.is_approved else _Kind.REJECTED
    verb = "approved" if given.is_approved else "rejected"
    sentence = f"{verb} by {given.who}{_because(given)}"
    return moves.Entry(kind, given.step, {"by": given.who, "reason": given.reason, "sentence": sentence})


def weigh(claim: moves.Claim, answers: _Answers, now: datetime) -> moves.Move:
    """Go on when enough people agreed, end when one did not or the time is over, else wait for the next answer."""
    refusal = next((one for one in answers if not one.is_approved), None)
    if refusal is not None:
        return _reject(claim, refusal)
    agreed = sorted({one.who for one in answers if one.plan_hash == claim.plan.hash})
    if len(agreed) >= max(claim.step.quorum, 1):
        said = {"sentence": f"approved by {phrases.names(agreed)}"}
        return transitions.step_finished(claim, (moves.Entry(_Kind.STEP_FINISHED, claim.step.name, said),))
    deadline = claim.cursor.deadline_at or now
    if now >= deadline:
        return _expire(claim, len(agreed))
    return _wait(claim, len(answers), (deadline - now).total_seconds())


def _reject(claim: moves.Claim, refusal: approvals.Approval) -> moves.Move:
    """End as one person wants it: what earlier steps did stays, as after a cancellation."""
    sentence = f"rejected by {refusal.who}{_because(refusal)}; {transitions.what_is_kept(claim.cursor)}"
    failed = moves.Entry(_Kind.STEP_FAILED, claim.step.name, {"error": f"rejected by {refusal.who}"})
    return transitions.end(_State.CANCELLED, claim.cursor, sentence, (failed,))


def _expire(claim: moves.Claim, num_agreed: int) -> moves.Move:
    """End for want of answers: nothing is undone and nothing follows, but those whom the runbook names hear of it."""
    step = claim.step
    who = "nobody" if not num_agreed else f"only {num_agreed} of {step.quorum}"
    said = f"{who} approved within {phrases.duration(step.timeout_seconds)}"
    sentence = f"{said}; {transitions.what_is_kept(claim.cursor)}"
    errands = transitions.named_people(claim.plan.edges_at(claim.cursor.step), sentence)
    failed = moves.Entry(_Kind.STEP_FAILED, step.name, {"error": said})
    return transitions.end(_State.CANCELLED, claim.cursor, sentence, (failed,), errands=errands)


def _wait(claim: moves.Claim, num_answers: int, seconds: float) -> moves.Move:
    """Sleep until the time is over; an answer wakes the run. People are told once, when it begins to wait."""
    cursor = dataclasses.replace(claim.cursor, is_told=True)
    told = () if claim.cursor.is_told else (moves.Errand(plans.EdgeKind.ESCALATE, RECEIVER, _call(claim)),)
    return moves.Move(_State.WAITING, cursor, wake_seconds=seconds, errands=told, asks=num_answers)


def _call(claim: moves.Claim) -> str:
    """Return what people are told: what is wanted, why, how to answer, and how long that counts."""
    request, step = claim.plan.request, claim.step
    why = f", because {request.reason}" if request.reason else ""
    wanted = f"approval wanted by {request.requested_by}: {request.runbook} on {claim.plan.target}{why}"
    prompt = f"; {step.prompt.rstrip('.')}" if step.prompt else ""
    within = phrases.duration(step.timeout_seconds)
    return f"{wanted}{prompt}; look and answer with `dsctl runs approve {claim.run_id}` within {within}"


def _because(given: approvals.Approval) -> str:
    return f": {given.reason}" if given.reason else ""
