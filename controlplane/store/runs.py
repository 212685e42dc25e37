"""Runs as the rest of the house reads them; only the run engine's ledger writes them.

Implements `ports.RunStore` for the tick, the guard and the API. Async; the work runs in `database`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from controlplane.domain import errors, outcomes, plans, runs
from controlplane.store import codec, tables
from controlplane.store import database as db

UNFINISHED = "unfinished"
_RUN, _EVENT = tables.RUN, tables.RUN_EVENT
_COLUMNS = ("id", "plan", "state", "step", "created_at", "acted_at", "ended_at", "verdict", "sentence")


class RunRepository:
    """Runs in the database, for reading."""

    def __init__(self, database: db.Database) -> None:
        self._database = database

    async def get(self, run_id: str) -> runs.Run:
        """Return one run; raises NotFoundError."""
        found = await self._select(_query().where(_RUN.c.id == run_id))
        if not found:
            raise errors.NotFoundError(f"there is no run {run_id}; list them with: dsctl runs list")
        return found[0]

    async def find(
        self,
        *,
        service: str | None = None,
        state: str | None = None,
        incident_id: str | None = None,
        runbook: str | None = None,
        dedup_key: str | None = None,
        ended_since: datetime | None = None,
        limit: int = 100,
    ) -> Sequence[runs.Run]:
        """Return runs, newest first. Building a run from its row costs 0.4 ms on the event loop: ask narrowly."""
        query = _query()
        wanted = {"service": service, "incident_id": incident_id, "runbook": runbook, "dedup_key": dedup_key}
        for column, value in wanted.items():
            if value is not None:
                query = query.where(_RUN.c[column] == value)
        if state is not None:
            query = query.where(_RUN.c.state.in_(_states(state)))
        if ended_since is not None:
            query = query.where(_RUN.c.ended_at >= ended_since)
        return await self._select(query.order_by(_RUN.c.created_at.desc(), _RUN.c.id.desc()).limit(limit))

    async def events(self, run_id: str) -> Sequence[runs.RunEvent]:
        """Return the event log of a run in order."""
        query = sa.select(_EVENT).where(_EVENT.c.run_id == run_id).order_by(_EVENT.c.number)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return tuple(
            runs.RunEvent(row.number, row.at, runs.RunEventKind(row.kind), row.step, row.token, row.data)
            for row in rows
        )

    async def _select(self, query: sa.Select[Any]) -> Sequence[runs.Run]:
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return tuple(_run(row) for row in rows)


def _query() -> sa.Select[Any]:
    return sa.select(*(_RUN.c[name] for name in _COLUMNS))


def _states(state: str) -> Sequence[str]:
    if state == UNFINISHED:
        return [one for one in outcomes.RunState if not one.is_final]
    return [state]


def _run(row: sa.Row[Any]) -> runs.Run:
    return runs.Run(
        id=row.id,
        plan=codec.from_json(plans.Plan, row.plan),
        state=outcomes.RunState(row.state),
        step=row.step,
        created_at=row.created_at,
        acted_at=row.acted_at,
        ended_at=row.ended_at,
        verdict=outcomes.Verdict(row.verdict) if row.verdict is not None else None,
        sentence=row.sentence,
    )
