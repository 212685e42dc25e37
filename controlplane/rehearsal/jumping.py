"""A clock that nobody waits for: it jumps to where it is told, so that an hour of a runbook takes no time.

Used by `play` and by everything that a rehearsal builds; nothing else moves it. Safe to read from any thread.
"""

import asyncio
from datetime import UTC, datetime, timedelta

# A Monday morning. Runbooks that look at the hour see the same one in every rehearsal.
START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class JumpingClock:
    """Implements the `Clock` port."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._passed = 0.0

    def now(self) -> datetime:
        """Return UTC as of the last jump."""
        return self._start + timedelta(seconds=self._passed)

    def monotonic(self) -> float:
        """Return the seconds jumped over so far."""
        return self._passed

    async def sleep(self, seconds: float) -> None:
        """Jump instead of waiting."""
        self.jump(seconds)
        await asyncio.sleep(0)  # noqa: TID251 - lets other tasks run, and takes no time

    def jump(self, seconds: float) -> None:
        """Let `seconds` pass; time never goes back."""
        self._passed += max(0.0, seconds)
