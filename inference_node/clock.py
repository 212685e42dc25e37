"""Time for the node and the gateway: the `Clock` protocol and this machine's clock behind it.

Every module of the island asks the clock it was given; this is the only one that asks the operating system.
The island shares no code with the control plane, hence a clock of its own.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for people, monotonic time for durations, and a way to wait."""

    def now(self) -> datetime:
        """Return timezone-aware UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never step back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking the event loop; zero or less only yields."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        """Return timezone-aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never step back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking the event loop."""
        await asyncio.sleep(max(0.0, seconds))
