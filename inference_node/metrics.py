"""The node's metrics: vLLM's names where the thing exists here, names of our own for what vLLM lacks.

Scrape targets add the labels service and node. Not exposed, because this engine does not have them: prefix-cache counters
(there is no prefix cache) and preemptions (a request that joined is never preempted). No label ever holds a request.
Counted as they happen on the event loop; gauges are read when Prometheus asks.
"""

from collections.abc import Sequence

import prometheus_client

from inference_node import levels
from inference_node.engine import generation

REJECTIONS = (
    "queue_full",
    "waited_too_long",
    "not_cached",
    "prompt_capped",
    "draining",
    "loading",
    "dead",
)

_MILLISECONDS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5, 10)
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_REQUEST = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class HttpMetrics:
    """Requests by route template, method and class of status."""

    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        self._requests = prometheus_client.Counter(
            "http_requests_total", "HTTP requests.", ["handler", "method", "status"], registry=registry
        )
        self._seconds = prometheus_client.Histogram(
            "http_request_duration_seconds",
            "Time from the request to the end of its answer.",
            ["handler", "method"],
            buckets=_REQUEST,
            registry=registry,
        )

    def request_done(self, *, handler: str, method: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(handler, method, f"{status // 100}xx").inc()
        self._seconds.labels(handler, method).observe(seconds)


class EngineMetrics:
    """What the engine reports; implements its `Observer`."""

    def __init__(self, registry: prometheus_client.CollectorRegistry, model_name: str) -> None:
        self._registry = registry
        self._labels = {"model_name": model_name, "engine": "0"}
        self.running = self._gauge("vllm:num_requests_running", "Requests in the batch.")
        self.waiting = self._gauge("vllm:num_requests_waiting", "Requests waiting to join the batch.")
        self.kv_usage = self._gauge("vllm:kv_cache_usage_perc", "Share of the KV capacity in use, 0 to 1.")
        self._prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens computed.")
        self._generation_tokens = self._counter("vllm:generation_tokens", "Tokens generated.")
        self._finished = prometheus_client.Counter(
            "vllm:request_success", "Requests ended.", [*self._labels, "finished_reason"], registry=registry
        )
        for reason in ("stop", "length", "abort", "error"):
            self._finished.labels(**self._labels, finished_reason=reason)
        seconds = self._histogram
        self._ttft = seconds("vllm:time_to_first_token_seconds", "Arrival to first token.", _FIRST_TOKEN)
        self._itl = seconds("vllm:inter_token_latency_seconds", "Time between tokens.", _MILLISECONDS)
        self._tpot = seconds("vllm:request_time_per_output_token_seconds", "Mean time per token.", _MILLISECONDS)
        self._e2e = seconds("vllm:e2e_request_latency_seconds", "Arrival to end.", _REQUEST)
        self._queue = seconds("vllm:request_queue_time_seconds", "Arrival to joining the batch.", _REQUEST)
        self._prefill = seconds("vllm:request_prefill_time_seconds", "Joining to first token.", _REQUEST)
        self._decode = seconds("vllm:request_decode_time_seconds", "First to last token.", _REQUEST)
        self._inference = seconds("vllm:request_inference_time_seconds", "Joining to last token.", _REQUEST)
        self._prompt_sizes = seconds("vllm:request_prompt_tokens", "Prompt tokens of a request.", _TOKENS)
        self._generation_sizes = seconds("vllm:request_generation_tokens", "Tokens generated for a request.", _TOKENS)
        self._max_tokens = seconds("vllm:request_params_max_tokens", "max_tokens of a request.", _TOKENS)
        self._iteration = seconds("vllm:iteration_tokens_total", "Tokens handled in a step.", _TOKENS)
        self._steps = prometheus_client.Counter("dsctl_node_engine_steps", "Forward passes.", registry=registry)
        self._step_seconds = prometheus_client.Histogram(
            "dsctl_node_step_seconds", "Time of a step, pacing included.", buckets=_MILLISECONDS, registry=registry
        )
        self._batch_size = prometheus_client.Histogram(
            "dsctl_node_batch_size", "Requests in a step.", buckets=_SIZES, registry=registry
        )

    def step_done(self, *, seconds: float, batch_size: int, num_tokens: int) -> None:
        """Count one forward pass."""
        self._steps.inc()
        self._step_seconds.observe(seconds)
        self._batch_size.observe(batch_size)
        self._iteration.observe(num_tokens)

    def token_done(self, one: generation.Generation, *, since_last: float | None) -> None:
        """Count one token of a request."""
        self._generation_tokens.inc()
        if since_last is not None:
            self._itl.observe(since_last)
            return
        self._prompt_tokens.inc(len(one.prompt))
        self._ttft.observe(one.last_token_at - one.arrived_at)

    def generation_done(self, one: generation.Generation, now: float) -> None:
        """Count the end of a request; times only where it came to a token."""
        self._finished.labels(**self._labels, finished_reason=one.finish_reason or "error").inc()
        self._e2e.observe(now - one.arrived_at)
        self._prompt_sizes.observe(len(one.prompt))
        self._generation_sizes.observe(one.num_tokens)
        self._max_tokens.observe(one.parameters.max_tokens)
        if one.first_token_at is None:
            return
        decode_seconds = one.last_token_at - one.first_token_at
        self._queue.observe(one.joined_at - one.arrived_at)
        self._prefill.observe(one.first_token_at - one.joined_at)
        self._decode.observe(decode_seconds)
        self._inference.observe(one.last_token_at - one.joined_at)
        if one.num_tokens > 1:
            self._tpot.observe(decode_seconds / (one.num_tokens - 1))

    def _gauge(self, name: str, text: str) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(name, text, list(self._labels), registry=self._registry).labels(**self._labels)

    def _counter(self, name: str, text: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(name, text, list(self._labels), registry=self._registry).labels(**self._labels)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> prometheus_client.Histogram:
        histogram = prometheus_client.Histogram(
            name, text, list(self._labels), buckets=buckets, registry=self._registry
        )
        return histogram.labels(**self._labels)


class NodeMetrics:
    """Everything of the node beside the engine and HTTP."""

    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> prometheus_client.Counter:
            return prometheus_client.Counter(f"dsctl_node_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> prometheus_client.Gauge:
            return prometheus_client.Gauge(f"dsctl_node_{name}", text, labels, registry=registry)

        self.cache_requests = counter("cache_requests", "Look-ups in the response cache.", "tier", "result")
        self.cache_audits = counter("cache_audits", "Cached answers computed again and compared.", "tier", "result")
        self.cache_entries = gauge("cache_entries", "Answers held.", "tier")
        self.cache_bytes = gauge("cache_bytes", "Bytes of the answers held.", "tier")
        self.cache_flushes = counter("cache_flushes", "Flushes.", "tier")
        self.queue_age = gauge("queue_age_seconds", "How long the oldest waiting request has waited.")
        self.rejected = counter("rejected", "Requests refused before any work.", "level", "reason")
        self.degraded = counter("degraded_answers", "Requests whose max_tokens was cut by degradation.", "level")
        self.draining = gauge("draining", "1 while new requests are refused.")
        self.degradation_level = gauge("degradation_level", "Rung of the degradation ladder; 0 is full service.")
        self.leases = gauge("leases", "Overrides in force.", "kind")
        self.fault_active = gauge("fault_active", "1 while a fault is injected.", "fault")
        self.paced_step = gauge("paced_step_seconds", "Artificial minimum time of a step; 0 is none.")
        self.memory_limit = gauge("memory_limit_bytes", "Memory the process may hold; 0 is no known limit.")
        self.threads = gauge("threads", "Threads of the process that Python knows.")
        self.info = gauge("info", "Always 1.", "version", "model", "device", "boot_id")

    def zero_counters(self) -> None:
        """Show the counters at zero from the start: a rate over a series that begins at one misses the first event."""
        for result in ("hit", "miss", "bypass"):
            self.cache_requests.labels("l1", result)
        for result in ("match", "mismatch"):
            self.cache_audits.labels("l1", result)
        self.cache_flushes.labels("l1")
        for level in levels.Level:
            self.degraded.labels(level)
            for reason in REJECTIONS:
                self.rejected.labels(level, reason)
