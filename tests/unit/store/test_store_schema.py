"""The schema: migrations, refusals, the lock."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import autogenerate
from alembic.runtime import migration

from controlplane.domain import errors
from controlplane.store import database as db
from controlplane.store import house, schema, tables
from tests.support import store as support
from tests.support.clock import FakeClock


async def test_migrated_schema_equals_the_tables(store: house.House) -> None:
    """The migrations build exactly what `tables` describes: no column or index is missing on either side."""

    def compare(connection: sa.Connection) -> object:
        context = migration.MigrationContext.configure(connection, opts={"compare_type": True})
        return autogenerate.compare_metadata(context, tables.METADATA)

    assert await store.database.read(compare) == []


async def test_database_stands_at_the_newest_revision(store: house.House) -> None:
    """After opening, the database is at the revision this version needs."""
    assert await store.database.read(schema.revision) == schema.newest_revision()


async def test_newer_schema_is_refused_with_advice(tmp_path: Path, clock: FakeClock) -> None:
    """A database that a newer version has migrated is not touched, and the text says what to do."""
    with support.opened(tmp_path, clock) as store:
        await store.database.write(lambda c: c.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(errors.GiveUpError, match=r"schema 9999.*newer version.*backup"):
        house.open_house(db.DatabaseSettings(support.sqlite_url(tmp_path)), clock)


def test_reopening_after_a_refusal_is_possible(tmp_path: Path, clock: FakeClock) -> None:
    """A database that could not be opened gives its lock back."""
    url = support.sqlite_url(tmp_path)
    (tmp_path / "dsctl.db").write_bytes(b"this is not a database, and long enough to look at" * 20)
    with pytest.raises(Exception, match="not a database"):
        house.open_house(db.DatabaseSettings(url), clock)
    (tmp_path / "dsctl.db").unlink()
    house.open_house(db.DatabaseSettings(url), clock).close()


def test_second_process_is_refused_and_told_who_holds_the_file(tmp_path: Path, clock: FakeClock) -> None:
    """Two processes on one SQLite file would both believe they own the runs; the second gets a clear error."""
    script = (
        "import sys\n"
        "from controlplane import clock\n"
        "from controlplane.domain import errors\n"
        "from controlplane.store import database, house\n"
        "try:\n"
        "    house.open_house(database.DatabaseSettings(sys.argv[1]), clock.SystemClock())\n"
        "except errors.ConflictError as error:\n"
        "    print(error)\n"
    )
    with support.opened(tmp_path, clock):
        command = [sys.executable, "-c", script, support.sqlite_url(tmp_path)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=25)
    assert f"pid {os.getpid()}" in answer.stdout
    assert "dsctl.db" in answer.stdout


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://somewhere/db", "no url"])
def test_unusable_url_is_refused(url: str, clock: FakeClock) -> None:
    """A url that cannot hold durable data is refused before anything is opened."""
    with pytest.raises(errors.InvalidInputError, match=r"[Ss]qlite"):
        db.Database(db.DatabaseSettings(url), clock)


def test_database_file_is_private(tmp_path: Path, clock: FakeClock) -> None:
    """Only the owner may read the file."""
    with contextlib.closing(house.open_house(db.DatabaseSettings(support.sqlite_url(tmp_path)), clock)):
        assert (tmp_path / "dsctl.db").stat().st_mode & 0o077 == 0
