"""What one tick of the loop reports: one plain sentence per incident, which every surface shows unchanged."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from controlplane.domain import capacity, windows


@dataclass(frozen=True, slots=True)
class IncidentLine:
    """What this tick did about one incident, in the words an operator reads."""

    incident_id: str
    key: str
    sentence: str


@dataclass(frozen=True, slots=True)
class TickReport:
    """One tick. `is_good` is false when a room failed; `problems` then says which and why."""

    at: datetime
    duration_seconds: float
    lines: tuple[IncidentLine, ...]
    problems: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """True when every room did its work."""
        return not self.problems


class TickFeed(Protocol):
    """What the surfaces may know of the loop."""

    def view(self) -> windows.FleetView | None:
        """Return the newest fleet view, or None before the first tick."""
        ...

    def report(self) -> TickReport | None:
        """Return the newest report, or None before the first tick."""
        ...

    def outlooks(self) -> Mapping[str, capacity.Outlook]:
        """Return what is foretold and planned for each service, by name, as of the newest tick; empty before the first."""
        ...

    def seconds_since_good(self) -> float | None:
        """Return seconds (monotonic) since the last good tick ended, or None before the first."""
        ...

    def wake(self) -> None:
        """Ask for a tick soon (debounced); never blocks."""
        ...
