"""Delivers what runs owe: escalations to people, follow-up runbooks, and the news that a run waits for people.

Called by the engine's loop. The debts are rows written together with the end of the run, or with its question, so neither
a crash nor a silent Alertmanager loses one. Delivery is at least once: an errand is pushed into the future before it is tried, and
a replica that dies on the way leaves it to the next. Escalations are tried for ever, at a growing distance.
Async; one errand at a time per task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog

from controlplane.domain import errors, plans, runs
from controlplane.runs import config, ledger, moves, tries
from controlplane.store import codec, tables
from controlplane.store import database as db

_RUN, _ERRAND = tables.RUN, tables.RUN_ERRAND
_Kind = runs.RunEventKind
# So many are delivered at once: a silent Alertmanager must not collect a task for everything that is owed.
MAX_AT_ONCE = 20
_MAX_DOUBLINGS = 10


@dataclass(frozen=True, slots=True)
class Owed:
    """One errand in the hands of this replica. `until` is when a run that asks stops asking."""

    run_id: str
    number: int
    kind: plans.EdgeKind
    argument: str
    sentence: str
    attempts: int
    service: str
    node: str
    incident_id: str
    ended_at: datetime | None
    until: datetime
    plan: object


class Errands:
    """Claims and delivers errands."""

    def __init__(self, database: db.Database, ports: config.RunPorts, settings: config.RunSettings) -> None:
        self._database = database
        self._ports = ports
        self._settings = settings
        self._log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("dsctl.runs")

    async def claim(self, limit: int) -> Sequence[Owed]:
        """Take up to `limit` of the errands that are due; each comes back by itself if it is not settled."""
        if limit <= 0 or not await self._database.read(self._has_due):
            return ()
        return await self._database.write(lambda connection: self._claim(connection, limit))

    def _has_due(self, connection: sa.Connection) -> bool:
        return connection.execute(_due(self._database.now(connection)).limit(1)).first() is not None

    def _claim(self, connection: sa.Connection, limit: int) -> Sequence[Owed]:
        now = self._database.now(connection)
        # Twice the timeout: what is still being delivered must not be claimed a second time.
        back_at = now + timedelta(seconds=2 * self._settings.errand_timeout_seconds)
        rows = connection.execute(_due(now).limit(limit).with_for_update(skip_locked=True, of=_ERRAND)).all()
        for row in rows:
            values = {"due_at": back_at, "attempts": row.attempts + 1}
            connection.execute(_ERRAND.update().where(_is(row.run_id, row.number)).values(values))
        return [
            Owed(
                run_id=row.run_id,
                number=row.number,
                kind=plans.EdgeKind(row.kind),
                argument=row.argument,
                sentence=row.sentence,
                attempts=row.attempts + 1,
                service=row.service,
                node=row.node,
                incident_id=row.incident_id or "",
                ended_at=row.ended_at,
                until=row.wake_at,
                plan=row.plan,
            )
            for row in rows
        ]

    async def deliver(self, owed: Owed) -> None:
        """Try one errand and write down what came of it."""
        if owed.kind is plans.EdgeKind.ESCALATE:
            await self._escalate(owed)
        else:
            await self._follow_up(owed)

    async def _escalate(self, owed: Owed) -> None:
        try:
            await tries.bounded(self._tell(owed), timeout_seconds=self._settings.errand_timeout_seconds)
        except Exception as error:  # noqa: BLE001 - people must hear of it: whatever went wrong, it is tried again
            await self._postpone(owed, str(error))
        else:
            await self._settle(
                owed, moves.Entry(_Kind.ESCALATED, data={"to": owed.argument, "sentence": owed.sentence})
            )

    async def _tell(self, owed: Owed) -> None:
        """Tell people; until its end a run owes nothing but calls for approval."""
        if owed.ended_at is None:
            named = (owed.run_id, owed.service, owed.node, owed.argument, owed.sentence)
            await self._ports.asker.ask(*named, owed.until)
        else:
            await self._ports.notifier.escalate(owed.incident_id, owed.service, owed.node, owed.argument, owed.sentence)

    async def _follow_up(self, owed: Owed) -> None:
        try:
            plan = codec.from_json(plans.Plan, owed.plan)
            call = self._ports.follow_up(plan, owed.argument, f"{owed.run_id}:follow-up:{owed.number}")
            run_id = await tries.bounded(call, timeout_seconds=self._settings.errand_timeout_seconds)
        except (errors.RetryLaterError, TimeoutError) as error:
            if self._is_timely(owed):
                await self._postpone(owed, str(error))
            else:
                await self._settle(owed, _refused(owed, f"given up after too long: {error}"))
        except Exception as error:  # noqa: BLE001 - refused or broken, it is written down and not repeated
            await self._settle(owed, _refused(owed, str(error)))
        else:
            await self._settle(owed, moves.Entry(_Kind.FOLLOW_UP, data={"runbook": owed.argument, "run": run_id}))

    def _is_timely(self, owed: Owed) -> bool:
        """Say whether a follow-up still answers the failure: it is owed from the end of a run on."""
        patience = timedelta(seconds=self._settings.follow_up_patience_seconds)
        return owed.ended_at is not None and self._ports.clock.now() < owed.ended_at + patience

    async def _postpone(self, owed: Owed, reason: str) -> None:
        doubled = self._settings.retry_seconds * 2 ** min(owed.attempts - 1, _MAX_DOUBLINGS)
        seconds = min(doubled, self._settings.max_errand_retry_seconds)
        self._log.warning(
            "errand_postponed", run=owed.run_id, kind=owed.kind, to=owed.argument, seconds=seconds, reason=reason
        )

        def work(connection: sa.Connection) -> None:
            due_at = self._database.now(connection) + timedelta(seconds=seconds)
            connection.execute(_ERRAND.update().where(_is(owed.run_id, owed.number)).values(due_at=due_at))

        await self._database.write(work)

    async def _settle(self, owed: Owed, entry: moves.Entry) -> None:
        def work(connection: sa.Connection) -> None:
            # The run first and then its errands, as its owner's commits do: the other order would be a deadlock.
            connection.execute(sa.select(_RUN.c.id).where(_RUN.c.id == owed.run_id).with_for_update())
            now = self._database.now(connection)
            open_errand = sa.and_(_is(owed.run_id, owed.number), _ERRAND.c.done_at.is_(None))
            if connection.execute(_ERRAND.update().where(open_errand).values(done_at=now)).rowcount:
                ledger.append(connection, owed.run_id, entry, now)

        await self._database.write(work)


def _refused(owed: Owed, reason: str) -> moves.Entry:
    return moves.Entry(_Kind.FOLLOW_UP, data={"runbook": owed.argument, "refused": reason})


def _due(now: datetime) -> sa.Select[tuple[object, ...]]:
    columns = (_RUN.c.service, _RUN.c.node, _RUN.c.incident_id, _RUN.c.ended_at, _RUN.c.wake_at, _RUN.c.plan)
    query = sa.select(*_ERRAND.c, *columns).join_from(_ERRAND, _RUN, _RUN.c.id == _ERRAND.c.run_id)
    # As for runs: what is due in the far future was postponed before the clock was stepped back.
    far = now + timedelta(seconds=ledger.MAX_WAKE_SECONDS)
    is_due = sa.or_(_ERRAND.c.due_at <= now, _ERRAND.c.due_at > far)
    return query.where(_ERRAND.c.done_at.is_(None), is_due).order_by(
        _ERRAND.c.due_at, _ERRAND.c.run_id, _ERRAND.c.number
    )


def _is(run_id: str, number: int) -> sa.ColumnElement[bool]:
    return sa.and_(_ERRAND.c.run_id == run_id, _ERRAND.c.number == number)
