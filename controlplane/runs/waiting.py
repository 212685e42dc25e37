"""Waits, approvals and verification: places where a run stands still, as a row with a time to wake at.

Called by the driver each time such a run wakes; returns the move to commit. None acts on anything, so each may be
repeated freely; no thread and no task exists while a run waits. Async.
"""

from datetime import timedelta

import structlog

from controlplane.domain import errors, outcomes, runs
from controlplane.runs import acting, asking, conditions, config, moves, transitions
from controlplane.store import database as db
from controlplane.store import runs as stored

_Kind = runs.RunEventKind


class Waiting:
    """Drives wait steps, approvals and the verification phase."""

    def __init__(
        self,
        ports: config.RunPorts,
        settings: config.RunSettings,
        reversibility: acting.Acting,
        database: db.Database,
    ) -> None:
        self._ports = ports
        self._database = database
        self._settings = settings
        self._is_reversible = reversibility.is_reversible
        self._log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("dsctl.runs")

    async def wait(self, claim: moves.Claim) -> moves.Move:
        """Leave the wait when its condition holds; fail when its time is over; else look again later.

        A condition that cannot be evaluated (unknown signals, a broken reader) does not hold: the run waits. A wait
        without a condition is over when its time is.
        """
        if not claim.step.until:
            return self._pause(claim)
        is_true, seen = await self._evaluate(claim)
        if is_true:
            entry = moves.Entry(_Kind.STEP_FINISHED, claim.step.name, {"sentence": f"{claim.step.until} became true"})
            return transitions.step_finished(claim, (entry,))
        left = self._seconds_left(claim)
        if left > 0:
            return transitions.keep_waiting(claim, min(left, self._settings.wait_poll_seconds))
        sentence = f"step {claim.step.name}: {seen} within {claim.step.timeout_seconds:g} s"
        entry = moves.Entry(_Kind.STEP_FAILED, claim.step.name, {"error": sentence})
        if claim.step.continue_on_failure:
            return transitions.pass_over(claim, (entry,))
        return transitions.fail(claim, sentence, (entry,), self._is_reversible)

    def _pause(self, claim: moves.Claim) -> moves.Move:
        left = self._seconds_left(claim)
        if left > 0:
            return transitions.keep_waiting(claim, left)
        said = f"{claim.step.timeout_seconds:g} s have passed"
        return transitions.step_finished(
            claim, (moves.Entry(_Kind.STEP_FINISHED, claim.step.name, {"sentence": said}),)
        )

    async def _evaluate(self, claim: moves.Claim) -> tuple[bool, str]:
        until = claim.step.until
        try:
            variables = await conditions.read_variables(self._ports.facts, claim)
            return self._ports.conditions.is_true(until, variables), f"{until} did not become true"
        except Exception as error:  # noqa: BLE001 - whatever fails while looking, the answer is "not yet"
            self._log.debug("wait_not_evaluated", run=claim.run_id, step=claim.step.name, reason=str(error))
            return False, f"{until} could not be evaluated ({error})"

    def _seconds_left(self, claim: moves.Claim) -> float:
        deadline = claim.cursor.deadline_at
        return (deadline - self._ports.clock.now()).total_seconds() if deadline is not None else 0.0

    async def ask(self, claim: moves.Claim) -> moves.Move:
        """Weigh the answers that people gave; without enough of them the run waits until one comes or time is over."""
        try:
            given = await self._database.read(lambda c: stored.read_approvals(c, claim.run_id, claim.step.name))
        except errors.RetryLaterError as error:
            return transitions.keep_waiting(claim, error.delay_seconds)
        return asking.weigh(claim, given, self._ports.clock.now())

    async def verify(self, claim: moves.Claim) -> moves.Move:
        """Take the verdict, or look again when the verifier says so."""
        acted_at = claim.acted_at or claim.cursor.opened_at or self._ports.clock.now()
        try:
            answer = await self._ports.verifier.judge(claim.plan, acted_at, claim.cursor.began_at or acted_at)
        except Exception as error:  # noqa: BLE001 - a verifier that fails has not judged; the deadline below ends it
            self._log.warning("verification_failed", run=claim.run_id, reason=str(error))
            answer = outcomes.Watching(f"verification failed: {error}", self._settings.wait_poll_seconds)
        if isinstance(answer, outcomes.Watching):
            answer = self._watch_or_give_up(claim, answer)
        if isinstance(answer, moves.Move):
            return answer
        return transitions.verified(claim, answer, self._is_reversible)

    def _watch_or_give_up(self, claim: moves.Claim, watching: outcomes.Watching) -> moves.Move | outcomes.Judged:
        spec, began = claim.plan.verify, claim.cursor.opened_at
        if spec is None or began is None:
            return outcomes.Judged(outcomes.Verdict.UNKNOWN, "the run has nothing to verify against", has_control=False)
        limit = spec.within_seconds + spec.hold_seconds + self._settings.verify_grace_seconds
        if self._ports.clock.now() >= began + timedelta(seconds=limit):
            sentence = f"no verdict within {limit:g} s; last: {watching.sentence}"
            return outcomes.Judged(outcomes.Verdict.UNKNOWN, sentence, has_control=False)
        return transitions.keep_waiting(claim, watching.again_seconds)
