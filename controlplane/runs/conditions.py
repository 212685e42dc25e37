"""Conditions of steps: asked once when a step's turn has come, before it is announced, never guessed.

Called by the driver; returns the move to commit. Where the condition holds the step is announced next, where it does
not the step is left out. One that is neither true nor false, because a signal is unknown or a reader broke, is asked
again for a while; then the step fails with the reason. Nothing is acted on here, so a process that dies meanwhile
leaves nothing in doubt, and the next one asks again. Async.
"""

import dataclasses
from collections.abc import Mapping
from datetime import timedelta

import structlog

from controlplane.domain import ports, runs
from controlplane.runs import acting, config, moves, transitions

_Kind = runs.RunEventKind


class Conditions:
    """Asks whether the step at the cursor is to be carried out."""

    def __init__(self, rooms: config.RunPorts, settings: config.RunSettings, reversibility: acting.Acting) -> None:
        self._ports = rooms
        self._settings = settings
        self._is_reversible = reversibility.is_reversible
        self._log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("dsctl.runs")

    async def ask(self, claim: moves.Claim) -> moves.Move:
        """Admit the step, leave it out, look again later, or let it fail because nobody can tell."""
        answer = await self._evaluate(claim) if claim.step.decided is None else claim.step.decided
        if isinstance(answer, str):
            return self._be_patient(claim, answer)
        return transitions.admit(claim) if answer else transitions.leave_out(claim)

    async def _evaluate(self, claim: moves.Claim) -> bool | str:
        """Return the answer, or why there is none."""
        try:
            return self._ports.conditions.is_true(claim.step.when, await read_variables(self._ports.facts, claim))
        except Exception as error:  # noqa: BLE001 - whatever fails while looking, the answer is not known
            self._log.debug("condition_not_evaluated", run=claim.run_id, step=claim.step.name, reason=str(error))
            return str(error) or type(error).__name__

    def _be_patient(self, claim: moves.Claim, reason: str) -> moves.Move:
        now, step = self._ports.clock.now(), claim.step
        deadline = claim.cursor.deadline_at or now + timedelta(seconds=self._settings.doubt_patience_seconds)
        left = (deadline - now).total_seconds()
        if left <= 0:
            return self._give_up(claim, f"step {step.name}: nobody can tell whether {step.when}: {reason}")
        waits = transitions.keep_waiting(claim, min(left, self._settings.doubt_poll_seconds), deadline_at=deadline)
        if claim.cursor.deadline_at is not None:
            return waits
        until = f"it is known whether {step.when}"
        said = {"until": until, "sentence": f"waits until {until}: {reason}", "deadline": deadline.isoformat()}
        return dataclasses.replace(waits, entries=(moves.Entry(_Kind.WAITING, step.name, said),))

    def _give_up(self, claim: moves.Claim, sentence: str) -> moves.Move:
        entry = moves.Entry(_Kind.STEP_FAILED, claim.step.name, {"error": sentence})
        if claim.step.continue_on_failure:
            return transitions.pass_over(claim, (entry,))
        return transitions.fail(claim, sentence, (entry,), self._is_reversible)


async def read_variables(facts: ports.FleetFacts, claim: moves.Claim) -> Mapping[str, object]:
    """Return what the conditions of the step at the cursor may read: an included step has inputs of its own."""
    variables, own = await facts.variables(claim.plan), claim.step.inputs
    return variables if own is None else {**variables, "inputs": dict(own)}
