"""What is bad, for how long, and how bad: the shipped alerts, one function per situation.

Called by `generate`. Pure. Thresholds come from services.yaml; durations and severities are here, with their reason.
A rule whose signals the engine does not tell is left out. Each alert has a page in docs/alerts.
"""

from collections.abc import Callable, Iterator

from alerts.rules import writing
from controlplane.domain import findings

_INFO, _WARNING, _CRITICAL = findings.Severity.INFO, findings.Severity.WARNING, findings.Severity.CRITICAL

# One bad event among few is no trend: this many must lie in the window before a ratio counts. `increase`
# extrapolates, so half an event is allowed for.
MIN_FAILED_REQUESTS = 2.5
MIN_WRONG_ANSWERS = 1.5
MIN_CACHE_LOOKUPS = 20.0
# Below this a cache never did much, and losing half of it is no collapse.
MIN_FORMER_HIT_RATIO = 0.1
# Burn rates and windows of the Site Reliability Workbook, chapter 5, table 5-8: 2 % of a month's budget in an hour,
# 5 % in six. The short window makes the alert end soon after the trouble does.
FAST_BURN, FAST_LONG_SECONDS, FAST_SHORT_SECONDS = 14.4, 3600.0, 300.0
SLOW_BURN, SLOW_LONG_SECONDS, SLOW_SHORT_SECONDS = 6.0, 21600.0, 1800.0

Rules = Iterator[writing.Rule]


def latency(writer: writing.Writer) -> Rules:
    """P99 of whole requests: above the warning level, and above what is promised."""
    p99 = writer.whole("latency_p99")
    if p99 is None:
        return
    levels = (
        ("LatencyHigh", writer.service.thresholds.latency_p99_warning_seconds, _WARNING),
        ("LatencyCritical", writer.service.objectives.latency_p99_seconds, _CRITICAL),
    )
    for name, limit, severity in levels:
        yield writing.Rule(
            alert=name,
            expr=f"{p99} > {limit:g}",
            hold_seconds=120,
            severity=severity,
            fault=findings.FaultClass.LATENCY,
            signal="latency_p99",
            summary=f"P99 latency is {{{{ $value | humanizeDuration }}}}, the limit is {limit:g} s",
            description="One request in a hundred takes longer than this. Look at queue depth and GPU use first.",
            threshold=limit,
        )


def gpu(writer: writing.Writer) -> Rules:
    """A busy GPU is only a warning: a well-batched one runs at 92 %. It is critical when users wait for it."""
    busy = writer.node("gpu_utilization_ratio")
    limits = writer.service.thresholds
    if busy is not None:
        yield _on_node(
            "GpuBusy", f"{busy} > {limits.gpu_utilization_ratio:g}", 120, _WARNING, "gpu_utilization_ratio",
            "GPU utilisation is {{ $value | humanizePercentage }}",
            "Harmless while latency and queue are fine; there is no room for more load.",
            limits.gpu_utilization_ratio,
        )  # fmt: skip
    suffering = _suffering(writer)
    if busy is not None and suffering:
        yield _on_node(
            "GpuOverloaded", f"{busy} > {limits.gpu_utilization_ratio:g} and on () ({suffering})", 300, _CRITICAL,
            "gpu_utilization_ratio",
            "GPU utilisation is {{ $value | humanizePercentage }} and requests wait or are slow",
            "The node has more work than it can do: add nodes, or degrade and shed.",
            limits.gpu_utilization_ratio,
        )  # fmt: skip


def _suffering(writer: writing.Writer) -> str:
    """Return what is true while users of the service wait; empty when the engine tells neither."""
    pending, p99 = writer.total("queue_depth"), writer.whole("latency_p99")
    parts = [
        f"{pending} > {writer.service.thresholds.pending_requests:g}" if pending else "",
        f"{p99} > {writer.service.objectives.latency_p99_seconds:g}" if p99 else "",
    ]
    return " or ".join(part for part in parts if part)


def saturation(writer: writing.Writer) -> Rules:
    """Memory and processors of nodes, and the gateway in front of them."""
    limits = writer.service.thresholds
    memory, cpu, gateway, queue = (
        writer.node("gpu_memory_used_ratio"),
        writer.node("cpu_usage_ratio"),
        writer.whole("gateway_load_ratio"),
        writer.whole("gateway_queue_depth"),
    )
    if memory is not None:
        yield _on_node(
            "GpuMemoryHigh", f"{memory} > {limits.gpu_memory_used_ratio:g}", 300, _WARNING, "gpu_memory_used_ratio",
            "GPU memory is {{ $value | humanizePercentage }} full",
            "The next long prompt may end in out-of-memory. Engines that reserve a KV pool need a higher limit.",
            limits.gpu_memory_used_ratio,
        )  # fmt: skip
    if cpu is not None:
        yield _on_node(
            "CpuHigh", f"{cpu} > {limits.cpu_usage_ratio:g}", 300, _WARNING, "cpu_usage_ratio",
            "CPU use is {{ $value | humanizePercentage }}",
            "Tokenizing and scheduling wait for processors; the GPU may starve.",
            limits.cpu_usage_ratio,
        )  # fmt: skip
    if gateway is not None:
        yield writing.Rule(
            alert="GatewayLoadHigh",
            expr=f"{gateway} > {limits.gateway_load_ratio:g}",
            hold_seconds=60,
            severity=_WARNING,
            fault=findings.FaultClass.OVERLOAD,
            signal="gateway_load_ratio",
            summary="The gateway is {{ $value | humanizePercentage }} full",
            description="Above 100 % it refuses requests although nodes may have room.",
            threshold=limits.gateway_load_ratio,
        )
    if queue is not None:
        yield writing.Rule(
            alert="GatewayQueueLong",
            expr=f"{queue} > {limits.pending_requests:g}",
            hold_seconds=60,
            severity=_WARNING,
            fault=findings.FaultClass.OVERLOAD,
            signal="gateway_queue_depth",
            summary=f"{{{{ $value }}}} requests wait in front of the nodes, the limit is {limits.pending_requests:g}",
            description="More arrives than the nodes finish; the best level goes first, the others wait and are refused.",
            threshold=limits.pending_requests,
        )


def demand(writer: writing.Writer) -> Rules:
    """Requests waiting, and requests arriving. The rate is summed over the service, never per series."""
    pending, rate = writer.total("queue_depth"), writer.whole("request_rate")
    if pending is not None:
        limit = writer.service.thresholds.pending_requests
        yield writing.Rule(
            alert="RequestsPending",
            expr=f"{pending} > {limit:g}",
            hold_seconds=60,
            severity=_WARNING,
            fault=findings.FaultClass.OVERLOAD,
            signal="queue_depth",
            summary=f"{{{{ $value }}}} requests wait, the limit is {limit:g}",
            description="The service takes in more than it finishes.",
            threshold=limit,
        )
    if rate is None:
        return
    stages = writer.service.thresholds.qps
    for number, limit in enumerate(stages, start=1):
        yield writing.Rule(
            alert="RequestRateHigh",
            expr=f"{rate} > {limit:g}",
            hold_seconds=60,
            severity=_WARNING if number == len(stages) else _INFO,
            fault=findings.FaultClass.SURGE,
            signal="request_rate",
            summary=f"{{{{ $value | humanize }}}} requests per second, above stage {number} at {limit:g}",
            description="Demand reached a stage at which capacity is added.",
            threshold=limit,
            stage=number,
        )


def premium(writer: writing.Writer) -> Rules:
    """The best level suffers: it is slower than promised, or refused. Everything else gives way before that."""
    p99, rejected = writer.whole("premium_latency_p99"), writer.whole("premium_rejected_ratio")
    if p99 is not None:
        limit = writer.service.objectives.latency_p99_seconds
        yield _on_service(
            "PremiumSlow", f"{p99} > {limit:g}", "premium_latency_p99",
            f"P99 latency of premium is {{{{ $value | humanizeDuration }}}}, promised are {limit:g} s",
            "Batch and standard take what premium needs: degrade.",
            limit,
        )  # fmt: skip
    if rejected is not None:
        limit = writer.service.thresholds.premium_rejected_ratio
        yield _on_service(
            "PremiumRejected", f"{rejected} > {limit:g}", "premium_rejected_ratio",
            "{{ $value | humanizePercentage }} of the premium requests are refused",
            "Places or turns run out even for the best level: degrade, and add nodes.",
            limit,
        )  # fmt: skip


def _on_service(alert: str, expr: str, signal: str, summary: str, description: str, threshold: float) -> writing.Rule:
    # The best level is the one thing the ladder must hold, so the hold is the shortest of the overload rules.
    fault = findings.FaultClass.OVERLOAD
    return writing.Rule(alert, expr, 30, _CRITICAL, fault, signal, summary, description, threshold)


def errors(writer: writing.Writer) -> Rules:
    """Failed answers. 429 is not among them: shedding on purpose must not raise alarms about errors."""
    yield from _server_errors(writer)
    yield from _success(writer)
    yield from _burn(writer, "ErrorBudgetBurningFast", FAST_BURN, FAST_LONG_SECONDS, FAST_SHORT_SECONDS, _CRITICAL)
    yield from _burn(writer, "ErrorBudgetBurningSlow", SLOW_BURN, SLOW_LONG_SECONDS, SLOW_SHORT_SECONDS, _WARNING)


def _server_errors(writer: writing.Writer) -> Rules:
    ratio, volume = writer.whole("server_error_ratio"), writer.volume("server_error_ratio", is_per_node=False)
    if ratio is None:
        return
    limit = writer.service.thresholds.server_error_ratio
    enough = f" and {ratio} * {volume} > {MIN_FAILED_REQUESTS:g}" if volume else ""
    yield writing.Rule(
        alert="ServerErrorsHigh",
        expr=f"{ratio} > {limit:g}{enough}",
        hold_seconds=60,
        severity=_WARNING,
        fault=findings.FaultClass.ERRORS,
        signal="server_error_ratio",
        summary=f"{{{{ $value | humanizePercentage }}}} of the answers are 5xx, the limit is {limit:.4g}",
        description="Compare the nodes: one bad node is ejected, a bad rollout is rolled back.",
        threshold=limit,
    )


def _success(writer: writing.Writer) -> Rules:
    ratio, volume = writer.whole("success_ratio"), writer.volume("success_ratio", is_per_node=False)
    if ratio is None:
        return
    limit = writer.service.objectives.success_ratio
    enough = f" and (1 - {ratio}) * {volume} > {MIN_FAILED_REQUESTS:g}" if volume else ""
    yield writing.Rule(
        alert="SuccessRatioLow",
        expr=f"{ratio} < {limit:g}{enough}",
        hold_seconds=120,
        severity=_WARNING,
        fault=findings.FaultClass.ERRORS,
        signal="success_ratio",
        summary=f"{{{{ $value | humanizePercentage }}}} of the requests succeed, promised are {limit:.4g}",
        description="The service is below its objective right now.",
        threshold=limit,
    )


def _burn(
    writer: writing.Writer,
    name: str,
    burn: float,
    long_seconds: float,
    short_seconds: float,
    severity: findings.Severity,
) -> Rules:
    """The error budget of a month goes `burn` times too fast, over a long window and still now."""
    long, short = writer.whole("success_ratio", long_seconds), writer.whole("success_ratio", short_seconds)
    volume = writer.volume("success_ratio", is_per_node=False)
    if long is None or short is None:
        return
    limit = burn * (1 - writer.service.objectives.success_ratio)
    enough = f" and (1 - {short}) * {volume} > {MIN_FAILED_REQUESTS:g}" if volume else ""
    yield writing.Rule(
        alert=name,
        expr=f"1 - {long} > {limit:.6g} and 1 - {short} > {limit:.6g}{enough}",
        hold_seconds=0,
        severity=severity,
        fault=findings.FaultClass.ERRORS,
        signal="success_ratio",
        summary=f"Errors use up the budget {burn:g} times too fast",
        description="{{ $value | humanizePercentage }} of the requests failed over the long window, and it goes on.",
        threshold=limit,
    )


def cache(writer: writing.Writer) -> Rules:
    """A cache that gives wrong answers, and one that suddenly gives hardly any. Both per node."""
    yield from _wrong_answers(writer)
    yield from _collapse(writer)


def _wrong_answers(writer: writing.Writer) -> Rules:
    wrong, volume = writer.node("cache_wrong_ratio"), writer.volume("cache_wrong_ratio", is_per_node=True)
    if wrong is None:
        return
    limit = writer.service.thresholds.cache_wrong_ratio
    enough = f" and {wrong} * {volume} > {MIN_WRONG_ANSWERS:g}" if volume else ""
    yield _on_node(
        # Users get wrong answers with status 200: nothing else will show it, so the hold is short.
        "CacheAnswersWrong", f"{wrong} > {limit:g}{enough}", 15, _CRITICAL, "cache_wrong_ratio",
        "{{ $value | humanizePercentage }} of the audited cache hits are wrong",
        "Cached answers differ from what the engine computes now: the cache is poisoned or stale.",
        limit, findings.FaultClass.CACHE,
    )  # fmt: skip


def _collapse(writer: writing.Writer) -> Rules:
    now, before = writer.node("cache_hit_ratio"), writer.node("cache_hit_ratio", offset_seconds=3600)
    volume = writer.volume("cache_hit_ratio", is_per_node=True)
    if now is None or before is None:
        return
    drop = writer.service.thresholds.cache_hit_drop_ratio
    enough = f" and {volume} > {MIN_CACHE_LOOKUPS:g}" if volume else ""
    yield _on_node(
        "CacheHitRatioCollapsed",
        f"{now} < {1 - drop:g} * {before} and {before} > {MIN_FORMER_HIT_RATIO:g}{enough}",
        120, _WARNING, "cache_hit_ratio",
        f"The cache hit ratio is {{{{ $value | humanizePercentage }}}}, it fell by more than {drop:.4g} in an hour",
        "A restart, a new model version or a changed key empties a cache; the GPUs get the load it carried.",
        1 - drop, findings.FaultClass.CACHE,
    )  # fmt: skip


def nodes(writer: writing.Writer) -> Rules:
    """A node that cannot be scraped: it is down, or nobody can know how it is."""
    yield _on_node(
        "NodeMetricsMissing", f"{writer.up()} == 0", 60, _WARNING, "up",
        "The node's metrics cannot be read",
        "It may be down or only unreachable from Prometheus: its signals are unknown, so nothing destructive is done.",
        None, findings.FaultClass.BAD_NODE,
    )  # fmt: skip


def _on_node(
    alert: str,
    expr: str,
    hold_seconds: float,
    severity: findings.Severity,
    signal: str,
    summary: str,
    description: str,
    threshold: float | None,
    fault: findings.FaultClass = findings.FaultClass.OVERLOAD,
) -> writing.Rule:
    return writing.Rule(
        alert, expr, hold_seconds, severity, fault, signal, summary, description, threshold, is_per_node=True
    )


# In the order of the file.
OF_A_SERVICE: tuple[Callable[[writing.Writer], Rules], ...] = (
    latency,
    gpu,
    saturation,
    demand,
    premium,
    errors,
    cache,
    nodes,
)
