"""Who may enter the gateway, who waits, and whose turn at a node is next: the levels of the caller's keys.

Used by `proxy` for each request and by the gateway's admin API, which sheds levels. A request takes a place before
anything of it is read; beyond the places it is refused with 429. Then it waits for a turn: better levels first, within
their own concurrency. Concurrency: one event loop; nothing here awaits but `Turns.wait`.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from inference_node import clock as clocks
from inference_node import errors, leases, levels, settings
from inference_node.gateway import metrics

LEASE = "levels"
OVERFLOWS: Mapping[levels.Level, tuple[float, levels.Level]] = {
    levels.Level.PREMIUM: (0.8, levels.Level.STANDARD),
    levels.Level.STANDARD: (0.9, levels.Level.BATCH),
}
"""At which use of its concurrency a level's next request is served one level down, where that one has room."""

SHARES: Mapping[levels.Level, float] = {
    levels.Level.PREMIUM: 1.0,
    levels.Level.STANDARD: 0.9,
    levels.Level.BATCH: 0.8,
}
"""How full the gateway may be for a level to enter: the last tenth is premium's alone."""


@dataclass(frozen=True, slots=True)
class Degraded:
    """What the ladder has in force: the levels refused, and the rung it stands on; None where no ladder set it."""

    shed: frozenset[levels.Level] = frozenset()
    rung: int | None = None


@dataclass(slots=True, eq=False)
class _Waiter:
    since: float
    turn: asyncio.Future[None]


class Turns:
    """Turns at nodes: at most `max_at_nodes` at once, and at most a level's concurrency of each level.

    The bound is asked for at every turn, since nodes come and go.
    """

    def __init__(
        self, places: levels.Levels, max_at_nodes: Callable[[], int], ageing_seconds: float, clock: clocks.Clock
    ) -> None:
        self._places = places
        self._max_at_nodes = max_at_nodes
        self._ageing = levels.Ageing(ageing_seconds)
        self._clock = clock
        self._running = dict.fromkeys(levels.Level, 0)
        self._waiting: dict[levels.Level, deque[_Waiter]] = {level: deque() for level in levels.Level}

    def running(self, level: levels.Level) -> int:
        """Return how many requests of a level are at nodes."""
        return self._running[level]

    def waiting(self, level: levels.Level) -> int:
        """Return how many requests of a level wait for their turn."""
        return len(self._waiting[level])

    async def wait(self, level: levels.Level) -> None:
        """Return when it is this request's turn; whoever waited calls `end` once. Cancelled, it leaves the queue."""
        waiter = _Waiter(self._clock.monotonic(), asyncio.get_running_loop().create_future())
        self._waiting[level].append(waiter)
        self._grant()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._waiting[level]:
                self._waiting[level].remove(waiter)
            else:
                self.end(level)  # its turn came in the same instant
            raise

    def end(self, level: levels.Level) -> None:
        """Give a turn back."""
        self._running[level] -= 1
        self._grant()

    def _grant(self) -> None:
        while sum(self._running.values()) < self._max_at_nodes() and (ready := self._ready()):
            now = self._clock.monotonic()
            index, self._ageing = self._ageing.pick([now - self._waiting[level][0].since for level in ready])
            level = ready[index]
            self._running[level] += 1
            self._waiting[level].popleft().turn.set_result(None)

    def _ready(self) -> list[levels.Level]:
        """Return the levels somebody waits in and that may have another turn, best first."""
        return [
            level
            for level in levels.Level
            if self._waiting[level] and self._running[level] < self._places.concurrency(level)
        ]


class Admission:
    """The gateway's door."""

    def __init__(
        self,
        chosen: settings.GatewaySettings,
        *,
        book: leases.LeaseBook,
        counted: metrics.GatewayMetrics,
        clock: clocks.Clock,
        num_in_service: Callable[[], int],
    ) -> None:
        self._max_outstanding = chosen.max_outstanding
        self._book = book
        self._metrics = counted
        self.timeouts = chosen.levels.timeouts()
        self.places = levels.Levels(chosen.levels.limits(), clock, self.timeouts)
        self._max_at_each_node = chosen.max_at_each_node
        self._num_in_service = num_in_service
        self.turns = Turns(self.places, self.max_at_nodes, chosen.ageing_seconds, clock)
        self.degraded = Degraded()

    def max_at_nodes(self) -> int:
        """Return how many requests may be at nodes at once; with no node in service as many as for one."""
        if self._max_at_each_node is None:
            return self._max_outstanding
        return min(self._max_outstanding, self._max_at_each_node * max(1, self._num_in_service()))

    def enter(self, level: levels.Level) -> levels.Place:
        """Take a place for a request of a level, or of the level below; raises DataError 429 and counts it."""
        if level in self.degraded.shed:
            self._count(level, "shed")
            raise errors.overloaded(f"Level {level} is shed at the moment; retry later.", self._retry_after_shed())
        if self.places.total >= math.ceil(self._max_outstanding * SHARES[level]):
            self._count(level, "gateway_full")
            raise errors.overloaded(
                "The gateway has all the requests it can hold; retry shortly.", self.places.retry_after_seconds(level)
            )
        served = self._served_as(level)
        try:
            place = self.places.admit(served)
        except errors.DataError:
            self._count(level, "queue_full")
            raise
        if served is not level:
            self._metrics.overflowed.labels(level, served).inc()
        return place

    def waited_too_long(self, level: levels.Level) -> errors.DataError:
        """Count and return the refusal of a request whose turn did not come in time: nothing was computed for it."""
        self._count(level, "waited_too_long")
        return errors.overloaded(
            f"No turn came within the {self.timeouts[level]:g} s of level {level}; nothing was computed.",
            self.places.retry_after_seconds(level),
        )

    def set_levels(self, is_shed: Mapping[levels.Level, bool], rung: int | None, ttl_seconds: float) -> None:
        """Shed or admit the given levels for a time; afterwards all levels are admitted again."""
        shed = set(self.degraded.shed)
        for level, refused in is_shed.items():
            (shed.add if refused else shed.discard)(level)
        self.degraded = Degraded(frozenset(shed), rung)
        full = Degraded()
        self._book.hold(LEASE, ttl_seconds=ttl_seconds, previous=self.describe(full), restore=lambda: self._put(full))

    def restore(self) -> None:
        """Admit every level again, now."""
        self._book.release(LEASE)

    def describe(self, degraded: Degraded | None = None) -> dict[str, Any]:
        """Return the levels (as they are now unless given) as the admin API shows them."""
        shown = self.degraded if degraded is None else degraded
        return {str(level): {"is_shed": level in shown.shed} for level in levels.Level}

    def describe_queues(self) -> dict[str, Any]:
        """Return the places of each level as the admin API shows them."""
        limits = self.places.limits
        return {
            str(level): {
                "concurrency": limits[level].concurrency,
                "queue": limits[level].queue,
                "timeout_seconds": self.timeouts[level],
                "at_nodes": self.turns.running(level),
                "waiting": self.turns.waiting(level),
            }
            for level in levels.Level
        }

    def read_gauges(self) -> None:
        """Set the gauges to what is true now."""
        counted = self._metrics
        for level in levels.Level:
            counted.waiting.labels(level).set(self.turns.waiting(level))
            counted.at_nodes.labels(level).set(self.turns.running(level))
            counted.shed.labels(level).set(level in self.degraded.shed)
        counted.degradation_level.set(self.degraded.rung or 0)
        counted.load_ratio.set(self.places.total / self._max_outstanding)

    def _served_as(self, level: levels.Level) -> levels.Level:
        """Return the level itself, or the one below while this one is nearly full and that one has room."""
        threshold, below = OVERFLOWS.get(level, (math.inf, level))
        if self.places.use(level) < threshold or below in self.degraded.shed:
            return level
        ceiling, _ = OVERFLOWS.get(below, (1.0, below))
        return below if self.places.use(below) < ceiling else level

    def _retry_after_shed(self) -> int:
        left = self._book.expires_in(LEASE) or 1.0
        return min(levels.MAX_RETRY_AFTER_SECONDS, max(1, math.ceil(left)))

    def _count(self, level: levels.Level, reason: str) -> None:
        self._metrics.rejected.labels(level, reason).inc()

    def _put(self, degraded: Degraded) -> None:
        self.degraded = degraded
