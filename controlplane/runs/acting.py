"""Action steps: ask the guard, act once, and settle every doubt before going on.

Called by the driver with an announced step; returns the move to commit. An effect is only ever sent for a step that
was announced, right after the guard allowed it, while the lease is held. What may have happened is looked at or
handed to a person, never assumed. Async.
"""

import dataclasses
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from actions import api as actions
from controlplane.domain import errors, outcomes, plans, runs
from controlplane.runs import config, failpoints, moves, transitions, tries

_Kind = runs.RunEventKind
_Entries = tuple[moves.Entry, ...]


class Acting:
    """Drives action steps. `may_act` answers whether this replica may still start an effect for a claim."""

    def __init__(
        self,
        ports: config.RunPorts,
        settings: config.RunSettings,
        *,
        may_act: Callable[[moves.Claim], Awaitable[bool]],
        fail_points: failpoints.FailPoints,
    ) -> None:
        self._ports = ports
        self._settings = settings
        self._may_act = may_act
        self._fail_points = fail_points

    def is_reversible(self, name: str) -> bool:
        """Say whether the named action can be undone; one that is not installed cannot."""
        action = self._ports.actions.get(name)
        return action is not None and action.spec.is_reversible

    async def next(self, claim: moves.Claim) -> moves.Move:
        """Make the announced try, or first settle the doubt an earlier owner left."""
        action = self._ports.actions.get(claim.step.action)
        if action is None:
            return self._refuse_unknown(claim)
        if claim.is_in_doubt:
            return await self._reenter(claim, action)
        return await self._send(claim, action)

    def _refuse_unknown(self, claim: moves.Claim) -> moves.Move:
        sentence = f"step {claim.step.name}: the action {claim.step.action} is not installed here"
        entry = moves.Entry(_Kind.STEP_FAILED, claim.step.name, {"error": sentence})
        if claim.is_in_doubt or claim.cursor.is_doubtful:
            return transitions.hand_over(claim, f"{sentence}, and it may have happened; look at the target", (entry,))
        return self._fail(claim, sentence, (entry,))

    async def _reenter(self, claim: moves.Claim, action: actions.Action) -> moves.Move:
        step, reentry = claim.step, action.spec.reentry
        lost = f"step {step.name} was in flight when its process died"
        if claim.cursor.attempt >= step.max_attempts + self._settings.max_reentries:
            return transitions.hand_over(claim, f"{lost}, {claim.cursor.attempt} times; look at the target", ())
        if reentry is plans.Reentry.MANUAL:
            sentence = f"{lost}; it is never repeated by itself: look whether it happened on {claim.plan.target}"
            return transitions.hand_over(claim, sentence, ())
        if reentry is plans.Reentry.IDEMPOTENT:
            return await self._repeat_when_allowed(claim)
        return await self._look_after_crash(claim, action)

    async def _repeat_when_allowed(self, claim: moves.Claim) -> moves.Move:
        """Announce the repeat only once the guard allows it, so that a refusal leaves no announced try behind."""
        answer = await self._ask_guard(claim)
        if isinstance(answer, outcomes.Allowed):
            return transitions.announce_again(claim, is_doubtful=True)
        sentence = answer.sentence
        return self._be_patient(claim, f"step {claim.step.name} may have happened and may not be repeated: {sentence}")

    async def _look_after_crash(self, claim: moves.Claim, action: actions.Action) -> moves.Move:
        probed, entry = await self._probe(claim, action)
        if isinstance(probed, actions.Applied):
            return self._found_applied(claim, probed, (entry,))
        if isinstance(probed, actions.NotApplied):
            return transitions.announce_again(claim, (entry,))
        return self._be_patient(claim, f"step {claim.step.name} may have happened: {probed.sentence}")

    def _be_patient(self, claim: moves.Claim, sentence: str) -> moves.Move:
        """Wait for a doubt to be settled by itself (metrics come back, a target answers), but not for ever."""
        now = self._ports.clock.now()
        deadline = claim.cursor.deadline_at or now + timedelta(seconds=self._settings.doubt_patience_seconds)
        if now >= deadline:
            return transitions.hand_over(claim, f"{sentence}; look at {claim.plan.target}", ())
        return transitions.keep_waiting(claim, self._settings.doubt_poll_seconds, deadline_at=deadline)

    async def _send(self, claim: moves.Claim, action: actions.Action) -> moves.Move:
        answer = await self._ask_guard(claim)
        if isinstance(answer, moves.NotDone):
            return await self._settle(claim, action, answer)
        if isinstance(answer, outcomes.Denied):
            return self._denied(claim, answer)
        if not await self._may_act(claim):
            raise errors.LostLeaseError(
                f"run {claim.run_id}: the lease was not kept up to start step {claim.step.name}"
            )
        self._fail_points.reach(failpoints.Point.BEFORE_EFFECT)
        outcome = await tries.attempt(
            action.apply(claim.step.params, self._context(claim)), timeout_seconds=claim.step.timeout_seconds
        )
        self._fail_points.reach(failpoints.Point.AFTER_EFFECT)
        return await self._settle(claim, action, outcome)

    async def _ask_guard(self, claim: moves.Claim) -> outcomes.Allowed | outcomes.Denied | moves.NotDone:
        try:
            return await self._ports.guard.recheck(claim.plan, claim.run_id)
        except Exception as error:  # noqa: BLE001 - a guard that cannot answer has not allowed anything
            delay = error.delay_seconds if isinstance(error, errors.RetryLaterError) else self._settings.retry_seconds
            return moves.NotDone(f"the guard could not answer: {error}", delay)

    def _denied(self, claim: moves.Claim, denied: outcomes.Denied) -> moves.Move:
        if not claim.cursor.is_doubtful:
            return transitions.deny(claim, denied)
        entry = moves.Entry(_Kind.GUARD_DENIED, claim.step.name, {"gate": denied.gate, "sentence": denied.sentence})
        sentence = f"step {claim.step.name} may have happened and may not be repeated: {denied.sentence}"
        return transitions.hand_over(claim, sentence, (entry,))

    async def _settle(self, claim: moves.Claim, action: actions.Action, outcome: moves.Outcome) -> moves.Move:
        """Turn the outcome of a try into the next move."""
        if isinstance(outcome, moves.Done):
            entry = _finished(claim, outcome.result)
            return transitions.step_finished(claim, (entry,), claim.cursor.opened_at)
        step = claim.step
        may_retry = claim.cursor.attempt < step.max_attempts
        entry = moves.Entry(_Kind.STEP_FAILED, step.name, {"error": outcome.sentence, "attempt": claim.cursor.attempt})
        if isinstance(outcome, moves.PartlyDone):
            sentence = f"step {step.name} was done in part: {outcome.sentence}"
            return self._fail(claim, sentence, (entry,), acted_at=claim.cursor.opened_at)
        if isinstance(outcome, moves.InDoubt):
            return await self._doubt(claim, action, outcome.sentence, entry)
        if may_retry and outcome.retry_seconds is not None:
            return self._try_again(claim, entry, outcome.retry_seconds, is_doubtful=claim.cursor.is_doubtful)
        if claim.cursor.is_doubtful:
            return await self._settle_doubt(claim, action, outcome.sentence, entry)
        return self._fail(claim, f"step {step.name} failed: {outcome.sentence}", (entry,))

    async def _doubt(self, claim: moves.Claim, action: actions.Action, sentence: str, entry: moves.Entry) -> moves.Move:
        """Send again what may be sent twice while tries are left; else look."""
        may_retry = claim.cursor.attempt < claim.step.max_attempts
        if may_retry and action.spec.reentry is plans.Reentry.IDEMPOTENT:
            return self._try_again(claim, entry, self._settings.retry_seconds, is_doubtful=True)
        return await self._settle_doubt(claim, action, sentence, entry)

    async def _settle_doubt(
        self, claim: moves.Claim, action: actions.Action, sentence: str, entry: moves.Entry
    ) -> moves.Move:
        """Look at the target before anything else is done; without an answer a person decides."""
        step = claim.step
        unknown = f"step {step.name} may have happened: {sentence}; look at {claim.plan.target}"
        if action.spec.reentry is plans.Reentry.MANUAL:
            return self._hand_over(claim, unknown, (entry,))
        probed, seen = await self._probe(claim, action)
        if isinstance(probed, actions.Applied):
            return self._found_applied(claim, probed, (entry, seen))
        if isinstance(probed, actions.CannotTell):
            return self._hand_over(claim, f"{unknown} ({probed.sentence})", (entry, seen))
        # Of a whole service the probe says that some node lacks the effect; others may have it.
        acted_at = None if claim.plan.request.node else claim.cursor.opened_at
        if claim.cursor.attempt < step.max_attempts:
            return transitions.try_again(claim, (entry, seen), self._settings.retry_seconds, acted_at=acted_at)
        return self._fail(claim, f"step {step.name} did not happen: {sentence}", (entry, seen), acted_at=acted_at)

    def _try_again(self, claim: moves.Claim, entry: moves.Entry, seconds: float, *, is_doubtful: bool) -> moves.Move:
        acted_at = claim.cursor.opened_at if is_doubtful else None
        return transitions.try_again(claim, (entry,), seconds, is_doubtful=is_doubtful, acted_at=acted_at)

    def _found_applied(self, claim: moves.Claim, probed: actions.Applied, entries: _Entries) -> moves.Move:
        entry = _finished(claim, probed.result)
        return transitions.step_finished(claim, (*entries, entry), claim.cursor.opened_at)

    async def _probe(self, claim: moves.Claim, action: actions.Action) -> tuple[actions.Probed, moves.Entry]:
        call = action.probe(claim.step.params, self._context(claim))
        probed = await tries.look(call, timeout_seconds=claim.step.timeout_seconds)
        sentence = probed.result.sentence if isinstance(probed, actions.Applied) else probed.sentence
        data = {"answer": _ANSWERS[type(probed)], "sentence": sentence}
        return probed, moves.Entry(_Kind.STEP_PROBED, claim.step.name, data)

    def _context(self, claim: moves.Claim) -> actions.ActionContext:
        return tries.make_context(claim, claim.step, transitions.idempotency_key(claim.run_id, claim.step.name))

    def _hand_over(self, claim: moves.Claim, sentence: str, entries: _Entries) -> moves.Move:
        """Leave what may have happened to a person, or alone where the runbook says that its failure does not matter."""
        if claim.step.continue_on_failure:
            return transitions.pass_over(claim, entries, claim.cursor.opened_at)
        return transitions.hand_over(claim, sentence, entries, claim.cursor.opened_at)

    def _fail(
        self, claim: moves.Claim, sentence: str, entries: _Entries, *, acted_at: datetime | None = None
    ) -> moves.Move:
        if claim.step.continue_on_failure:
            return transitions.pass_over(claim, entries, acted_at)
        return transitions.fail(claim, sentence, entries, self.is_reversible, acted_at=acted_at)


_ANSWERS: dict[type[actions.Probed], str] = {
    actions.Applied: "applied",
    actions.NotApplied: "not applied",
    actions.CannotTell: "cannot tell",
}


def _finished(claim: moves.Claim, result: actions.ActionResult) -> moves.Entry:
    data = dataclasses.asdict(result) | {"attempt": claim.cursor.attempt}
    return moves.Entry(_Kind.STEP_FINISHED, claim.step.name, data)
