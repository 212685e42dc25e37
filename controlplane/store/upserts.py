"""INSERT ... ON CONFLICT, which SQLite and PostgreSQL both have and SQLAlchemy spells once per database.

Called by the repositories. Pure: it builds statements.
"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

Condition = Callable[[sa.ColumnCollection[str, Any]], sa.ColumnElement[bool]]


def insert_if_absent(connection: sa.Connection, table: sa.Table) -> sa.Insert:
    """Return an insert that changes nothing when the primary key exists."""
    return _insert(connection, table).on_conflict_do_nothing(index_elements=list(table.primary_key.columns))


def insert_or_update(connection: sa.Connection, table: sa.Table, *, when: Condition | None = None) -> sa.Insert:
    """Return an insert that replaces the row with the same primary key, if `when` holds for the new values."""
    insert = _insert(connection, table)
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={one.name: insert.excluded[one.name] for one in table.columns if not one.primary_key},
        where=when(insert.excluded) if when is not None else None,
    )


def _insert(connection: sa.Connection, table: sa.Table) -> "sqlite.Insert | postgresql.Insert":
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
