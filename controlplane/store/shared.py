"""One reading for all who ask the same question before it begins.

Used by the repositories for questions that many ask at the same moment, such as which runs are unfinished, which the
guard asks for each plan. Nobody is given anything older than the question: once a reading has begun, the next who asks
gets another one. Concurrency: `read` belongs to one event loop; readings begin in the database's threads.
"""

import asyncio
from collections.abc import Hashable
from typing import Any, TypeVar

import sqlalchemy as sa

from controlplane.store import database as db

T = TypeVar("T")


class SharedReads:
    """Reads of one database, shared by their key."""

    def __init__(self, database: db.Database) -> None:
        self._database = database
        self._waiting: dict[Hashable, asyncio.Task[Any]] = {}

    async def read(self, key: Hashable, work: db.Work[T]) -> T:
        """Do the same as `Database.read`; work of one key gives one answer, which all who wait for it share."""
        asked = self._waiting.get(key)
        if asked is None:
            asked = asyncio.create_task(self._begin(key, work), name="shared-read")
            self._waiting[key] = asked
            asked.add_done_callback(lambda ended: self._forget(key, ended))
        # One of them that goes away must not take the answer from the others.
        return await asyncio.shield(asked)

    async def _begin(self, key: Hashable, work: db.Work[T]) -> T:
        def begun(connection: sa.Connection) -> T:
            self._waiting.pop(key, None)  # before anything is read
            return work(connection)

        return await self._database.read(begun)

    def _forget(self, key: Hashable, ended: "asyncio.Task[Any]") -> None:
        if self._waiting.get(key) is ended:
            self._waiting.pop(key)
        if not ended.cancelled():
            ended.exception()  # looked at here, since perhaps nobody waits any more
