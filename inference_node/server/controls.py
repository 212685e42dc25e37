"""The overrides an operator may set on a running node, most of them leases: batch, limits, degradation, drain.

Called by the admin API; read by the engine and the data API. Concurrency: one event loop.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from inference_node import leases, levels
from inference_node.engine import batcher

RETRY_DRAIN_SECONDS = 5
MAX_RETRY_DRAIN_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Cap:
    """What a service level may still ask for; None is no cap. With `is_cached_only` nothing new is computed."""

    max_tokens: int | None = None
    max_prompt_tokens: int | None = None
    is_cached_only: bool = False


@dataclass(frozen=True, slots=True)
class Degradation:
    """The rung of the ladder the node stands on, and the caps it brings: on all answers, and by service level."""

    level: int = 0
    max_tokens: int | None = None
    by_level: Mapping[levels.Level, Cap] = field(default_factory=dict[levels.Level, Cap])

    def cap(self, level: levels.Level) -> Cap:
        """Return what holds for a service level: the smaller of its own cap and the one on all answers."""
        own = self.by_level.get(level, Cap())
        tokens = [each for each in (self.max_tokens, own.max_tokens) if each is not None]
        return replace(own, max_tokens=min(tokens, default=None))


class Controls:
    """The overrides in force."""

    def __init__(
        self,
        *,
        book: leases.LeaseBook,
        waiting: batcher.Batcher,
        places: levels.Levels,
        on_change: Callable[[], None],
    ) -> None:
        self._book = book
        self._waiting = waiting
        self._places = places
        self._on_change = on_change
        self.degradation = Degradation()
        self.is_draining = False

    def set_batch(self, max_size: int | None, max_wait_seconds: float | None, ttl_seconds: float | None) -> None:
        """Change size, wait or both, for a time or for good."""
        before = self._waiting.batch
        self._put_batch(
            batcher.Batch(
                before.max_size if max_size is None else max_size,
                before.max_wait_seconds if max_wait_seconds is None else max_wait_seconds,
            )
        )
        self._lease("batch", ttl_seconds, asdict(before), lambda: self._put_batch(before))

    def set_limits(self, limits: Mapping[levels.Level, levels.Limit], ttl_seconds: float | None) -> None:
        """Change the limits of the given levels, for a time or for good."""
        before = self._places.limits
        self._put_limits(limits)
        self._lease("limits", ttl_seconds, self.describe_limits(before), lambda: self._put_limits(before))

    def degrade(self, degradation: Degradation, ttl_seconds: float) -> None:
        """Step down the ladder for a time."""
        self.degradation = degradation
        self._lease("degradation", ttl_seconds, _describe(Degradation()), self._restore)

    def restore(self) -> None:
        """Return to full service."""
        self._book.release("degradation")

    def drain(self, ttl_seconds: float | None = None) -> None:
        """Refuse new requests, for a time or until undrained."""
        self.is_draining = True
        self._lease("drain", ttl_seconds, previous=False, restore=self._admit_again)

    def undrain(self) -> None:
        """Take requests again."""
        self._book.forget("drain")
        self._admit_again()

    def retry_after_drain_seconds(self) -> int:
        """Return what a refused caller is told: the rest of the lease, or a little while."""
        left = self._book.expires_in("drain")
        return RETRY_DRAIN_SECONDS if left is None else min(MAX_RETRY_DRAIN_SECONDS, max(1, math.ceil(left)))

    def describe_batch(self) -> dict[str, Any]:
        """Return the batch as the admin API shows it."""
        return asdict(self._waiting.batch)

    def describe_limits(self, limits: Mapping[levels.Level, levels.Limit] | None = None) -> dict[str, Any]:
        """Return limits (those in force unless given) as the admin API shows them."""
        shown = self._places.limits if limits is None else limits
        return {str(level): asdict(limit) for level, limit in shown.items()}

    def describe_degradation(self) -> dict[str, Any]:
        """Return the degradation as the admin API shows it."""
        return _describe(self.degradation)

    def retry_after_degradation_seconds(self) -> int:
        """Return when what the ladder refuses may be served again: when its lease ends, as far as is known now."""
        left = self._book.expires_in("degradation") or 1.0
        return min(levels.MAX_RETRY_AFTER_SECONDS, max(1, math.ceil(left)))

    def _lease(self, kind: str, ttl_seconds: float | None, previous: Any, restore: Callable[[], None]) -> None:
        if ttl_seconds is None:
            self._book.forget(kind)
        else:
            self._book.hold(kind, ttl_seconds=ttl_seconds, previous=previous, restore=restore)

    def _put_batch(self, batch: batcher.Batch) -> None:
        self._waiting.batch = batch
        self._on_change()

    def _put_limits(self, limits: Mapping[levels.Level, levels.Limit]) -> None:
        self._places.set_limits(limits)
        self._on_change()

    def _restore(self) -> None:
        self.degradation = Degradation()

    def _admit_again(self) -> None:
        self.is_draining = False


def _describe(degradation: Degradation) -> dict[str, Any]:
    caps = {str(level): asdict(degradation.by_level.get(level, Cap())) for level in levels.Level}
    return {"level": degradation.level, "max_tokens": degradation.max_tokens, "levels": caps}
