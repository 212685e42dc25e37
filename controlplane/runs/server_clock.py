"""The database's time, carried on between two looks at it, for whatever is compared with times that the database gave.

Deadlines of runs are written with the time of the server that all replicas share. A replica whose own clock is wrong, or is
stepped, must not end a wait an hour early or let it last an hour: so it carries the server's time on with its monotonic
clock. Where the database has no clock of its own (SQLite), nobody looks, and this is the local clock.

Fed by the replica's heartbeat from its thread; read from the event loop.
"""

from datetime import datetime, timedelta

from controlplane.domain import ports


class ServerClock:
    """Implements the `Clock` port."""

    def __init__(self, clock: ports.Clock) -> None:
        self._clock = clock
        self._seen: tuple[datetime, float] | None = None

    def look(self, now: datetime) -> None:
        """Take over the server's time, which was read this instant."""
        self._seen = (now, self._clock.monotonic())

    def now(self) -> datetime:
        """Return the server's time as well as it is known."""
        if self._seen is None:
            return self._clock.now()
        seen, at = self._seen
        return seen + timedelta(seconds=self._clock.monotonic() - at)

    def monotonic(self) -> float:
        """Return seconds that never step back."""
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking the event loop."""
        await self._clock.sleep(seconds)
