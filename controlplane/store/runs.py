"""Runs as the rest of the house reads them; only the run engine's ledger writes them.

Implements `ports.RunStore` for the tick, the guard and the API. Async; the work runs in `database`.
"""

import functools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from controlplane.domain import approvals, errors, incidents, outcomes, plans, runs
from controlplane.store import database as db
from controlplane.store import remembered, shared, tables

UNFINISHED = "unfinished"
ASKING = "asking"
_RUN, _EVENT, _APPROVAL = tables.RUN, tables.RUN_EVENT, tables.RUN_APPROVAL
# Plans have some 3,500 characters: two thousand runs that are read again and again.
_MAX_REMEMBERED = 8_000_000
_COLUMNS = ("id", "state", "step", "created_at", "acted_at", "ended_at", "verdict", "sentence")


class RunRepository:
    """Runs in the database, for reading."""

    def __init__(self, database: db.Database) -> None:
        self._database = database
        self._shared = shared.SharedReads(database)
        self._plans = remembered.Remembered(plans.Plan, _MAX_REMEMBERED)

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
        """Return runs, newest first. A run that was not read lately costs 0.3 ms: ask narrowly."""
        given = {
            "service": service,
            "incident_id": incident_id,
            "runbook": runbook,
            "dedup_key": dedup_key,
            "ended_since": ended_since,
        }
        values = {name: value for name, value in given.items() if value is not None}
        return await self._select(_finding(tuple(values), state), {**values, "at_most": limit})

    async def newest(self) -> Mapping[str, runs.Run]:
        """Return the newest run of each incident that is not closed and has one, by the incident's id."""
        incident = tables.INCIDENT.c
        last = (
            sa.select(_RUN.c.incident_id, sa.func.max(_RUN.c.created_at).label("at"))
            # From the few open incidents to their runs: a join would read all runs there ever were.
            .where(
                _RUN.c.incident_id.in_(sa.select(incident.id).where(incident.state != incidents.IncidentState.CLOSED))
            )
            .group_by(_RUN.c.incident_id)
            .subquery()
        )
        # The runs of one incident are born at different instants, see the ledger.
        is_last = sa.and_(_RUN.c.incident_id == last.c.incident_id, _RUN.c.created_at == last.c.at)
        found = await self._select(_query().join_from(_RUN, last, is_last))
        return {run.plan.request.incident_id: run for run in found if run.plan.request.incident_id is not None}

    async def events(self, run_id: str) -> Sequence[runs.RunEvent]:
        """Return the event log of a run in order."""
        query = sa.select(_EVENT).where(_EVENT.c.run_id == run_id).order_by(_EVENT.c.number)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return tuple(
            runs.RunEvent(row.number, row.at, runs.RunEventKind(row.kind), row.step, row.token, row.data)
            for row in rows
        )

    async def approvals(self, run_id: str) -> tuple[approvals.Approval, ...]:
        """Return what people answered a run that asks them, oldest first."""
        return await self._database.read(lambda connection: read_approvals(connection, run_id))

    async def _select(self, query: sa.Select[Any], values: Mapping[str, Any] | None = None) -> Sequence[runs.Run]:
        key = (query, tuple((values or {}).items()))
        return await self._shared.read(
            key, lambda connection: tuple(_run(row, self._plans) for row in connection.execute(query, values).all())
        )


def read_approvals(connection: sa.Connection, run_id: str, step: str | None = None) -> tuple[approvals.Approval, ...]:
    """Return the answers a run has, oldest first; those to one step, if it is named."""
    query = sa.select(_APPROVAL).where(_APPROVAL.c.run_id == run_id).order_by(_APPROVAL.c.at, _APPROVAL.c.who)
    if step is not None:
        query = query.where(_APPROVAL.c.step == step)
    return tuple(approvals.Approval(**row) for row in connection.execute(query).mappings())


def _query() -> sa.Select[Any]:
    # Of the cursor nothing but the deadline matters outside of runs.
    deadline = _RUN.c.cursor["deadline_at"].as_string().label("deadline")
    columns: list[sa.ColumnElement[Any]] = [_RUN.c[name] for name in _COLUMNS]
    return sa.select(*columns).add_columns(deadline, remembered.text_of(_RUN.c.plan))


# Made once for each set of questions: the guard asks some of them anew for every plan.
@functools.lru_cache(maxsize=256)
def _finding(given: tuple[str, ...], state: str | None) -> sa.Select[Any]:
    """Return the query over these columns; its parameters are named after them, and `at_most`."""
    query = _query()
    for name in given:
        if name == "ended_since":
            query = query.where(_RUN.c.ended_at >= sa.bindparam(name, type_=tables.UtcTime))
        else:
            query = query.where(_RUN.c[name] == sa.bindparam(name))
    if state == ASKING:
        query = query.where(_RUN.c.state.in_(_states(UNFINISHED)), _RUN.c.awaits.is_not(None))
    elif state is not None:
        query = query.where(_RUN.c.state.in_(_states(state)))
    return query.order_by(_RUN.c.created_at.desc(), _RUN.c.id.desc()).limit(sa.bindparam("at_most", type_=sa.Integer))


def _states(state: str) -> Sequence[str]:
    if state == UNFINISHED:
        return [one for one in outcomes.RunState if not one.is_final]
    return [state]


def _run(row: sa.Row[Any], known: remembered.Remembered[plans.Plan]) -> runs.Run:
    try:
        plan = known.decode(row.plan)
    except errors.InvariantBrokenError as error:
        raise errors.InvariantBrokenError(f"run {row.id}: {error}; end it with: dsctl runs cancel {row.id}") from error
    return runs.Run(
        id=row.id,
        plan=plan,
        state=outcomes.RunState(row.state),
        step=row.step,
        created_at=row.created_at,
        acted_at=row.acted_at,
        ended_at=row.ended_at,
        verdict=outcomes.Verdict(row.verdict) if row.verdict is not None else None,
        sentence=row.sentence,
        deadline_at=None if row.deadline is None else datetime.fromisoformat(row.deadline).astimezone(UTC),
    )
