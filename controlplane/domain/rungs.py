"""The degradation ladder's rungs, and what is known of where a service stands. Premium is on none of them.

Used by the action that sets a rung, by the engine that chooses one, and by whoever shows it. Pure values.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from controlplane.domain import outcomes


@dataclass(frozen=True, slots=True)
class Rung:
    """What a rung takes from which service levels; every rung keeps what the one below it took."""

    number: int
    name: str
    capped: tuple[str, ...] = ()
    cached_only: tuple[str, ...] = ()
    shed: tuple[str, ...] = ()


RUNGS = (
    Rung(0, "full service"),
    Rung(1, "answers capped", capped=("standard", "batch")),
    Rung(2, "batch shed", capped=("standard",), shed=("batch",)),
    Rung(3, "standard from the cache only", capped=("standard",), cached_only=("standard",), shed=("batch",)),
    Rung(4, "standard shed", shed=("standard", "batch")),
)
TOP = len(RUNGS) - 1


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a service stands, read from its gateway: the rung, and when its lease ends (None: no lease).

    `is_foreign`: somebody sheds levels there without the ladder, so that no rung may be set over it.
    """

    rung: int
    expires_in_seconds: float | None = None
    is_foreign: bool = False


class RungControl(Protocol):
    """Reads where services stand, and keeps the leases of a rung that a run has set."""

    async def standing(self, service: str) -> Standing:
        """Return where a service stands now; raises what reading its gateway raises."""
        ...

    async def renew(self, service: str, params: Mapping[str, outcomes.Json]) -> str:
        """Extend the leases that the action `set_rung` made with `params`; return what was not reached, if anything.

        Raises what the gateway's refusal raises.
        """
        ...


def describe(rung: int) -> str:
    """Return a rung as people read it.

    >>> describe(2)
    'rung 2 of 4 (batch shed)'
    """
    return f"rung {rung} of {TOP} ({RUNGS[rung].name})"
