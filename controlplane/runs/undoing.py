"""Undo: put back what a failed run changed, one step at a time, as carefully as it was changed.

Called by the driver while a run walks its failure edges; returns the move to commit. Of the guard's gates only the
kill switch stops an undo: the others limit what the product breaks, and an undo restores. Async.
"""

from collections.abc import Awaitable, Callable

from actions import api as actions
from controlplane.domain import errors, outcomes, plans, runs
from controlplane.runs import config, ledger, moves, transitions, tries
from controlplane.store import database as db

_Kind = runs.RunEventKind


class Undoing:
    """Drives the undo phase. `may_act` answers whether this replica may still start an effect for a claim."""

    def __init__(
        self,
        ports: config.RunPorts,
        settings: config.RunSettings,
        database: db.Database,
        *,
        may_act: Callable[[moves.Claim], Awaitable[bool]],
    ) -> None:
        self._ports = ports
        self._settings = settings
        self._database = database
        self._may_act = may_act

    async def next(self, claim: moves.Claim) -> moves.Move:
        """Undo the step the agenda names first."""
        name = claim.cursor.undo[0]
        step = next(one for one in claim.plan.steps if one.name == name)
        action = self._ports.actions.get(step.action)
        if action is None or not action.spec.is_reversible:
            return self._give_up(claim, f"the action {step.action} cannot be undone")
        if claim.is_in_doubt:
            return self._reenter(claim, action)
        return await self._undo(claim, step, action)

    def _reenter(self, claim: moves.Claim, action: actions.Action) -> moves.Move:
        is_spent = claim.cursor.attempt >= self._settings.max_undo_attempts + self._settings.max_reentries
        if action.spec.reentry is plans.Reentry.IDEMPOTENT and not is_spent:
            return transitions.announce_again(claim, is_doubtful=True)
        return self._leave_undecided(claim, "its process died while the undo was in flight")

    async def _undo(self, claim: moves.Claim, step: plans.PlannedStep, action: actions.Action) -> moves.Move:
        held_back = await self._ask_kill_switch(claim)
        if held_back is not None:
            return self._settle(claim, action, held_back)
        stored = await self._read_result(claim, step.name)
        if isinstance(stored, moves.NotDone):
            return self._settle(claim, action, stored)
        if not await self._may_act(claim):
            raise errors.LostLeaseError(f"run {claim.run_id}: the lease was not kept up to undo {step.name}")
        context = tries.make_context(claim, step, transitions.undo_key(claim.run_id, step.name))
        call = action.undo(step.params, context, stored)
        return self._settle(claim, action, await tries.attempt(call, timeout_seconds=step.timeout_seconds))

    async def _read_result(self, claim: moves.Claim, name: str) -> actions.ActionResult | moves.NotDone:
        """Return what the step's `apply` answered, from the log, where secrets are blanked out."""
        try:
            results = await self._database.read(lambda connection: ledger.results(connection, claim.run_id))
        except errors.RetryLaterError as error:
            return moves.NotDone(f"the run's log could not be read: {error}", error.delay_seconds)
        return actions.ActionResult(results[name]["sentence"], results[name]["data"])

    async def _ask_kill_switch(self, claim: moves.Claim) -> moves.NotDone | None:
        try:
            answer = await self._ports.guard.recheck(claim.plan, claim.run_id)
        except Exception as error:  # noqa: BLE001 - a guard that cannot answer may be hiding a pulled kill switch
            return moves.NotDone(f"the guard could not answer: {error}", self._settings.retry_seconds)
        if isinstance(answer, outcomes.Allowed) or any(_is_released(one) for one in answer.answers):
            return None
        is_held = answer.gate is outcomes.Gate.KILL_SWITCH
        return moves.NotDone(answer.sentence, None if is_held else self._settings.retry_seconds)

    def _settle(self, claim: moves.Claim, action: actions.Action, outcome: moves.Outcome) -> moves.Move:
        name = claim.cursor.undo[0]
        if isinstance(outcome, moves.Done):
            entry = moves.Entry(_Kind.UNDO_FINISHED, name, {"sentence": outcome.result.sentence})
            return transitions.undo_ended(claim, entry, is_undone=True)
        if isinstance(outcome, moves.PartlyDone):
            return self._give_up(claim, outcome.sentence)
        is_doubtful = claim.cursor.is_doubtful or isinstance(outcome, moves.InDoubt)
        delay = outcome.retry_seconds if isinstance(outcome, moves.NotDone) else self._settings.retry_seconds
        is_repeatable = isinstance(outcome, moves.NotDone) or action.spec.reentry is plans.Reentry.IDEMPOTENT
        if delay is not None and is_repeatable and claim.cursor.attempt < self._settings.max_undo_attempts:
            entry = moves.Entry(_Kind.UNDO_FAILED, name, {"error": outcome.sentence, "retry_seconds": delay})
            return transitions.try_again(claim, (entry,), delay, is_doubtful=is_doubtful)
        if is_doubtful:
            return self._leave_undecided(claim, outcome.sentence)
        return self._give_up(claim, outcome.sentence)

    def _give_up(self, claim: moves.Claim, sentence: str) -> moves.Move:
        entry = moves.Entry(_Kind.UNDO_FAILED, claim.cursor.undo[0], {"error": sentence})
        return transitions.undo_ended(claim, entry, is_undone=False)

    def _leave_undecided(self, claim: moves.Claim, sentence: str) -> moves.Move:
        entry = moves.Entry(_Kind.UNDO_FAILED, claim.cursor.undo[0], {"error": sentence, "may_have_happened": True})
        return transitions.undo_ended(claim, entry, is_undone=False, is_undecided=True)


def _is_released(answer: outcomes.GateAnswer) -> bool:
    return answer.gate is outcomes.Gate.KILL_SWITCH and answer.is_passed
