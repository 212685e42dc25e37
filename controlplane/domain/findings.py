"""What detectors and alerts say: a finding, or that they cannot say anything yet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Severity(StrEnum):
    """How bad, in the words of Prometheus alerts."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for info up to 2 for critical, for comparing."""
        return list(Severity).index(self)


class FaultClass(StrEnum):
    """The kinds of trouble incidents are keyed by; the situations S1 to S10 map onto them."""

    SURGE = "surge"
    SURPLUS = "surplus"
    OVERLOAD = "overload"
    LEAK = "leak"
    CACHE = "cache"
    BAD_NODE = "bad_node"
    REGRESSION = "regression"
    DEPENDENCY = "dependency"
    GPU_FAULT = "gpu_fault"
    LATENCY = "latency"
    ERRORS = "errors"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Finding:
    """Trouble on a target: a node, or the whole service when `node` is empty.

    `source` names who says so, as `alert:NAME` or a detector's name. `observed` and `expected` are in the
    signal's base unit; NaN is not allowed, leave them None when the source gives no number.
    """

    kind: FaultClass
    service: str
    node: str
    signal: str
    severity: Severity
    source: str
    at: datetime
    summary: str
    score: float = 1.0
    observed: float | None = None
    expected: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class NotReadyReason(StrEnum):
    """Why a detector declines to judge."""

    TOO_FEW_SAMPLES = "too few samples"
    SIGNAL_UNKNOWN = "signal is unknown"
    NO_PEERS = "no peers to compare with"


@dataclass(frozen=True, slots=True)
class NotReady:
    """A detector's honest answer when it has not enough to judge on.

    It is about one node, or without `node` about all of a service; about one signal, or without `signal` about each.
    """

    detector: str
    service: str
    reason: NotReadyReason
    detail: str = ""
    node: str = ""
    signal: str = ""
