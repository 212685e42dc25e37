"""INSERT ... ON CONFLICT, which SQLite and PostgreSQL both have and SQLAlchemy spells once per database.

Called by the repositories. Pure: it builds statements, for a connection or for the name of its dialect.
"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

Condition = Callable[[sa.ColumnCollection[str, Any]], sa.ColumnElement[bool]]


def insert_if_absent(on: sa.Connection | str, table: sa.Table) -> sa.Insert:
    """Return an insert that changes nothing when the primary key exists."""
    return _insert(on, table).on_conflict_do_nothing(index_elements=list(table.primary_key.columns))


def insert_or_update(on: sa.Connection | str, table: sa.Table, *, when: Condition | None = None) -> sa.Insert:
    """Return an insert that replaces the row with the same primary key, if `when` holds for the new values."""
    insert = _insert(on, table)
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={one.name: insert.excluded[one.name] for one in table.columns if not one.primary_key},
        where=when(insert.excluded) if when is not None else None,
    )


def _insert(on: sa.Connection | str, table: sa.Table) -> "sqlite.Insert | postgresql.Insert":
    dialect = on if isinstance(on, str) else on.dialect.name
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
