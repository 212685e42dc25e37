"""Deletes what nobody needs any more, so that the database does not grow for ever.

Called by `wiring` on a schedule. Never touches what is still open: unclosed incidents, runs that are not final or
that still owe an escalation or whose incident is open, live tokens, brakes. Async; each batch is a short transaction of its own, so that the
writer is never held up for long.
"""

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from controlplane.domain import incidents, ports
from controlplane.store import database as db
from controlplane.store import tables

_BATCH = 500
_FINAL_INCIDENT = incidents.IncidentState.CLOSED


async def sweep(database: db.Database, clock: ports.Clock, *, keep_days: float) -> int:
    """Delete what ended more than `keep_days` ago and return how many rows that were."""
    before = clock.now() - timedelta(days=keep_days)
    num_deleted = 0
    for table, is_old in _old_rows(before):
        num_deleted += await _delete(database, table, is_old)
    return num_deleted


def _old_rows(before: datetime) -> list[tuple[sa.Table, sa.ColumnElement[bool]]]:
    run, errand, incident = tables.RUN.c, tables.RUN_ERRAND.c, tables.INCIDENT.c
    owes = sa.exists().where(errand.run_id == run.id, errand.done_at.is_(None))
    is_followed = sa.exists().where(incident.id == run.incident_id, incident.state != _FINAL_INCIDENT)
    return [
        (tables.NOTIFICATION, tables.NOTIFICATION.c.received_at < before),
        (tables.ALERT, tables.ALERT.c.received_at < before),
        (tables.DECISION, tables.DECISION.c.at < before),
        (tables.RUN, sa.and_(run.ended_at < before, ~owes, ~is_followed)),
        (tables.INCIDENT, sa.and_(incident.state == _FINAL_INCIDENT, incident.closed_at < before)),
        (tables.API_TOKEN, tables.API_TOKEN.c.revoked_at < before),
        (tables.REPLICA, tables.REPLICA.c.lease_until < before),
    ]


async def _delete(database: db.Database, table: sa.Table, is_old: sa.ColumnElement[bool]) -> int:
    key: list[sa.Column[Any]] = list(table.primary_key.columns)
    chosen = sa.select(*key).where(is_old).limit(_BATCH)
    delete = table.delete().where(sa.tuple_(*key).in_(chosen))
    num_deleted = 0
    while batch := await database.write(lambda connection: connection.execute(delete).rowcount):
        num_deleted += batch
    return num_deleted
