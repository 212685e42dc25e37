"""Drives one claimed run: one move, one commit, until it is parked, ends, or is somebody else's.

Called by the engine, one asyncio task per claimed run. A failed commit is repeated for as long as the lease holds:
the effect has happened, only its record is missing, and giving up early would make a doubt out of a fact.
"""

import dataclasses
from collections.abc import Callable

import sqlalchemy as sa
import structlog

from controlplane.domain import errors, outcomes, plans
from controlplane.runs import (
    acting,
    conditions,
    config,
    failpoints,
    ledger,
    moves,
    replica,
    transitions,
    undoing,
    waiting,
)
from controlplane.store import database as db

_COMMIT_RETRY_SECONDS = 0.2


class Driver:
    """Turns claims into moves and commits them. `is_stopping` asks to hand over at the next step's border."""

    def __init__(
        self,
        database: db.Database,
        ports: config.RunPorts,
        settings: config.RunSettings,
        member: replica.Replica,
        *,
        fail_points: failpoints.FailPoints,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._database = database
        self._clock = ports.clock
        self._member = member
        self._fail_points = fail_points
        self._is_stopping = is_stopping
        self._acting = acting.Acting(ports, settings, may_act=member.may_act, fail_points=fail_points)
        self._undoing = undoing.Undoing(ports, settings, database, may_act=member.may_act)
        self._conditions = conditions.Conditions(ports, settings, self._acting)
        self._waiting = waiting.Waiting(ports, settings, self._acting, database)
        self._log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("dsctl.runs")

    async def drive(self, claim: moves.Claim) -> outcomes.RunState | None:
        """Drive a run as far as it goes now and return its state, or None when this replica has lost it."""
        try:
            while True:
                move = self._hand_over_if_stopping(await self._next_or_give_up(claim))
                committed = await self._commit(claim, move)
                if move.state is not outcomes.RunState.RUNNING:
                    return self._park(move.state)
                claim = _go_on(claim, move, committed)
        except errors.LostLeaseError as error:
            self._log.warning("run_lost", run=claim.run_id, token=claim.token, reason=str(error))
            return None

    def _park(self, state: outcomes.RunState) -> outcomes.RunState:
        if state is outcomes.RunState.WAITING:
            self._fail_points.reach(failpoints.Point.AT_WAIT)
        return state

    async def _next_or_give_up(self, claim: moves.Claim) -> moves.Move:
        try:
            return await self._next(claim)
        except errors.LostLeaseError:
            raise
        except Exception as error:  # noqa: BLE001 - it must stop visibly; again would meet the same bug after an effect
            self._log.exception("run_broken", run=claim.run_id, token=claim.token)
            sentence = f"driving the run broke with {type(error).__name__}: {error}; look at {claim.plan.target}"
            return transitions.hand_over(claim, sentence, ())

    async def _next(self, claim: moves.Claim) -> moves.Move:
        if claim.is_cancel_requested:
            return transitions.cancel(claim)
        if claim.cursor.phase is moves.Phase.VERIFY:
            return await self._waiting.verify(claim)
        if claim.cursor.phase is moves.Phase.UNDO:
            return await self._undoing.next(claim)
        return await self._step(claim)

    async def _step(self, claim: moves.Claim) -> moves.Move:
        if transitions.is_condition_open(claim.plan, claim.cursor):
            return await self._conditions.ask(claim)
        if claim.step.kind is plans.StepKind.WAIT:
            return await self._waiting.wait(claim)
        if claim.step.kind is plans.StepKind.APPROVAL:
            return await self._waiting.ask(claim)
        return await self._acting.next(claim)

    def _hand_over_if_stopping(self, move: moves.Move) -> moves.Move:
        if move.state is outcomes.RunState.RUNNING and self._is_stopping():
            return dataclasses.replace(move, state=outcomes.RunState.QUEUED)
        return move

    async def _commit(self, claim: moves.Claim, move: moves.Move) -> ledger.Committed:
        while True:
            try:
                committed = await self._database.write(lambda connection: self._write(connection, claim, move))
            except errors.RetryLaterError as error:
                self._log.warning("commit_failed", run=claim.run_id, token=claim.token, reason=str(error))
                if not self._member.is_held():
                    message = f"run {claim.run_id}: the database did not take the outcome before the lease ran out"
                    raise errors.LostLeaseError(message) from error
                await self._clock.sleep(_COMMIT_RETRY_SECONDS)
            else:
                self._fail_points.reach(failpoints.Point.AFTER_COMMIT)
                return committed

    def _write(self, connection: sa.Connection, claim: moves.Claim, move: moves.Move) -> ledger.Committed:
        now = self._database.now(connection)
        committed = ledger.commit(connection, self._member.id, claim, move, now)
        self._fail_points.reach(failpoints.Point.IN_COMMIT)
        return committed


def _go_on(claim: moves.Claim, move: moves.Move, committed: ledger.Committed) -> moves.Claim:
    return dataclasses.replace(
        claim,
        cursor=committed.cursor,
        revision=committed.revision,
        acted_at=move.acted_at or claim.acted_at,
        is_cancel_requested=committed.is_cancel_requested,
        is_in_doubt=False,
    )
