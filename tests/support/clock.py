"""A clock that moves only when a test moves it, and wakes sleepers whose time has come."""

import asyncio
from datetime import UTC, datetime, timedelta

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class FakeClock:
    """Implements the `Clock` port; starts on a Monday morning."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self._monotonic = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._monotonic + seconds, future))
        await future

    def move(self, seconds: float) -> None:
        """Advance both kinds of time and wake due sleepers."""
        self._monotonic += seconds
        self._now += timedelta(seconds=seconds)
        due = [f for at, f in self._sleepers if at <= self._monotonic]
        self._sleepers = [(at, f) for at, f in self._sleepers if at > self._monotonic]
        for future in due:
            if not future.done():
                future.set_result(None)

    def step_wall(self, seconds: float) -> None:
        """Step the wall clock alone, as an operator or a time server would."""
        self._now += timedelta(seconds=seconds)
