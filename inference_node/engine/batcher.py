"""Who joins the batch, and when. Integers and times only: no torch, no I/O, no clock of its own.

Waiting requests join between two steps (iteration-level batching): as soon as they fill the batch, or when the oldest
of them has waited long enough. The ones that do not fit stay, in order. Better levels join first; one place in eight
goes to a request that has aged, whatever its level, so that nobody starves and a better level hardly notices.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from inference_node import levels
from inference_node.engine import generation, ports

DEFAULT_AGEING_SECONDS = 2.0
BACKGROUND_SHARE = 4
"""Background work may hold one place in this many, and always one: audits must not crowd out requests that come next."""


_LEVELS = (generation.Rank.PREMIUM, generation.Rank.STANDARD, generation.Rank.BATCH)


@dataclass(frozen=True, slots=True)
class Batch:
    """The largest batch, and how long a request may wait for others to join with."""

    max_size: int
    max_wait_seconds: float


class Batcher:
    """The waiting requests."""

    def __init__(
        self,
        batch: Batch,
        concurrency: Callable[[generation.Rank], int],
        *,
        ageing_seconds: float = DEFAULT_AGEING_SECONDS,
    ) -> None:
        self.batch = batch
        self._concurrency = concurrency
        self._ageing = levels.Ageing(ageing_seconds)
        self._waiting: dict[generation.Rank, deque[generation.Generation]] = {rank: deque() for rank in generation.Rank}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[generation.Generation]:
        for queue in self._waiting.values():
            yield from queue

    def add(self, waiting: generation.Generation) -> None:
        """Append a request to the queue of its rank."""
        self._waiting[waiting.rank].append(waiting)

    def drop_cancelled(self) -> list[generation.Generation]:
        """Remove and return the requests whose callers went away."""
        gone = [each for each in self if each.is_cancelled]
        for each in gone:
            self._waiting[each.rank].remove(each)
        return gone

    def drop_all(self) -> list[generation.Generation]:
        """Remove and return every waiting request."""
        gone = list(self)
        for queue in self._waiting.values():
            queue.clear()
        return gone

    def take(
        self, now: float, model: ports.LoadedModel, running: Mapping[generation.Rank, int]
    ) -> list[generation.Generation]:
        """Remove and return the requests that join now; empty while it pays to wait for more."""
        free = self.batch.max_size - sum(running.values())
        fitting, ageing = self._fitting(now, model, running, free)
        if not fitting or (len(fitting) < free and now < self._due_at(fitting)):
            return []
        self._ageing = ageing
        for each in fitting:
            self._waiting[each.rank].remove(each)
        return fitting

    def next_due_in(self, now: float, model: ports.LoadedModel, running: Mapping[generation.Rank, int]) -> float | None:
        """Return how long until `take` will give something if nothing else happens, or None if it never will."""
        fitting, _ = self._fitting(now, model, running, self.batch.max_size - sum(running.values()))
        if not fitting:
            return None
        return max(0.0, self._due_at(fitting) - now)

    def oldest_age(self, now: float) -> float:
        """Return how long the oldest foreground request has waited; 0 when none waits."""
        heads = [
            queue[0].arrived_at
            for rank, queue in self._waiting.items()
            if queue and rank is not generation.Rank.BACKGROUND
        ]
        return max(0.0, now - min(heads)) if heads else 0.0

    def _fitting(
        self, now: float, model: ports.LoadedModel, running: Mapping[generation.Rank, int], free: int
    ) -> tuple[list[generation.Generation], levels.Ageing]:
        """Return the requests for `model` that fit into the free places, in their order, and the ageing after them."""
        queues = [self._eligible(rank, model, min(free, self._bound(rank) - running.get(rank, 0))) for rank in _LEVELS]
        fitting, ageing = list[generation.Generation](), self._ageing
        while len(fitting) < free and (ready := [queue for queue in queues if queue]):
            index, ageing = ageing.pick([now - queue[0].arrived_at for queue in ready])
            fitting.append(ready[index].popleft())
        background = generation.Rank.BACKGROUND
        places = min(free - len(fitting), self._bound(background) - running.get(background, 0))
        return [*fitting, *self._eligible(background, model, places)], ageing

    def _eligible(self, rank: generation.Rank, model: ports.LoadedModel, places: int) -> deque[generation.Generation]:
        """Return the oldest requests of a rank that the model may compute, at most as many as there are places."""
        found = (each for each in self._waiting[rank] if each.model is model)
        return deque(itertools.islice(found, max(0, places)))

    def _bound(self, rank: generation.Rank) -> int:
        if rank is generation.Rank.BACKGROUND:
            return max(1, self.batch.max_size // BACKGROUND_SHARE)
        return self._concurrency(rank)

    def _due_at(self, fitting: list[generation.Generation]) -> float:
        return min(each.arrived_at for each in fitting) + self.batch.max_wait_seconds
