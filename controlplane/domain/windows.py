"""What was observed: the newest reading of every signal (views), and signals over a stretch of time (windows)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.domain import signals as sig

# The signal by which a gateway says whether it sends a node requests (1) or keeps it out (0).
IN_SERVICE = "in_service"
# Why that signal may be missing where nothing is hidden: there is no gateway, or it does not know the node.
_NO_GATEWAY = frozenset({sig.UnknownReason.NOT_IN_PROFILE, sig.UnknownReason.NO_SERIES})


@dataclass(frozen=True, slots=True)
class NodeView:
    """The newest readings of one node. `address` is host:port as Prometheus scrapes it."""

    node: str
    service: str
    address: str
    is_up: sig.Reading  # Value 1.0 or 0.0, or Unknown when nobody can tell
    signals: Mapping[str, sig.Reading] = field(default_factory=dict[str, sig.Reading])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def is_serving(self) -> bool:
        """True only when the node is known to be up, and nothing says or hides that its gateway keeps it out."""
        if not isinstance(self.is_up, sig.Value) or self.is_up.value != 1.0:
            return False
        at_gateway = self.signals.get(IN_SERVICE)
        if isinstance(at_gateway, sig.Value):
            return at_gateway.value > 0.0
        return at_gateway is None or at_gateway.reason in _NO_GATEWAY

    @property
    def is_out(self) -> bool:
        """True when the node is known to be down, or known to be kept out by its gateway: nothing is taken from it."""
        at_gateway = self.signals.get(IN_SERVICE)
        is_down = isinstance(self.is_up, sig.Value) and self.is_up.value == 0.0
        return is_down or (isinstance(at_gateway, sig.Value) and at_gateway.value == 0.0)


@dataclass(frozen=True, slots=True)
class ServiceView:
    """The newest readings of a service and of each of its nodes."""

    service: str
    signals: Mapping[str, sig.Reading]
    nodes: Mapping[str, NodeView]


@dataclass(frozen=True, slots=True)
class FleetView:
    """Everything observed in one tick. `at` is the evaluation time, UTC."""

    at: datetime
    services: Mapping[str, ServiceView]


@dataclass(frozen=True, slots=True)
class Series:
    """Samples in ascending time; `times` are Unix seconds, a hole is simply absent (unknown, never zero)."""

    times: tuple[float, ...]
    values: tuple[float, ...]

    def since(self, start: float) -> "Series":
        """Keep only the samples at or after `start` (Unix seconds)."""
        return self.between(start, float("inf"))

    def between(self, start: float, end: float) -> "Series":
        """Keep only the samples with start <= time < end (Unix seconds)."""
        kept = [(t, v) for t, v in zip(self.times, self.values, strict=True) if start <= t < end]
        return Series(tuple(t for t, _ in kept), tuple(v for _, v in kept))


@dataclass(frozen=True, slots=True)
class Window:
    """Signals of one service between two instants, `step_seconds` apart.

    `nodes[node][signal]` and `service_signals[signal]`; a signal the store could not answer is listed in
    `unknown` with its reason and appears in neither map.
    """

    service: str
    start: datetime
    end: datetime
    step_seconds: float
    service_signals: Mapping[str, Series]
    nodes: Mapping[str, Mapping[str, Series]]
    unknown: Mapping[str, sig.Unknown] = field(default_factory=dict[str, sig.Unknown])
