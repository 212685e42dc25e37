"""Opens the database and builds every repository on it: the one thing `wiring` needs to know of the store.

Blocking at start (migrations, the lock of the SQLite file); everything it returns is for the event loop.
"""

from dataclasses import dataclass

from controlplane.domain import ports
from controlplane.store import alerts, automation, decisions, incidents, runs, schema, tokens, trust
from controlplane.store import database as db


@dataclass(frozen=True, slots=True)
class House:
    """The store's repositories and the database they share."""

    database: db.Database
    alerts: alerts.AlertRepository
    incidents: incidents.IncidentRepository
    runs: runs.RunRepository
    decisions: decisions.DecisionRepository
    automation: automation.AutomationRepository
    tokens: tokens.TokenRepository
    trust: trust.TrustRepository

    def close(self) -> None:
        """Finish queued writes and let another process have the database; blocking."""
        self.database.close()


def open_house(
    settings: db.DatabaseSettings,
    clock: ports.Clock,
    *,
    alert_max_age_seconds: float = alerts.DEFAULT_MAX_AGE_SECONDS,
) -> House:
    """Open the database, bring its schema up to date, and return the repositories; blocking.

    Raises ConflictError when another process holds the SQLite file, GiveUpError when a newer dsctl changed the
    schema, InvalidInputError for a url it cannot use, RetryLaterError when PostgreSQL does not answer.
    """
    database = db.Database(settings, clock)
    try:
        schema.upgrade(database)
    except BaseException:
        database.close()
        raise
    return House(
        database=database,
        alerts=alerts.AlertRepository(database, clock, alert_max_age_seconds),
        incidents=incidents.IncidentRepository(database, clock),
        runs=runs.RunRepository(database),
        decisions=decisions.DecisionRepository(database),
        automation=automation.AutomationRepository(database, clock),
        tokens=tokens.TokenRepository(database, clock),
        trust=trust.TrustRepository(database),
    )
