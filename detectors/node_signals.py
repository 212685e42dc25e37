"""Which signals tell a bad node from its peers, which way is bad, and how much of a change is worth acting on.

Read by the detector of bad nodes and by its arithmetic. Constants only.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Watch:
    """One signal of a node.

    `min_shift` (in the signal's base unit) and `min_ratio` (of what is expected) are the smallest change worth
    noticing; the larger counts. `is_load` marks what a node that carries more than its peers shows without being ill:
    it is compared only with peers that carry about as much.
    """

    signal: str
    min_shift: float
    min_ratio: float = 0.5
    is_load: bool = True


# A rise of one of these on one node is trouble.
WATCHES = (
    # One answer in twenty: well above what retries and deploys cause, well below what users put up with. Time limits that
    # run out are not among them: under overload they run out on any node, a batch at a time, and latency shows them.
    Watch("failed_ratio", min_shift=0.05, min_ratio=0.0, is_load=False),
    Watch("inter_token_latency_p95", min_shift=0.01),
    Watch("ttft_p95", min_shift=0.05),
    Watch("latency_p99", min_shift=0.05),
    Watch("queue_age", min_shift=0.5),
    Watch("queue_depth", min_shift=4.0),
    Watch("gpu_throttle", min_shift=0.5, is_load=False),
)

# Neither good nor bad by themselves: they tell the forest what a usual moment of a node looks like.
CONTEXT = (
    Watch("request_rate", min_shift=0.5),
    Watch("running", min_shift=2.0),
    Watch("outstanding", min_shift=2.0),
    Watch("generation_tokens_rate", min_shift=10.0),
    Watch("engine_steps_rate", min_shift=5.0),
    Watch("cache_hit_ratio", min_shift=0.1, min_ratio=0.1),
    Watch("kv_cache_usage", min_shift=0.1, min_ratio=0.1),
    Watch("cpu_usage_ratio", min_shift=0.1, min_ratio=0.1),
    Watch("gpu_utilization_ratio", min_shift=0.1, min_ratio=0.1),
    Watch("gpu_memory_used_ratio", min_shift=0.05, min_ratio=0.1),
    Watch("gpu_temperature", min_shift=5.0, min_ratio=0.1),
    Watch("gpu_power", min_shift=20.0, min_ratio=0.2),
)

# Asked for to know whether a node can be judged at all: it has just started, it drains, or its gateway keeps it out.
RESTARTS, DRAINING, IN_SERVICE = "restarts", "draining", "in_service"

LOAD, CACHE_HITS, LATENCY, ERRORS = "request_rate", "cache_hit_ratio", "latency_p99", "failed_ratio"

SIGNALS = (*(one.signal for one in (*WATCHES, *CONTEXT)), RESTARTS, DRAINING, IN_SERVICE)
