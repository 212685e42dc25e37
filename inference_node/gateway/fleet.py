"""The nodes a gateway knows, and which of them gets the next request: the one with the least outstanding per weight.

Pure bookkeeping: no I/O, no clock. Ties go round, so that idle nodes share the load. State survives nothing: after a
restart only the configured nodes are known, and the control plane registers the rest again.
Concurrency: one event loop.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum

from inference_node import errors


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

    @property
    def is_choosable(self) -> bool:
        """Whether it may get a new request."""
        return self.state is State.IN_SERVICE and self.weight > 0


class Fleet:
    """The registered nodes."""

    def __init__(self) -> None:
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

    def register(self, name: str, url: str, weight: float | None = None) -> Member:
        """Add a node or change its URL and weight; a draining one serves again, an ejected one stays ejected."""
        member = self._members.setdefault(name, Member(name, url))
        member.url = url.rstrip("/")
        member.weight = member.weight if weight is None else weight
        if member.state is State.DRAINING:
            member.state = State.IN_SERVICE
        return member

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
        return min(choosable, key=lambda each: ((each.outstanding + 1) / each.weight, each.last_turn))

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
