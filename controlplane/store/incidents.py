"""Incidents and their timelines.

Implements `ports.IncidentStore` for the tick and the API. Async; the work runs in `database`.
"""

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import exc

from controlplane.domain import errors, incidents, ports
from controlplane.store import codec, remembered, tables, upserts
from controlplane.store import database as db

_DOCUMENT = remembered.text_of(tables.INCIDENT.c.document)
# Made once: the guard asks for an incident with every plan.
_ONE = sa.select(_DOCUMENT).where(tables.INCIDENT.c.id == sa.bindparam("one"))
_UNCLOSED = (
    sa.select(_DOCUMENT)
    .where(tables.INCIDENT.c.state != incidents.IncidentState.CLOSED)
    .order_by(tables.INCIDENT.c.opened_at, tables.INCIDENT.c.id)
)


class IncidentRepository:
    """Incidents in the database."""

    def __init__(self, database: db.Database, clock: ports.Clock) -> None:
        self._database = database
        self._clock = clock
        self._known = remembered.Remembered(incidents.Incident)

    async def unclosed(self) -> Sequence[incidents.Incident]:
        """Return every incident that is not closed, oldest first."""
        return await self._select(_UNCLOSED)

    async def save(self, incident: incidents.Incident, note: str) -> None:
        """Insert or update, and append `note` to the timeline unless it is empty, in one commit.

        Raises ConflictError when another incident with the same key is not closed.
        """
        # Encoded here and not in the unit of work: the one writer thread should not do what callers can.
        now, row = self._clock.now(), _row(incident)

        def work(connection: sa.Connection) -> None:
            connection.execute(_put(connection.dialect.name), row)
            if note:
                connection.execute(tables.INCIDENT_NOTE.insert(), {"incident_id": incident.id, "at": now, "text": note})

        try:
            await self._database.write(work)
        except exc.IntegrityError as error:
            raise errors.ConflictError(
                f"another incident {incident.key} is open already, so {incident.id} was not stored;"
                " merge the finding into that one"
            ) from error

    async def get(self, incident_id: str) -> incidents.Incident:
        """Return one incident; raises NotFoundError."""
        found = await self._select(_ONE, {"one": incident_id})
        if not found:
            raise errors.NotFoundError(f"there is no incident {incident_id}; list them with: dsctl incidents list")
        return found[0]

    async def find(
        self, *, service: str | None = None, state: str | None = None, limit: int = 100
    ) -> Sequence[incidents.Incident]:
        """Return incidents, newest first."""
        query = sa.select(_DOCUMENT)
        if service is not None:
            query = query.where(tables.INCIDENT.c.service == service)
        if state is not None:
            query = query.where(tables.INCIDENT.c.state == state)
        newest_first = query.order_by(tables.INCIDENT.c.opened_at.desc(), tables.INCIDENT.c.id.desc())
        return await self._select(newest_first.limit(limit))

    async def timeline(self, incident_id: str) -> Sequence[tuple[datetime, str]]:
        """Return the notes of an incident in order."""
        note = tables.INCIDENT_NOTE.c
        query = sa.select(note.at, note.text).where(note.incident_id == incident_id).order_by(note.id)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return tuple((row.at, row.text) for row in rows)

    async def _select(
        self, query: sa.Select[str], values: Mapping[str, str] | None = None
    ) -> Sequence[incidents.Incident]:
        # Decoded by the reading thread: thousands of incidents would hold up everybody else on the event loop.
        return await self._database.read(
            lambda connection: tuple(
                self._known.decode(one) for one in connection.execute(query, values).scalars().all()
            )
        )


@functools.cache
def _put(dialect: str) -> sa.Insert:
    return upserts.insert_or_update(dialect, tables.INCIDENT)


def _row(incident: incidents.Incident) -> dict[str, object]:
    return {
        "id": incident.id,
        "service": incident.key.service,
        "fault": incident.key.fault,
        "node": incident.key.node,
        "state": incident.state,
        "opened_at": incident.opened_at,
        "updated_at": incident.updated_at,
        "closed_at": incident.closed_at,
        "document": codec.to_json(incident),
    }
