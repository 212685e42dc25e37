"""Service levels: how many requests of each may be served and wait, whose turn is next, and what a refused caller is told.

Node and gateway take a place here before they spend anything on a request. Counting happens in the same step as the
check, so a burst cannot slip past the bound. Concurrency: one event loop.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from inference_node import clock as clocks
from inference_node import errors

MAX_RETRY_AFTER_SECONDS = 30
FINISHES_REMEMBERED = 32

MEASURED_FINISHES = 8
"""A rate from fewer finishes than this says little; the configured bound of the queue holds until then."""

TURNS_PER_AGED = 8
"""One turn in this many may go to a request that has aged, so that a better level loses at most an eighth to ageing."""


class Level(StrEnum):
    """The levels, best first."""

    PREMIUM = "premium"
    STANDARD = "standard"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Limit:
    """How many requests of a level may run at once and how many more may wait at most."""

    concurrency: int
    queue: int


class Place:
    """One request's place in its level; given back once, however the request ends."""

    def __init__(self, owner: "Levels", level: Level) -> None:
        self._owner = owner
        self._is_held = True
        self.level = level

    def give_back(self, *, is_finished: bool = True) -> None:
        """Free the place; a second call does nothing. A request that ends without being served is no finish."""
        if self._is_held:
            self._is_held = False
            self._owner.leave(self.level, is_finished=is_finished)


class Levels:
    """Admission per level.

    A queue longer than what can be finished in time only makes everybody late: with `timeouts`, a level that has been
    busy long enough to be measured lets no more wait than its rate of finishing times its time limit.
    """

    def __init__(
        self, limits: Mapping[Level, Limit], clock: clocks.Clock, timeouts: Mapping[Level, float] | None = None
    ) -> None:
        self._limits = dict(limits)
        self._timeouts = dict(timeouts or {})
        self._held = dict.fromkeys(Level, 0)
        self._clock = clock
        self._finishes = {level: deque[float](maxlen=FINISHES_REMEMBERED) for level in Level}
        self._busy_since: dict[Level, float] = {}

    @property
    def limits(self) -> Mapping[Level, Limit]:
        """The limits in force."""
        return dict(self._limits)

    @property
    def total(self) -> int:
        """How many requests of all levels are waiting or running."""
        return sum(self._held.values())

    def set_limits(self, limits: Mapping[Level, Limit]) -> None:
        """Replace the limits of the given levels; admitted requests keep their places."""
        self._limits.update(limits)

    def concurrency(self, level: Level) -> int:
        """Return how many requests of a level may run at once."""
        return self._limits[level].concurrency

    def held(self, level: Level) -> int:
        """Return how many requests of a level are waiting or running."""
        return self._held[level]

    def use(self, level: Level) -> float:
        """Return the share of the level's concurrency that is taken; above 1 while requests wait."""
        return self._held[level] / max(1, self._limits[level].concurrency)

    def admit(self, level: Level) -> Place:
        """Take a place; raises DataError 429 with Retry-After when all are taken."""
        if self._held[level] >= self.bound(level):
            raise errors.overloaded(
                f"Level {level} already has {self._held[level]} requests here, its limit; retry after the delay given.",
                self.retry_after_seconds(level),
            )
        self._held[level] += 1
        if self.use(level) >= 1:
            self._busy_since.setdefault(level, self._clock.monotonic())
        return Place(self, level)

    def leave(self, level: Level, *, is_finished: bool) -> None:
        """Count a request out; called by its `Place` alone."""
        self._held[level] -= 1
        if is_finished:
            self._finishes[level].append(self._clock.monotonic())
        if self.use(level) < 1:
            self._busy_since.pop(level, None)

    def bound(self, level: Level) -> int:
        """Return how many requests of a level may be here: running, and waiting with a chance to be served in time."""
        limit = self._limits[level]
        rate, timeout = self._rate_while_busy(level), self._timeouts.get(level)
        if rate is None or timeout is None:
            return limit.concurrency + limit.queue
        return limit.concurrency + min(limit.queue, max(1, math.ceil(rate * timeout)))

    def retry_after_seconds(self, level: Level) -> int:
        """Return when a place may be free: requests held over the rate at which requests of the level finished."""
        finishes = self._finishes[level]
        if not finishes:
            return 1
        span = max(self._clock.monotonic() - finishes[0], 0.001)
        return min(MAX_RETRY_AFTER_SECONDS, max(1, math.ceil(self._held[level] * span / len(finishes))))

    def _rate_while_busy(self, level: Level) -> float | None:
        """Return finishes a second since all places were taken; None while idle or unmeasured.

        An idle level finishes few because few arrive: that says nothing about what it could finish.
        """
        since = self._busy_since.get(level)
        if since is None:
            return None
        remembered = self._finishes[level]
        # Where all are of this busy time and the first ones forgotten, the time is counted from the oldest one known.
        start = max(since, remembered[0]) if len(remembered) == FINISHES_REMEMBERED else since
        num_finished = sum(at > start for at in remembered)
        if num_finished < MEASURED_FINISHES:
            return None
        return num_finished / max(self._clock.monotonic() - start, 0.001)


@dataclass(frozen=True, slots=True)
class Ageing:
    """Whose turn is next among the heads of several queues: the best level's, and one in eight an aged one's.

    `passed_over` counts the turns that went past a request older than `after_seconds`. A value: `pick` returns the
    next one, so that looking ahead changes nothing.
    """

    after_seconds: float
    passed_over: int = 0

    def pick(self, waited: Sequence[float]) -> "tuple[int, Ageing]":
        """Return the index of the head whose turn it is; `waited` are the heads' waiting times, best level first.

        >>> Ageing(2.0).pick([0.1, 1.0])[0], Ageing(2.0, 7).pick([0.1, 3.0, 9.0])[0]
        (0, 2)
        """
        aged = [index for index in range(1, len(waited)) if waited[index] >= self.after_seconds]
        if not aged:
            return 0, Ageing(self.after_seconds)
        if self.passed_over + 1 < TURNS_PER_AGED:
            return 0, Ageing(self.after_seconds, self.passed_over + 1)
        return max(aged, key=lambda index: waited[index]), Ageing(self.after_seconds)
