"""The deeds of runs and the records of trust, for the ledgers.

Implements `trust.TrustStore` for `engine.autonomy`. Reads columns only, never plans: a run costs a few microseconds, and
what has ended since the last look comes from an index. Async; the work runs in `database`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from controlplane.domain import outcomes, policies, trust
from controlplane.store import database as db
from controlplane.store import tables

_RUN, _INCIDENT, _ENTRY = tables.RUN, tables.INCIDENT, tables.TRUST_ENTRY
# Three months of a busy fleet; older runs say little about the runbook of today.
MAX_DEEDS = 20_000


class TrustRepository:
    """Deeds and trust in the database."""

    def __init__(self, database: db.Database) -> None:
        self._database = database

    async def deeds(self, *, ended_since: datetime | None = None) -> tuple[trust.Deed, ...]:
        """Return the runs that acted and ended by themselves, oldest end first; of very many the newest."""
        query = _deeds()
        if ended_since is not None:
            query = query.where(_RUN.c.ended_at >= ended_since)
        newest = query.order_by(_RUN.c.ended_at.desc(), _RUN.c.id.desc()).limit(MAX_DEEDS)
        return await self._database.read(
            lambda connection: tuple(_deed(row) for row in reversed(connection.execute(newest).all()))
        )

    async def trusts(self) -> Mapping[str, trust.Trust]:
        """Return where policies stand, by name; one that nothing was ever written about is absent."""
        query = sa.select(_ENTRY).order_by(_ENTRY.c.id)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        found: dict[str, trust.Trust] = {}
        for row in rows:
            found[row.policy] = _after(found.get(row.policy, trust.Trust()), _entry(row))
        return found

    async def append(self, entry: trust.Entry) -> None:
        """Write one line, durably; it holds from then on."""
        row = {
            "policy": entry.policy,
            "kind": entry.kind,
            "at": entry.at,
            "who": entry.who,
            "why": entry.why,
            "before": entry.before,
            "mode": entry.mode,
        }
        await self._database.write(lambda connection: connection.execute(_ENTRY.insert(), row))


def _deeds() -> sa.Select[Any]:
    names = ("id", "runbook", "service", "policy", "verdict", "acted_at", "ended_at")
    joined = _RUN.outerjoin(_INCIDENT, _RUN.c.incident_id == _INCIDENT.c.id)
    ended = sa.and_(_RUN.c.ended_at.is_not(None), _RUN.c.acted_at.is_not(None))
    by_itself = _RUN.c.state != outcomes.RunState.CANCELLED
    columns = (*(_RUN.c[name] for name in names), _INCIDENT.c.opened_at)
    return sa.select(*columns).select_from(joined).where(ended, by_itself)


def _deed(row: sa.Row[Any]) -> trust.Deed:
    return trust.Deed(
        run_id=row.id,
        runbook=row.runbook,
        service=row.service,
        policy=row.policy,
        verdict=outcomes.Verdict(row.verdict) if row.verdict is not None else None,
        acted_at=row.acted_at,
        ended_at=row.ended_at,
        opened_at=row.opened_at,
    )


def _entry(row: sa.Row[Any]) -> trust.Entry:
    before, mode = policies.Mode(row.before), policies.Mode(row.mode)
    return trust.Entry(row.policy, trust.Kind(row.kind), row.at, row.who, row.why, before, mode)


def _after(standing: trust.Trust, entry: trust.Entry) -> trust.Trust:
    """Return where a policy stands after one more line."""
    if entry.kind is trust.Kind.RESET:
        return trust.Trust(demotion=None, counts_from=entry.at)
    return trust.Trust(demotion=entry, counts_from=standing.counts_from)
