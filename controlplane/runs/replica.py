"""This process as one of possibly several that drive runs: its lease, its heartbeat, the election of a leader.

Used by the run engine. The database's clock decides leases; the monotonic clock decides when this replica must no
longer trust its own (self-fencing at 0.8 of the lease, so that it stops before others take over). Right before an effect
the database is asked as well whether the run is still this replica's.

Concurrency: `beat` blocks and runs in the heartbeat's own thread, because a blocked event loop must not lose the
lease silently; the rest is async or a plain read.
"""

import threading
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog
from sqlalchemy import exc

from controlplane.domain import errors, ports
from controlplane.runs import ledger, moves, server_clock
from controlplane.store import database as db
from controlplane.store import tables, wakeup

_REPLICA, _LEADER, _RUN = tables.REPLICA, tables.LEADER, tables.RUN
_FENCE_RATIO = 0.8
_BEATS_PER_LEASE = 3
_ASK_AGAIN_SECONDS = 0.2
_RunToken = tuple[str, int]


class Replica:
    """One process's membership. `driving` returns the (run, token) pairs this process has in memory."""

    def __init__(
        self,
        database: db.Database,
        clock: ports.Clock,
        *,
        replica_id: str,
        name: str,
        lease_seconds: float,
        driving: Callable[[], Collection[_RunToken]],
    ) -> None:
        self.id = replica_id
        self._name = name
        self._database = database
        self._clock = clock
        self._lease = timedelta(seconds=lease_seconds)
        self._driving = driving
        self._renewed = -float("inf")
        self._is_gone = False
        self._suspects: Collection[_RunToken] = frozenset()
        self.clock = server_clock.ServerClock(clock)

    @property
    def is_gone(self) -> bool:
        """True when the database no longer knows this replica: it must stop and never act again."""
        return self._is_gone

    def is_held(self) -> bool:
        """Say whether an effect may be started: the lease was renewed recently enough, and never taken away."""
        age = self._clock.monotonic() - self._renewed
        return not self._is_gone and age < self._lease.total_seconds() * _FENCE_RATIO

    async def may_act(self, claim: moves.Claim) -> bool:
        """Say whether an effect may be started for a claim now: the lease is held, and the run is still this owner's.

        The lease alone does not tell: it may have lapsed and come back, a successor of this name may have taken over
        a moment ago, or the run was given back while the event loop was blocked. So the database is asked, and asked
        again while it does not answer and the lease lasts.
        """
        while self.is_held():
            try:
                is_owned = await self._database.read(lambda connection: ledger.owns(connection, self.id, claim))
            except errors.RetryLaterError:
                await self._clock.sleep(_ASK_AGAIN_SECONDS)
            else:
                return is_owned and self.is_held()
        return False

    async def join(self) -> None:
        """Register, fence predecessors, and take over what they left."""
        started = self._clock.monotonic()
        await self._database.write(self._join)
        self._renewed = started

    def _join(self, connection: sa.Connection) -> None:
        now = self._look(connection)
        # The lock of a SQLite file proves that every other replica is dead; elsewhere only the name's predecessor is.
        fenced = sa.true() if self._database.is_exclusive else _REPLICA.c.name == self._name
        connection.execute(_REPLICA.delete().where(fenced))
        row = {"id": self.id, "name": self._name, "started_at": now, "lease_until": now + self._lease}
        connection.execute(_REPLICA.insert(), row)
        self._reclaim_dead(connection)
        ledger.give_up_unreadable(connection, now)

    def beat(self) -> None:
        """Renew the lease and put back what nobody drives: dead replicas' runs, and orphans of this one; blocking."""
        started = self._clock.monotonic()
        owned = self._database.write_blocking(self._beat)
        if self._is_gone:
            return
        self._renewed = started
        # A claim is committed a moment before memory knows of it: only what is missing twice in a row is an orphan.
        missing = frozenset(owned) - frozenset(self._driving())
        orphans = missing & frozenset(self._suspects)
        self._suspects = missing
        for run_id, token in orphans:
            self._database.write_blocking(lambda connection, key=(run_id, token): self._reclaim_orphan(connection, key))

    def _beat(self, connection: sa.Connection) -> Collection[_RunToken]:
        until = self._look(connection) + self._lease
        renew = _REPLICA.update().where(_REPLICA.c.id == self.id).values(lease_until=until)
        if connection.execute(renew).rowcount == 0:
            self._is_gone = True
            return ()
        self._reclaim_dead(connection)
        return ledger.find_owned(connection, self.id)

    def _look(self, connection: sa.Connection) -> datetime:
        now = self._database.now(connection)
        if not self._database.is_exclusive:
            self.clock.look(now)
        return now

    def _reclaim_dead(self, connection: sa.Connection) -> None:
        now = self._database.now(connection)
        alive = sa.select(_REPLICA.c.id).where(_REPLICA.c.lease_until > now)
        ledger.reclaim(connection, _RUN.c.owner.not_in(alive), "its replica is gone", now)

    def _reclaim_orphan(self, connection: sa.Connection, key: _RunToken) -> None:
        mine = sa.and_(_RUN.c.id == key[0], _RUN.c.token == key[1], _RUN.c.owner == self.id)
        ledger.reclaim(connection, mine, "its replica lost track of it", self._database.now(connection))

    async def lead(self, role: str) -> int | None:
        """Return the epoch when this replica leads `role` for the next lease, else None.

        The epoch grows with each change of leader, so that writes of an overtaken leader can be told apart.
        """
        if not self.is_held():
            return None
        try:
            return await self._database.write(lambda connection: self._lead(connection, role))
        except exc.IntegrityError:
            return None  # another replica made the first entry for this role at the same instant

    def _lead(self, connection: sa.Connection, role: str) -> int | None:
        now = self._database.now(connection)
        row = connection.execute(sa.select(_LEADER).where(_LEADER.c.role == role).with_for_update()).first()
        until = now + self._lease
        if row is None:
            connection.execute(_LEADER.insert(), {"role": role, "holder": self.id, "lease_until": until, "epoch": 1})
            return 1
        if row.holder != self.id and row.lease_until > now and self._is_member(connection, row.holder):
            return None
        epoch = row.epoch if row.holder == self.id else row.epoch + 1
        values = {"holder": self.id, "lease_until": until, "epoch": epoch}
        connection.execute(_LEADER.update().where(_LEADER.c.role == role).values(values))
        return int(epoch)

    def _is_member(self, connection: sa.Connection, replica_id: str) -> bool:
        return connection.execute(sa.select(_REPLICA.c.id).where(_REPLICA.c.id == replica_id)).first() is not None

    async def leave(self) -> None:
        """Give everything back at once instead of letting the lease run out."""
        await self._database.write(self._leave)

    def _leave(self, connection: sa.Connection) -> None:
        connection.execute(_REPLICA.delete().where(_REPLICA.c.id == self.id))
        ledger.reclaim(connection, _RUN.c.owner == self.id, "its replica stopped", self._database.now(connection))
        wakeup.send(connection)


class Heartbeat:
    """The thread that beats; `on_gone` is called from it, once, when the replica must stop."""

    def __init__(self, replica: Replica, lease_seconds: float, on_gone: Callable[[], None]) -> None:
        self._replica = replica
        self._period = lease_seconds / _BEATS_PER_LEASE
        self._on_gone = on_gone
        self._stop = threading.Event()
        self._log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("dsctl.runs")
        self._thread = threading.Thread(target=self._run, name="dsctl-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; blocking for at most one beat."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            try:
                self._replica.beat()
            except Exception as error:  # noqa: BLE001 - a dead heartbeat would be worse than any failed beat
                # The next beat tries again; until then the lease ages, and with it the right to act.
                self._log.warning("heartbeat_failed", replica=self._replica.id, reason=str(error))
            if self._replica.is_gone:
                self._log.error("replica_gone", replica=self._replica.id, reason="another process took its name")
                self._on_gone()
                return
