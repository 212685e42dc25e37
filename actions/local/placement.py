"""Which nodes are started and which leave, so that a stated number of them runs.

Called by `scale`, for the plan that people approve and again right before the effect. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.domain import errors


@dataclass(frozen=True, slots=True)
class Seen:
    """A defined node: started and not stopped on purpose, its process alive, its gateway sending it requests."""

    name: str
    is_started: bool
    is_running: bool
    is_in_rotation: bool = True


@dataclass(frozen=True, slots=True)
class Difference:
    """What is missing and what is too much.

    `running` counts processes now. `candidates` may be started, in this order; `wanted` of them are enough. `leaving`
    are stopped.
    """

    running: int
    candidates: tuple[str, ...]
    wanted: int
    leaving: tuple[str, ...]

    @property
    def starting(self) -> tuple[str, ...]:
        """The candidates that come first; the others only replace one that does not come up."""
        return self.candidates[: self.wanted]


def difference(seen: Sequence[Seen], replicas: int) -> Difference:
    """Compare what runs with what shall run; `seen` holds every defined node in the order in which nodes are started.

    A node whose process has ended does not count as running: it is started anew, or is the first to leave. Raises
    GiveUpError when fewer nodes are defined than asked for.

    >>> now = [Seen("a", True, True), Seen("b", True, True), Seen("c", False, False)]
    >>> difference(now, 3).starting, difference(now, 1).leaving
    (('c',), ('b',))
    """
    if replicas > len(seen):
        raise errors.GiveUpError(
            f"fleet.yaml defines {len(seen)} nodes; {replicas} cannot be placed, so define more or ask for fewer"
        )
    leaving = _leaving(seen, replicas)
    running = sum(one.is_running for one in seen)
    kept = sum(one.is_running and one.name not in leaving for one in seen)
    return Difference(
        running=running,
        candidates=tuple(one.name for one in seen if not one.is_running and one.name not in leaving),
        wanted=replicas - kept,
        leaving=leaving,
    )


def _leaving(seen: Sequence[Seen], replicas: int) -> tuple[str, ...]:
    """Return who leaves: who serves nobody first, then whoever would be started last."""
    started = [(one, place) for place, one in enumerate(seen) if one.is_started]
    started.sort(key=lambda pair: (pair[0].is_running, pair[0].is_in_rotation, -pair[1]))
    return tuple(one.name for one, _ in started[: max(0, len(started) - replicas)])
