"""Alerts as they arrive: every notification once, and the newest state of every alert.

Implements `ports.AlertStore` for intake and the tick. Never interprets an alert. Async; the work runs in `database`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from controlplane.domain import alerting, ports
from controlplane.store import codec, tables, upserts
from controlplane.store import database as db


class AlertRepository:
    """Alerts in the database."""

    def __init__(self, database: db.Database, clock: ports.Clock) -> None:
        self._database = database
        self._clock = clock

    async def store(self, notification: alerting.Notification) -> bool:
        """Keep a notification and move its alerts forward, in one commit; False when it was stored before.

        An alert moves only forward: a notice about an earlier episode changes nothing, and neither does a late
        "firing" about an episode that has ended. Raises OverloadedError.
        """
        # Encoded here and not in the unit of work: the one writer thread should not do what callers can.
        now = self._clock.now()
        heading = _heading_row(notification, now)
        rows = [_alert_row(notification.source, alert, now) for alert in notification.alerts]

        def work(connection: sa.Connection) -> bool:
            # RETURNING and not the row count, which PostgreSQL's driver does not give for inserts.
            key = tables.NOTIFICATION.c.idempotency_key
            insert = upserts.insert_if_absent(connection, tables.NOTIFICATION).returning(key)
            if connection.execute(insert, heading).first() is None:
                return False
            if rows:
                connection.execute(_move_forward(connection), rows)
            return True

        return await self._database.write(work)

    async def active(self, *, received_since: datetime | None = None) -> Sequence[alerting.Alert]:
        """Return the alerts whose newest notice says firing, oldest episode first.

        With `received_since`, only those that were announced again since then: Alertmanager repeats what fires.
        """
        query = (
            sa.select(tables.ALERT.c.document)
            .where(tables.ALERT.c.status == alerting.AlertStatus.FIRING)
            .order_by(tables.ALERT.c.starts_at, tables.ALERT.c.source, tables.ALERT.c.fingerprint)
        )
        if received_since is not None:
            query = query.where(tables.ALERT.c.received_at >= received_since)
        documents = await self._database.read(lambda connection: connection.execute(query).scalars().all())
        return tuple(codec.from_json(alerting.Alert, one) for one in documents)


def _move_forward(connection: sa.Connection) -> sa.Insert:
    """Return the upsert that keeps the newer of the stored and the arriving notice.

    Newer is a later start; within one episode the end wins. "firing" sorts before "resolved", which makes the
    comparison of the two words that rule.
    """
    alert = tables.ALERT
    return upserts.insert_or_update(
        connection,
        alert,
        when=lambda new: sa.or_(
            new.starts_at > alert.c.starts_at,
            sa.and_(new.starts_at == alert.c.starts_at, new.status >= alert.c.status),
        ),
    )


def _heading_row(notification: alerting.Notification, now: datetime) -> Mapping[str, Any]:
    return {
        "idempotency_key": notification.idempotency_key,
        "received_at": now,
        "source": notification.source,
        "receiver": notification.receiver,
        "status": notification.status,
        "document": codec.to_json(notification),
    }


def _alert_row(source: str, alert: alerting.Alert, now: datetime) -> Mapping[str, Any]:
    return {
        "source": source,
        "fingerprint": alert.fingerprint,
        "status": alert.status,
        "starts_at": alert.starts_at,
        "ends_at": alert.ends_at,
        "received_at": now,
        "document": codec.to_json(alert),
    }
