"""Brings a database to the schema this version needs, once, at start.

Called by `house`. Blocking. The migrations lie in this package, so that the wheel carries them.
Never goes back: a database that a newer version has changed is refused.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import command, config, script, util
from alembic.runtime import migration

from controlplane.domain import errors
from controlplane.store import database as db

_MIGRATIONS = Path(__file__).parent / "migrations"
# Replicas that start together on PostgreSQL migrate one after the other under this advisory lock; any number does.
_MIGRATION_LOCK = 7_236_110


def upgrade(database: db.Database) -> None:
    """Apply every missing migration in one transaction.

    Raises GiveUpError when the schema is newer than this version: then upgrade dsctl or restore a backup.
    """
    database.migrate(_upgrade)


def revision(connection: sa.Connection) -> str | None:
    """Return the revision the database stands at, or None when it is empty."""
    return migration.MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str:
    """Return the revision this version needs."""
    return str(script.ScriptDirectory.from_config(_make_config()).get_current_head())


def _upgrade(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        # Another replica may migrate for longer than any other statement may take.
        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
        connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    settings = _make_config()
    _refuse_newer(revision(connection), script.ScriptDirectory.from_config(settings))
    settings.attributes["connection"] = connection
    command.upgrade(settings, "head")


def _refuse_newer(found: str | None, scripts: script.ScriptDirectory) -> None:
    if found is None:
        return
    try:
        scripts.get_revision(found)
    except util.CommandError as error:
        raise errors.GiveUpError(
            f"the database stands at schema {found}, which this dsctl does not know: a newer version has changed it."
            " Start that version, or restore the backup made before the upgrade"
        ) from error


def _make_config() -> config.Config:
    settings = config.Config()
    settings.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return settings
