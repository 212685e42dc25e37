"""A database for rehearsals: the real tables and the real SQL, in a temporary file, without threads and without fsync.

Opened by `rehearse`. What is kept here is worth nothing after the last case, and the loop has nothing else to do than to
wait for it; so work is done at once, on the loop. Never use it for anything that must survive.
"""

import contextlib
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from controlplane.domain import ports
from controlplane.store import database as db
from controlplane.store import runs, schema


@dataclass(frozen=True, slots=True)
class Store:
    """What a rehearsal needs of a store."""

    database: db.Database
    runs: runs.RunRepository


class InlineDatabase(db.Database):
    """A `Database` whose work is done where it is asked for."""

    def __init__(self, settings: db.DatabaseSettings, clock: ports.Clock) -> None:
        super().__init__(settings, clock)
        connection = self._write_engine.raw_connection()  # the only one of its pool
        connection.cursor().execute("PRAGMA synchronous=OFF")
        connection.close()

    async def write(self, work: db.Work[db.T]) -> db.T:
        """Run `work` in a transaction and return its result; raises what `work` raises."""
        with self._write_engine.connect() as connection, connection.begin():
            return work(connection)

    async def read(self, work: db.Work[db.T]) -> db.T:
        """Run `work` on the state as it is."""
        return await self.write(work)


@contextlib.contextmanager
def opened(clock: ports.Clock) -> Generator[Store]:
    """Open an empty store for the length of a block; blocking. Everything in it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="dsctl-rehearsal-") as folder:
        database = InlineDatabase(db.DatabaseSettings(f"sqlite:///{Path(folder) / 'runs.db'}"), clock)
        try:
            schema.upgrade(database)
            yield Store(database, runs.RunRepository(database))
        finally:
            database.close()
