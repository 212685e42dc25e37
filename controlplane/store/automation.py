"""What keeps automation from acting: brakes that people hold, and breakers that it trips itself. Both survive a restart.

Implements `ports.AutomationStore` for the guard and the API. Async; the work runs in `database`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from controlplane.domain import breakers, errors, ports
from controlplane.store import database as db
from controlplane.store import shared, tables, upserts

_BRAKE, _BREAKER = tables.AUTOMATION_BRAKE, tables.AUTOMATION_BREAKER
# Made once: the guard asks both with every plan.
_BRAKES = sa.select(_BRAKE.c.who, _BRAKE.c.reason).order_by(_BRAKE.c.at, _BRAKE.c.who)
_BREAKERS = sa.select(_BREAKER).order_by(_BREAKER.c.service)


class AutomationRepository:
    """Brakes and breakers in the database."""

    def __init__(self, database: db.Database, clock: ports.Clock) -> None:
        self._database = database
        self._clock = clock
        self._shared = shared.SharedReads(database)

    async def paused(self) -> Mapping[str, str]:
        """Return who holds the brake: name to reason. Empty means automation may act."""
        rows = await self._shared.read("brakes", lambda connection: connection.execute(_BRAKES).all())
        return {row.who: row.reason for row in rows}

    async def pause(self, who: str, reason: str) -> None:
        """Hold the brake; the same name replaces its reason."""
        row = {"who": who, "reason": reason, "at": self._clock.now()}
        await self._database.write(
            lambda connection: connection.execute(upserts.insert_or_update(connection, _BRAKE), row)
        )

    async def resume(self, who: str | None = None) -> None:
        """Release one brake, or all of them."""
        release = _BRAKE.delete() if who is None else _BRAKE.delete().where(_BRAKE.c.who == who)
        await self._database.write(lambda connection: connection.execute(release))

    async def breakers(self) -> Mapping[str, breakers.Breaker]:
        """Return the breakers that ever tripped, by service, the open ones and those that were reset."""
        rows = await self._shared.read("breakers", lambda connection: connection.execute(_BREAKERS).all())
        return {row.service: _breaker(row) for row in rows}

    async def trip(self, service: str, sentence: str, nodes: Sequence[str]) -> None:
        """Open the breaker of a service until a person resets it; one that is open stays as it is."""

        def work(connection: sa.Connection) -> None:
            known = connection.execute(sa.select(_BREAKER).where(_BREAKER.c.service == service)).first()
            if known is not None and known.is_open:
                return
            now = self._database.now(connection)
            opened = {"is_open": True, "tripped_at": now, "sentence": sentence, "nodes": [*nodes]}
            if known is not None:
                connection.execute(_BREAKER.update().where(_BREAKER.c.service == service).values(opened))
                return
            row = {"service": service, **opened, "reset_at": None, "reset_by": "", "reset_reason": ""}
            # Another replica may have been first: its reason stays.
            connection.execute(upserts.insert_if_absent(connection, _BREAKER), row)

        await self._database.write(work)

    async def reset(self, service: str, who: str, reason: str) -> None:
        """Close the breaker of a service; raises NotFoundError when it is not open."""

        def work(connection: sa.Connection) -> None:
            now = self._database.now(connection)
            closed = {"is_open": False, "reset_at": now, "reset_by": who, "reset_reason": reason}
            is_it = sa.and_(_BREAKER.c.service == service, _BREAKER.c.is_open)
            if connection.execute(_BREAKER.update().where(is_it).values(closed)).rowcount == 0:
                raise errors.NotFoundError(
                    f"the breaker of {service} is not open; those that are: `dsctl automation breaker list`"
                )

        await self._database.write(work)


def _breaker(row: sa.Row[Any]) -> breakers.Breaker:
    return breakers.Breaker(
        service=row.service,
        is_open=row.is_open,
        tripped_at=row.tripped_at,
        sentence=row.sentence,
        nodes=tuple(row.nodes),
        reset_at=row.reset_at,
        reset_by=row.reset_by,
        reset_reason=row.reset_reason,
    )
