"""The gateway's metrics: arrivals, refusals, answers and their times, by level and node.

Arrivals are counted before anything can refuse, so that refused demand is still seen. Scrape targets add `service`.
"""

import prometheus_client

from inference_node import levels

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 2.5, 5, 7.5, 10, 20, 30, 60, 120)
REJECTIONS = ("shed", "gateway_full", "queue_full", "waited_too_long", "no_node")


class GatewayMetrics:
    """Everything the gateway counts."""

    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> prometheus_client.Counter:
            return prometheus_client.Counter(f"dsctl_gateway_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> prometheus_client.Gauge:
            return prometheus_client.Gauge(f"dsctl_gateway_{name}", text, labels, registry=registry)

        def seconds(name: str, text: str) -> prometheus_client.Histogram:
            return prometheus_client.Histogram(
                f"dsctl_gateway_{name}", text, ("level", "node"), buckets=_SECONDS, registry=registry
            )

        self.arrivals = counter("arrivals", "Data requests that arrived.", "level")
        self.responses = counter("responses", "Data requests answered.", "level", "node", "code")
        self.rejected = counter("rejected", "Data requests the gateway refused itself.", "level", "reason")
        self.overflowed = counter("overflowed", "Data requests served one level down.", "level", "served_as")
        self.waiting = gauge("waiting", "Requests that wait for their turn.", "level")
        self.at_nodes = gauge("at_nodes", "Requests at nodes, by the level they are served as.", "level")
        self.shed = gauge("level_shed", "1 while a level is refused.", "level")
        self.degradation_level = gauge("degradation_level", "Rung of the degradation ladder; 0 is full service.")
        self.duration = seconds("request_duration_seconds", "Arrival to the end of the answer.")
        self.first_byte = seconds("time_to_first_byte_seconds", "Arrival to the first byte of the answer's body.")
        self.outstanding = gauge("outstanding", "Requests at a node now.", "node")
        self.in_service = gauge("node_in_service", "1 while a node gets new requests.", "node")
        self.slow_start = gauge("node_slow_start_ratio", "Share of its due a node gets; below 1 in slow start.", "node")
        self.load_ratio = gauge("load_ratio", "Outstanding requests over max_outstanding.")
        self.upstream_errors = counter("upstream_errors", "Tries that a node failed.", "node", "reason")
        for level in levels.Level:
            self.arrivals.labels(level)
            for reason in REJECTIONS:
                self.rejected.labels(level, reason)
