"""The kill switch: who holds automation back, and why. It survives a restart.

Implements `ports.AutomationStore` for the guard and the API. Async; the work runs in `database`.
"""

from collections.abc import Mapping

import sqlalchemy as sa

from controlplane.domain import ports
from controlplane.store import database as db
from controlplane.store import tables, upserts

_BRAKE = tables.AUTOMATION_BRAKE


class AutomationRepository:
    """Brakes in the database."""

    def __init__(self, database: db.Database, clock: ports.Clock) -> None:
        self._database = database
        self._clock = clock

    async def paused(self) -> Mapping[str, str]:
        """Return who holds the brake: name to reason. Empty means automation may act."""
        query = sa.select(_BRAKE.c.who, _BRAKE.c.reason).order_by(_BRAKE.c.at, _BRAKE.c.who)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
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
