"""The nodes a gateway knows, and which of them gets the next request: the one with the least outstanding per weight.

Pure bookkeeping: no I/O, no task. Ties go round, so that idle nodes share the load. A node that comes into service
starts slowly: it takes part in a share of the choices that grows from a tenth of its due to all of it, because its cache
is cold and its weights have just been loaded. State survives nothing: after a restart only the configured nodes are
known, and the control plane registers the rest again.
Concurrency: one event loop.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum

from inference_node import clock as clocks
from inference_node import errors

MIN_SLOW_START_RATIO = 0.1
"""Less would tell nobody whether the node answers well; Envoy's slow start begins with the same tenth."""


class State(StrEnum):
    """Whether a node gets new requests, and why not."""

    IN_SERVICE = "in_service"
    EJECTED = "ejected"
    DRAINING = "draining"


@dataclass(slots=True)
class Member:
    """A registered node."""

    name: str
    url: str
    weight: float = 1.0
    state: State = State.IN_SERVICE
    eject_reason: str = ""
    outstanding: int = 0
    last_turn: int = field(default=0, repr=False)
    entered_at: float | None = field(default=None, repr=False)  # None: at full share from the start
    turns_due: float = field(default=0.0, repr=False)

    @property
    def is_choosable(self) -> bool:
        """Whether it may get a new request."""
        return self.state is State.IN_SERVICE and self.weight > 0


class Fleet:
    """The registered nodes; `slow_start_seconds` is how long one that comes into service takes to its full share."""

    def __init__(self, clock: clocks.Clock, slow_start_seconds: float) -> None:
        self._clock = clock
        self._slow_start_seconds = slow_start_seconds
        self._members: dict[str, Member] = {}
        self._turns = 0

    def members(self) -> list[Member]:
        """Return the nodes by name."""
        return [self._members[name] for name in sorted(self._members)]

    def find(self, name: str) -> Member:
        """Return a node; raises AdminError 404."""
        member = self._members.get(name)
        if member is None:
            raise errors.AdminError(
                404, "Node unknown", f"No node {name!r} is registered here; PUT /admin/v1/nodes/{name} registers it."
            )
        return member

    def configure(self, name: str, url: str, weight: float) -> None:
        """Add a node of the configuration, at its full share: when all are new, there is nobody to spare it for."""
        self._members[name] = Member(name, url.rstrip("/"), weight)

    def register(self, name: str, url: str, weight: float | None = None) -> Member:
        """Add a node or change its URL and weight; a draining one serves again, an ejected one stays ejected."""
        is_new = name not in self._members
        member = self._members.setdefault(name, Member(name, url))
        member.url = url.rstrip("/")
        member.weight = member.weight if weight is None else weight
        if is_new or member.state is State.DRAINING:
            self.enter(member)
        return member

    def enter(self, member: Member) -> None:
        """Put a node into service, slowly at first."""
        member.state = State.IN_SERVICE
        member.eject_reason = ""
        member.entered_at = self._clock.monotonic()
        member.turns_due = 0.0

    def slow_start_ratio(self, member: Member) -> float:
        """Return the share of its due that a node gets now: 1 outside slow start."""
        if member.entered_at is None or self._slow_start_seconds <= 0:
            return 1.0
        elapsed = self._clock.monotonic() - member.entered_at
        return min(1.0, max(MIN_SLOW_START_RATIO, elapsed / self._slow_start_seconds))

    def remove(self, name: str) -> Member:
        """Send it nothing more; it is gone once nothing is outstanding."""
        member = self.find(name)
        member.state = State.DRAINING
        self._forget_if_drained(member)
        return member

    def choose(self, avoiding: Collection[str] = ()) -> Member | None:
        """Return the node for the next request, or None when none is in service."""
        choosable = [each for each in self._members.values() if each.is_choosable and each.name not in avoiding]
        if not choosable:
            return None
        total = sum(each.weight for each in choosable)
        # When all of them start slowly there is nobody else to answer.
        candidates = [each for each in choosable if self._takes_part(each, total)] or choosable
        return min(candidates, key=lambda each: ((each.outstanding + 1) / each.weight, each.last_turn))

    def _takes_part(self, member: Member, total_weight: float) -> bool:
        """Say whether a node may be chosen this time: always, or in slow start once for every whole turn it is due."""
        ratio = self.slow_start_ratio(member)
        if ratio >= 1.0:
            return True
        member.turns_due += ratio * member.weight / total_weight
        if member.turns_due < 1.0:
            return False
        member.turns_due -= 1.0
        return True

    def begin(self, member: Member) -> None:
        """Count a request out to a node."""
        self._turns += 1
        member.last_turn = self._turns
        member.outstanding += 1

    def end(self, member: Member) -> None:
        """Count its end."""
        member.outstanding -= 1
        self._forget_if_drained(member)

    def _forget_if_drained(self, member: Member) -> None:
        if member.state is State.DRAINING and member.outstanding == 0 and self._members.get(member.name) is member:
            del self._members[member.name]
