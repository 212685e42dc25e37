"""The breaker on the remediator: when automation has touched too many nodes of a service in a short time, it stands still.

Trouble that seems to sit in many nodes at once mostly sits somewhere else: in the network, in a release, in what measures.
A tripped breaker stays tripped, over restarts too, until a person resets it. Pure values.
"""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Limits:
    """How many nodes of one service automation may touch within `window_seconds`.

    `nodes`, or `percent` of the service's nodes where that is more: a percentage alone is one node of a small fleet, and
    a number alone says nothing about a large one.
    """

    nodes: int = 5
    percent: float = 50.0
    window_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """The breaker of one service: what tripped it last, and who reset it last. `nodes` are those that were counted."""

    service: str
    is_open: bool
    tripped_at: datetime
    sentence: str
    nodes: tuple[str, ...] = ()
    reset_at: datetime | None = None
    reset_by: str = ""
    reset_reason: str = ""
