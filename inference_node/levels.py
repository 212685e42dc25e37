"""Service levels of a node: how many requests of each may run and wait, and what a refused caller is told.

The server takes a place here before it spends anything on a request; the engine asks how many of a level may run.
Counting happens in the same step as the check, so a burst cannot slip past the bound. Concurrency: one event loop.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from inference_node import clock as clocks
from inference_node import errors

MAX_RETRY_AFTER_SECONDS = 30
FINISHES_REMEMBERED = 32


class Level(StrEnum):
    """The levels, best first."""

    PREMIUM = "premium"
    STANDARD = "standard"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Limit:
    """How many requests of a level may run at once and how many more may wait."""

    concurrency: int
    queue: int


class Place:
    """One request's place in its level; given back once, however the request ends."""

    def __init__(self, owner: "Levels", level: Level) -> None:
        self._owner = owner
        self._is_held = True
        self.level = level

    def give_back(self) -> None:
        """Free the place; a second call does nothing."""
        if self._is_held:
            self._is_held = False
            self._owner.leave(self.level)


class Levels:
    """Admission per level."""

    def __init__(self, limits: Mapping[Level, Limit], clock: clocks.Clock) -> None:
        self._limits = dict(limits)
        self._held = dict.fromkeys(Level, 0)
        self._clock = clock
        self._finishes: deque[float] = deque(maxlen=FINISHES_REMEMBERED)

    @property
    def limits(self) -> Mapping[Level, Limit]:
        """The limits in force."""
        return dict(self._limits)

    def set_limits(self, limits: Mapping[Level, Limit]) -> None:
        """Replace the limits of the given levels; admitted requests keep their places."""
        self._limits.update(limits)

    def concurrency(self, level: Level) -> int:
        """Return how many requests of a level may run at once."""
        return self._limits[level].concurrency

    def held(self, level: Level) -> int:
        """Return how many requests of a level are waiting or running."""
        return self._held[level]

    def admit(self, level: Level) -> Place:
        """Take a place; raises DataError 429 with Retry-After when all are taken."""
        limit = self._limits[level]
        if self._held[level] >= limit.concurrency + limit.queue:
            raise errors.overloaded(
                f"Level {level} already has {self._held[level]} requests here, its limit; retry after the delay given.",
                self.retry_after_seconds(level),
            )
        self._held[level] += 1
        return Place(self, level)

    def leave(self, level: Level) -> None:
        """Count a request out; called by its `Place` alone."""
        self._held[level] -= 1
        self._finishes.append(self._clock.monotonic())

    def retry_after_seconds(self, level: Level) -> int:
        """Return when a place may be free: requests held over the rate at which requests finished of late."""
        if not self._finishes:
            return 1
        span = max(self._clock.monotonic() - self._finishes[0], 0.001)
        rate = len(self._finishes) / span
        return min(MAX_RETRY_AFTER_SECONDS, max(1, math.ceil(self._held[level] / rate)))
