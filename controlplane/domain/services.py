"""Services under management: what is promised, how their metrics are found, which pools carry them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.domain import errors
from controlplane.domain import maintenance as mnt
from controlplane.domain import signals as sig


@dataclass(frozen=True, slots=True)
class Objectives:
    """What the service promises. Latency is the 99th percentile of whole requests, in seconds."""

    latency_p99_seconds: float = 1.5
    success_ratio: float = 0.995


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Levels at which the shipped rules alert; units are in the names (REQUIREMENTS D5 holds the defaults)."""

    latency_p99_warning_seconds: float = 0.5
    pending_requests: float = 100.0
    qps: tuple[float, ...] = (5000.0, 8000.0)
    server_error_ratio: float = 0.01
    gpu_utilization_ratio: float = 0.9
    gpu_memory_used_ratio: float = 0.9
    cpu_usage_ratio: float = 0.85
    gateway_load_ratio: float = 0.8
    premium_rejected_ratio: float = 0.01
    cache_wrong_ratio: float = 0.01
    cache_hit_drop_ratio: float = 0.5


@dataclass(frozen=True, slots=True)
class Pool:
    """A group of nodes that one actuator grows and shrinks, between `min` and `max` nodes.

    `min_ready` of them must stay in service whatever happens (None: `min`). One with `queue_depth_per_node` is a cold
    pool: it grows by the requests that wait, one node for each so many. `owner` is who else says how many nodes it has,
    such as KEDA; dsctl then leaves its size alone.
    """

    name: str
    actuator: str
    min: int
    max: int
    queue_depth_per_node: float | None = None
    min_ready: int | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """A threshold of arrivals per second of the service; above it `nodes` more than the pools' minimum are kept.

    With `pool` they are counted in that pool, as for one that is rented in another place.
    """

    above_qps: float
    nodes: int
    pool: str = ""


@dataclass(frozen=True, slots=True)
class CapacityRules:
    """How capacity is planned. Without `requests_per_second_per_node` it is learned from load and latency.

    `headroom_ratio` is kept free; `cold_start_seconds` holds until one was measured; a stage is released below
    `release_ratio` of its threshold; nodes go after `shrink_after_seconds` without need; nodes that are not ready
    `give_up_seconds` after they were asked for are given up.
    """

    requests_per_second_per_node: float | None = None
    headroom_ratio: float = 0.3
    cold_start_seconds: float = 900.0
    stages: tuple[Stage, ...] = ()
    release_ratio: float = 0.8
    shrink_after_seconds: float = 600.0
    give_up_seconds: float = 1800.0


@dataclass(frozen=True, slots=True)
class CalendarEvent:
    """Something that moves demand at a known time: from `at_seconds` after midnight in `timezone`, on weekdays `days`.

    Monday is 0. It lasts `duration_seconds`, for the forecast, which learns what it does from earlier days.
    """

    name: str
    at_seconds: int
    duration_seconds: float
    days: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Service:
    """One managed service; `selector` are Prometheus label matchers, `profile` names the engine's metric names.

    In the windows of `maintenance` automation leaves it alone.
    """

    name: str
    profile: str
    selector: Mapping[str, str]
    objectives: Objectives = field(default_factory=Objectives)
    thresholds: Thresholds = field(default_factory=Thresholds)
    pools: tuple[Pool, ...] = ()
    capacity: CapacityRules = field(default_factory=CapacityRules)
    events: tuple[CalendarEvent, ...] = ()
    maintenance: tuple[mnt.Window, ...] = ()

    @property
    def min_ready(self) -> int:
        """How many nodes must stay in service, over all pools."""
        return sum(pool.min if pool.min_ready is None else pool.min_ready for pool in self.pools)

    def limit(self, signal: str) -> sig.Limit:
        """Return the healthy band of `signal`, from the objectives and thresholds.

        Raises InvalidInputError for a signal without a stated limit: nobody can verify recovery of it.
        """
        found = self._limits().get(signal)
        if found is None:
            raise errors.InvalidInputError(f"service {self.name} states no limit for signal {signal!r}")
        return found

    def _limits(self) -> Mapping[str, sig.Limit]:
        limits = (
            sig.Limit("latency_p99", at_most=self.objectives.latency_p99_seconds),
            sig.Limit("success_ratio", at_least=self.objectives.success_ratio),
            sig.Limit("server_error_ratio", at_most=self.thresholds.server_error_ratio),
            sig.Limit("failed_ratio", at_most=self.thresholds.server_error_ratio),
            sig.Limit("queue_depth", at_most=self.thresholds.pending_requests),
            sig.Limit("cache_wrong_ratio", at_most=self.thresholds.cache_wrong_ratio),
            sig.Limit("gpu_memory_used_ratio", at_most=self.thresholds.gpu_memory_used_ratio),
            sig.Limit("cpu_usage_ratio", at_most=self.thresholds.cpu_usage_ratio),
        )
        return {limit.signal: limit for limit in limits}
