"""Stores on a real PostgreSQL for tests: one server for the session, one database for each test.

A test's database is a copy of a migrated one, which takes less than migrating anew.
"""

import contextlib
import itertools
import os
from collections.abc import Generator
from datetime import datetime

import pytest
import sqlalchemy as sa

from benchmarks import postgres
from controlplane import clock as clocks
from controlplane.domain import ports
from controlplane.store import database as db
from controlplane.store import house

_TEMPLATE = "migrated"
_numbers = itertools.count()


class ClockedDatabase(db.Database):
    """PostgreSQL in everything but the time, which the test's clock tells."""

    def now(self, connection: sa.Connection) -> datetime:
        del connection
        return self._clock.now()


@contextlib.contextmanager
def served() -> Generator[postgres.Server]:
    """A server with a migrated database to copy."""
    with postgres.running() as server:
        url = server.create_database(_TEMPLATE)
        house.open_house(db.DatabaseSettings(url), clocks.SystemClock()).close()
        yield server


@contextlib.contextmanager
def database(server: postgres.Server, *, is_migrated: bool = True) -> Generator[str]:
    """The url of a database of the test's own."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    yield server.create_database(name, _TEMPLATE if is_migrated else "template0")
    server.drop_database(name)


@contextlib.contextmanager
def opened(url: str, time: ports.Clock) -> Generator[house.House]:
    """Open a store on the server's own time."""
    store = house.open_house(db.DatabaseSettings(url), time)
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def clocked(url: str, time: ports.Clock, patch: pytest.MonkeyPatch) -> Generator[house.House]:
    """Open a store whose time is the test's, for tests that move it."""
    patch.setattr(db, "Database", ClockedDatabase)
    with opened(url, time) as store:
        yield store
