"""Overrides that end by themselves: each lease knows the value before it and puts it back.

Used by the admin APIs of node and gateway. A control plane that dies leaves nothing degraded for longer than its lease.
Concurrency: one event loop; `run` is the only task, and sleeps until the next lease ends.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inference_node import clock as clocks

MIN_TTL_SECONDS = 1.0
MAX_TTL_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Lease:
    """An override in force: what kind, until when on the monotonic clock, and what returns after it."""

    kind: str
    ends_at: float
    previous: Any
    restore: Callable[[], None]


class LeaseBook:
    """The leases in force, at most one per kind."""

    def __init__(self, clock: clocks.Clock) -> None:
        self._clock = clock
        self._leases: dict[str, Lease] = {}
        self._changed = asyncio.Event()

    def hold(self, kind: str, *, ttl_seconds: float, previous: Any, restore: Callable[[], None]) -> None:
        """Start a lease, or extend the one of this kind, which keeps the value from before the first."""
        held = self._leases.get(kind)
        ends_at = self._clock.monotonic() + ttl_seconds
        if held is None:
            self._leases[kind] = Lease(kind, ends_at, previous, restore)
        else:
            self._leases[kind] = Lease(kind, ends_at, held.previous, held.restore)
        self._changed.set()

    def forget(self, kind: str) -> bool:
        """Drop a lease without putting its old value back: somebody set a value for good."""
        return self._leases.pop(kind, None) is not None

    def release(self, kind: str) -> bool:
        """End a lease now and put its old value back."""
        lease = self._leases.pop(kind, None)
        if lease is None:
            return False
        lease.restore()
        return True

    def expire_due(self) -> list[str]:
        """End every lease whose time is over; return their kinds."""
        now = self._clock.monotonic()
        due = [lease.kind for lease in self._leases.values() if lease.ends_at <= now]
        for kind in due:
            self.release(kind)
        return due

    def expires_in(self, kind: str) -> float | None:
        """Return the seconds left of a lease, or None where there is none."""
        lease = self._leases.get(kind)
        return None if lease is None else max(0.0, lease.ends_at - self._clock.monotonic())

    def kinds(self) -> list[str]:
        """Return the kinds held now."""
        return sorted(self._leases)

    def describe(self) -> list[dict[str, Any]]:
        """Return the leases as the admin API shows them."""
        return [
            {"kind": kind, "expires_in_seconds": self.expires_in(kind), "previous": self._leases[kind].previous}
            for kind in self.kinds()
        ]

    async def run(self) -> None:
        """End leases on time until cancelled."""
        while True:
            self._changed.clear()
            await self._wait_for_next_end()
            self.expire_due()

    async def _wait_for_next_end(self) -> None:
        """Return when a lease is due or another one was added."""
        changed = asyncio.create_task(self._changed.wait(), name="lease-added")
        tasks: set[asyncio.Task[Any]] = {changed}
        ends = [lease.ends_at for lease in self._leases.values()]
        if ends:
            delay = max(0.0, min(ends) - self._clock.monotonic())
            tasks.add(asyncio.create_task(_sleep(self._clock, delay), name="lease-end"))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()


async def _sleep(clock: clocks.Clock, seconds: float) -> None:
    await clock.sleep(seconds)
