"""The answers of decide and guard, kept so that "why not" has an answer weeks later.

Implements `ports.DecisionStore` for the tick, the remediator and the API. Async; the work runs in `database`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from controlplane.domain import outcomes
from controlplane.store import codec, tables
from controlplane.store import database as db

_DECISION = tables.DECISION
_PLAIN = tuple(one.name for one in dataclasses.fields(outcomes.Decision) if one.name != "answers")


class DecisionRepository:
    """Decisions in the database."""

    def __init__(self, database: db.Database) -> None:
        self._database = database

    async def record(self, decision: outcomes.Decision) -> None:
        """Append one decision.

        The tick repeats itself every few seconds while nothing changes but the numbers ("4 min left"). When the newest
        decision of the incident is the same refusal, by the same gate, that row moves to the new id, time, sentence
        and numbers, and counts, instead of a second one being stored.
        """
        row = _row(decision)

        def work(connection: sa.Connection) -> None:
            repeated = _find_repeated(connection, decision)
            if repeated is None:
                connection.execute(_DECISION.insert(), row)
                return
            counted = {"times": repeated.times + 1, "since": repeated.since or repeated.at}
            connection.execute(_DECISION.update().where(_DECISION.c.id == repeated.id).values(row | counted))

        await self._database.write(work)

    async def find(
        self,
        *,
        incident_id: str | None = None,
        run_id: str | None = None,
        service: str | None = None,
        target: str | None = None,
        limit: int = 100,
    ) -> Sequence[outcomes.Decision]:
        """Return decisions, newest first."""
        query = sa.select(_DECISION).order_by(_DECISION.c.at.desc(), _DECISION.c.id.desc()).limit(limit)
        wanted = {"incident_id": incident_id, "run_id": run_id, "service": service, "target": target}
        for column, value in wanted.items():
            if value is not None:
                query = query.where(_DECISION.c[column] == value)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return tuple(_decision(row) for row in rows)


def _find_repeated(connection: sa.Connection, decision: outcomes.Decision) -> sa.Row[Any] | None:
    # What was allowed led to a run, and what a person asked for was answered with the decision's id: those stay.
    is_repeatable = decision.outcome == "held" or (decision.outcome == "denied" and decision.policy is not None)
    if decision.incident_id is None or not is_repeatable:
        return None
    newest = connection.execute(
        sa.select(_DECISION)
        .where(_DECISION.c.incident_id == decision.incident_id)
        .order_by(_DECISION.c.at.desc(), _DECISION.c.id.desc())
        .limit(1)
    ).first()
    said = ("outcome", "policy", "runbook", "target", "run_id")
    if newest is None or any(getattr(newest, one) != getattr(decision, one) for one in said):
        return None
    return newest if _is_same_refusal(newest, decision) else None


def _is_same_refusal(newest: sa.Row[Any], decision: outcomes.Decision) -> bool:
    """Compare the gate that refused, which was asked last; what decide holds back has no gate, only its sentence."""
    if not newest.answers or not decision.answers:
        return bool(newest.sentence == decision.sentence)
    return bool(newest.answers[-1]["gate"] == decision.answers[-1].gate)


def _row(decision: outcomes.Decision) -> dict[str, Any]:
    return {name: getattr(decision, name) for name in _PLAIN} | {"answers": codec.to_json(decision.answers)}


def _decision(row: sa.Row[Any]) -> outcomes.Decision:
    answers = tuple(codec.from_json(outcomes.GateAnswer, one) for one in row.answers)
    return outcomes.Decision(**{name: getattr(row, name) for name in _PLAIN}, answers=answers)
