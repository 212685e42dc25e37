"""Alerts as they arrive: every notification once, and the newest state of every alert.

Implements `ports.AlertStore` for intake and the tick. Never interprets an alert. Async; the work runs in `database`.
"""

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from controlplane.domain import alerting, ports
from controlplane.store import codec, remembered, tables, upserts
from controlplane.store import database as db

# A "firing" about an episode that ended this long ago is no late delivery: Prometheus lost sight of Alertmanager, which
# gave the alert up, and now sends it again with its old start. Retries and the replicas of one Alertmanager are faster.
_COMEBACK_SECONDS = 300.0
# Longer than any usual repeat_interval: 4 h in Alertmanager and Grafana, 1 h in our own configuration.
DEFAULT_MAX_AGE_SECONDS = 86_400.0


class AlertRepository:
    """Alerts in the database. One that was not announced again for `max_age_seconds` does not fire any more."""

    def __init__(
        self, database: db.Database, clock: ports.Clock, max_age_seconds: float = DEFAULT_MAX_AGE_SECONDS
    ) -> None:
        self._database = database
        self._clock = clock
        self._max_age = timedelta(seconds=max_age_seconds)
        self._known = remembered.Remembered(alerting.Alert)

    async def store(self, notification: alerting.Notification) -> bool:
        """Keep a notification and move its alerts forward, in one commit; False when it was stored before.

        An alert moves only forward: a notice about an earlier episode changes nothing, and neither does a late
        "firing" about an episode that has just ended. A repeat says that what fired still does. Raises
        OverloadedError.
        """
        # Encoded here and not in the unit of work: the one writer thread should not do what callers can.
        now = self._clock.now()
        heading = _heading_row(notification, now)
        rows = [_alert_row(notification.source, alert, now) for alert in notification.alerts]

        def work(connection: sa.Connection) -> bool:
            is_new = connection.execute(_add_heading(connection.dialect.name), heading).first() is not None
            if rows:
                connection.execute(_move_forward(connection.dialect.name), rows)
            return is_new

        return await self._database.write(work)

    async def active(self, *, service: str | None = None, node: str | None = None) -> Sequence[alerting.Alert]:
        """Return the alerts whose newest notice says firing, oldest episode first; those of one target, if it is named.

        Alertmanager repeats what fires. A "resolved" may be lost for good, when it is restarted for example; without
        an end of our own such an alert would keep its incident open, and people paged, for ever.
        """
        given = {"service": service, "node": node}
        labels = {name: text for name, text in given.items() if text is not None}
        query, values = _firing(tuple(labels)), {**labels, "since": self._clock.now() - self._max_age}
        # Decoded by the reading thread: thousands of alerts would hold up everybody else on the event loop.
        return await self._database.read(
            lambda connection: tuple(
                self._known.decode(one) for one in connection.execute(query, values).scalars().all()
            )
        )


# Statements are made once: to make one takes longer than to run it.
@functools.cache
def _firing(labels: tuple[str, ...]) -> sa.Select[str]:
    """Return the query for what fires and was told after the parameter `since`, with parameters for these labels."""
    alert = tables.ALERT.c
    query = sa.select(remembered.text_of(alert.document)).where(
        alert.status == alerting.AlertStatus.FIRING,
        alert.received_at >= sa.bindparam("since", type_=tables.UtcTime),
    )
    for name in labels:
        query = query.where(sa.func.coalesce(alert.document["labels"][name].as_string(), "") == sa.bindparam(name))
    return query.order_by(alert.starts_at, alert.source, alert.fingerprint)


@functools.cache
def _add_heading(dialect: str) -> sa.Insert:
    """Return the insert that says with a row whether the notification is new.

    With RETURNING and not by the row count, which PostgreSQL's driver does not give for inserts.
    """
    insert = upserts.insert_if_absent(dialect, tables.NOTIFICATION)
    return insert.returning(tables.NOTIFICATION.c.idempotency_key)


@functools.cache
def _move_forward(dialect: str) -> sa.Insert:
    """Return the upsert that keeps the newer of the stored and the arriving notice.

    Newer is a later start; within one episode the end wins, unless it came before the parameter `long_ago`. "firing"
    sorts before "resolved", which makes the comparison of the two words that rule.
    """
    alert, long_ago = tables.ALERT, sa.bindparam("long_ago", type_=tables.UtcTime)
    return upserts.insert_or_update(
        dialect,
        alert,
        when=lambda new: sa.or_(
            new.starts_at > alert.c.starts_at,
            sa.and_(
                new.starts_at == alert.c.starts_at,
                sa.or_(new.status >= alert.c.status, alert.c.received_at < long_ago),
            ),
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
        "long_ago": now - timedelta(seconds=_COMEBACK_SECONDS),
    }
