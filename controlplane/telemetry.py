"""The control plane's own log and metrics: the pure rooms return values, this module counts and logs them.

`wiring` makes one `Telemetry` and passes it on; the tick, the runs' owner and the API hand it what happened.
Decides nothing, never raises for what it is told, never logs prompts, tokens or secrets. Safe from any thread:
the metrics lock themselves, and a log line is one write.
"""

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import prometheus_client
import structlog
from prometheus_client import core, registry

from controlplane import version
from controlplane.domain import alerting, capacity, forecasts, incidents, outcomes, ports, runs, ticks, trust

# A tick reads the whole fleet in a few queries; one that takes longer than its period of 15 s is in trouble.
_TICK_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0)
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


def configure_logging(level: str, form: Literal["json", "console"]) -> None:
    """Send structlog and the standard library's loggers to standard error, in one format.

    `level` is debug, info, warning or error. Called once, by the process's entry point.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=False)
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Their request lines repeat what the API logs itself, and name every probe of /livez.
    for chatty in ("uvicorn.access", "httpx", "apscheduler"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class Telemetry:
    """Counts and logs what the house did. The registry belongs to it, so that tests and servers never share one."""

    def __init__(self, clock: ports.Clock) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self._log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("dsctl")
        self._lock = threading.Lock()
        self._said: frozenset[ticks.IncidentLine] = frozenset()
        self._incidents: Counter[tuple[str, str]] = Counter()
        self._outlooks: Mapping[str, capacity.Outlook] = {}
        self._is_paused = False
        self._breakers: Mapping[str, bool] = {}
        self._ledgers: Mapping[str, trust.Ledger] = {}
        self._demotions: Mapping[str, bool] = {}
        self._clock = clock
        self._started = clock.monotonic()
        self._since_good: Callable[[], float | None] = lambda: None
        self._make_metrics()
        self.registry.register(
            _Levels(
                self._count_incidents, self.seconds_since_good_tick, lambda: self._is_paused, lambda: self._breakers
            )
        )
        self.registry.register(_Outlooks(lambda: self._outlooks, clock))
        self.registry.register(_Ledgers(lambda: self._ledgers, lambda: self._demotions))

    def watch_ticks(self, seconds_since_good: Callable[[], float | None]) -> None:
        """Read the age of the last good tick from here, at every scrape."""
        self._since_good = seconds_since_good

    def seconds_since_good_tick(self) -> float:
        """Return the age of the last good tick; before the first one, of the process: a start is no alarm."""
        age = self._since_good()
        return self._clock.monotonic() - self._started if age is None else age

    def _make_metrics(self) -> None:
        at = self.registry
        self._build = prometheus_client.Gauge("dsctl_build_info", "Always 1; the version.", ["version"], registry=at)
        self._build.labels(version.current()).set(1)
        self._ticks = prometheus_client.Counter("dsctl_ticks", "Ticks of the loop.", ["result"], registry=at)
        for result in ("good", "failed"):
            self._ticks.labels(result)  # from the start, so that a rate over it is zero and not missing
        self._tick_seconds = prometheus_client.Histogram(
            "dsctl_tick_duration_seconds", "Time one tick took.", buckets=_TICK_BUCKETS, registry=at
        )
        self._runs = prometheus_client.Counter(
            "dsctl_runs", "Runs that ended.", ["runbook", "verdict", "state"], registry=at
        )
        self._decisions = prometheus_client.Counter(
            "dsctl_decisions", "Answers of decide and guard.", ["outcome"], registry=at
        )
        self._refusals = prometheus_client.Counter(
            "dsctl_guard_refusals", "Plans the guard refused, by the gate that did.", ["gate"], registry=at
        )
        for gate in outcomes.Gate:
            self._refusals.labels(gate)
        self._alerts = prometheus_client.Counter(
            "dsctl_alerts_received", "Alerts that arrived by webhook.", ["source", "result"], registry=at
        )
        self._requests = prometheus_client.Histogram(
            "dsctl_api_request_duration_seconds",
            "Time the API took to answer.",
            ["method", "route", "status"],
            buckets=_REQUEST_BUCKETS,
            registry=at,
        )

    def tick(self, report: ticks.TickReport) -> None:
        """Count a tick; log its problems, and each incident's sentence when it is a new one."""
        self._ticks.labels("good" if report.is_good else "failed").inc()
        self._tick_seconds.observe(report.duration_seconds)
        for problem in report.problems:
            self._log.error("tick_problem", problem=problem)
        for line in report.lines:
            if line not in self._said:
                self._log.info("incident", incident=line.incident_id, key=line.key, sentence=line.sentence)
        # Whole lines: what is no incident, such as an alert of nobody's service, has no id to be remembered by.
        self._said = frozenset(report.lines)
        self._log.debug("tick", seconds=round(report.duration_seconds, 3), incidents=len(report.lines))

    def decision(self, decision: outcomes.Decision) -> None:
        """Count and log one answer of decide or guard, and which gate refused."""
        self._decisions.labels(decision.outcome).inc()
        refused = [answer for answer in decision.answers if not answer.is_passed]
        if decision.outcome == "denied" and refused:
            self._refusals.labels(refused[-1].gate).inc()
        self._log.info(
            "decision",
            decision=decision.id,
            incident=decision.incident_id,
            run=decision.run_id,
            target=decision.target,
            runbook=decision.runbook,
            outcome=decision.outcome,
            sentence=decision.sentence,
        )

    def run_ended(self, run: runs.Run) -> None:
        """Count and log a run in its final state."""
        runbook = run.plan.request.runbook
        self._runs.labels(runbook, run.verdict or "none", run.state).inc()
        level = logging.ERROR if run.state is outcomes.RunState.NEEDS_HUMAN else logging.INFO
        self._log.log(
            level,
            "run_ended",
            run=run.id,
            runbook=runbook,
            target=run.plan.target,
            state=run.state,
            verdict=run.verdict,
            sentence=run.sentence,
        )

    def unclosed_incidents(self, unclosed: Sequence[incidents.Incident]) -> None:
        """Remember how many incidents stand in which state, for the metric."""
        counts = Counter((str(one.state), str(one.key.fault)) for one in unclosed)
        with self._lock:
            self._incidents = counts

    def automation(self, *, is_paused: bool) -> None:
        """Remember whether somebody holds the brake, for the metric."""
        self._is_paused = is_paused

    def breakers(self, is_open: Mapping[str, bool]) -> None:
        """Remember of each managed service whether the breaker on automation is open, for the metric."""
        self._breakers = is_open

    def outlooks(self, outlooks: Mapping[str, capacity.Outlook]) -> None:
        """Remember what is foretold and planned, for the metrics."""
        self._outlooks = outlooks

    def records(self, ledgers: Mapping[str, trust.Ledger], demotions: Mapping[str, bool]) -> None:
        """Remember the runbooks' records and which policies are demoted, for the metrics."""
        self._ledgers, self._demotions = ledgers, demotions

    def demoted(self, entry: trust.Entry) -> None:
        """Log that a policy may do less from now on."""
        self._log.warning("policy_demoted", policy=entry.policy, mode=entry.mode, sentence=entry.sentence)

    def notification(self, notification: alerting.Notification, *, is_new: bool) -> None:
        """Count and log one stored webhook call."""
        result = "stored" if is_new else "duplicate"
        self._alerts.labels(notification.source, result).inc(len(notification.alerts))
        self._log.info(
            "notification",
            source=notification.source,
            result=result,
            status=notification.status,
            alerts=len(notification.alerts),
            truncated=notification.truncated_alerts,
        )

    def notification_refused(self, source: str, reason: Literal["malformed", "overloaded"]) -> None:
        """Count and log one webhook call of which nothing was kept."""
        self._alerts.labels(source, reason).inc()
        self._log.warning("notification_refused", source=source, reason=reason)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered API request; `route` is the route's pattern, never the raw path."""
        self._requests.labels(method, route, str(status)).observe(seconds)

    def unexpected(self, error: Exception, *, where: str) -> None:
        """Log a bug of ours with its traceback."""
        self._log.error("unexpected_error", where=where, exc_info=error)

    def exposition(self) -> bytes:
        """Return every metric in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)

    def _count_incidents(self) -> Counter[tuple[str, str]]:
        with self._lock:
            return self._incidents.copy()


class _Levels(registry.Collector):
    """Metrics that are read off at scrape time, because they hold a level and not a count."""

    def __init__(
        self,
        incident_counts: Callable[[], Counter[tuple[str, str]]],
        since_good: Callable[[], float],
        is_paused: Callable[[], bool],
        breakers: Callable[[], Mapping[str, bool]],
    ) -> None:
        self._incident_counts = incident_counts
        self._since_good = since_good
        self._is_paused = is_paused
        self._breakers = breakers

    def describe(self) -> list[core.Metric]:
        """Name the metrics without computing them."""
        return []

    def collect(self) -> list[core.Metric]:
        """Return the gauges as they stand now."""
        counts = core.GaugeMetricFamily("dsctl_incidents", "Incidents that are not closed.", labels=["state", "fault"])
        for (state, fault), number in self._incident_counts().items():
            counts.add_metric([state, fault], number)
        since = core.GaugeMetricFamily("dsctl_seconds_since_good_tick", "Time since the last tick without a problem.")
        since.add_metric([], self._since_good())
        paused = core.GaugeMetricFamily("dsctl_automation_paused", "1 while somebody holds the brake on automation.")
        paused.add_metric([], float(self._is_paused()))
        opened = core.GaugeMetricFamily(
            "dsctl_automation_breaker_open",
            "1 while automation stands still on a service until a person resets its breaker.",
            labels=["service"],
        )
        for service, is_open in self._breakers().items():
            opened.add_metric([service], float(is_open))
        return [counts, since, paused, opened]


class _Ledgers(registry.Collector):
    """The record of each runbook; one of which nothing is known yet has no such series, least of all a zero."""

    def __init__(
        self, ledgers: Callable[[], Mapping[str, trust.Ledger]], demotions: Callable[[], Mapping[str, bool]]
    ) -> None:
        self._ledgers = ledgers
        self._demotions = demotions

    def describe(self) -> list[core.Metric]:
        """Name the metrics without computing them."""
        return []

    def collect(self) -> Iterator[core.Metric]:
        """Return the gauges as they stand now."""
        seen = self._ledgers()
        for metric, text, value in _RECORD:
            gauge = core.GaugeMetricFamily(metric, text, labels=["runbook"])
            for name, ledger in seen.items():
                if (number := value(ledger)) is not None:
                    gauge.add_metric([name], number)
            yield gauge
        demoted = core.GaugeMetricFamily(
            "dsctl_policy_demoted",
            "1 while a policy may do less than its file says, for its record.",
            labels=["policy"],
        )
        for name, is_demoted in self._demotions().items():
            demoted.add_metric([name], float(is_demoted))
        yield demoted


_RECORD: tuple[tuple[str, str, Callable[[trust.Ledger], float | None]], ...] = (
    ("dsctl_runbook_recorded_runs", "Stored runs that acted and were not cancelled.", lambda one: one.runs),
    (
        "dsctl_runbook_success_ratio",
        "Share of the runs with a verdict that recovered.",
        lambda one: None if one.success is None else one.success.ratio,
    ),
    (
        "dsctl_runbook_recovery_seconds",
        "Median time from the last effect of a run to its verdict, where it recovered.",
        lambda one: None if one.to_recover is None else one.to_recover.median,
    ),
)


class _Outlooks(registry.Collector):
    """What is foretold and planned per service; a service without a plan or a forecast has no such series."""

    def __init__(self, outlooks: Callable[[], Mapping[str, capacity.Outlook]], clock: ports.Clock) -> None:
        self._outlooks = outlooks
        self._clock = clock

    def describe(self) -> list[core.Metric]:
        """Name the metrics without computing them."""
        return []

    def collect(self) -> Iterator[core.Metric]:
        """Return the gauges as they stand now."""
        seen = self._outlooks()
        plans = {name: one.plan for name, one in seen.items() if isinstance(one.plan, capacity.CapacityPlan)}
        yield from _plan_metrics(plans)
        yield from self._forecast_metrics(
            {name: one.forecast for name, one in seen.items() if isinstance(one.forecast, forecasts.Forecast)}
        )

    def _forecast_metrics(self, found: Mapping[str, forecasts.Forecast]) -> Iterator[core.Metric]:
        now = self._clock.now()
        rate = core.GaugeMetricFamily(
            "dsctl_forecast_requests_per_second",
            "Arrivals foretold for one cold start ahead.",
            labels=["service", "quantile"],
        )
        for name, one in found.items():
            step = min(len(one.p50) - 1, int(one.accuracy.horizon_seconds // one.step_seconds))
            for quantile, values in (("0.1", one.p10), ("0.5", one.p50), ("0.9", one.p90)):
                rate.add_metric([name, quantile], values[step])
        yield rate
        for metric, text, value in _ACCURACY:
            gauge = core.GaugeMetricFamily(metric, text, labels=["service"])
            for name, one in found.items():
                if (number := value(one.accuracy)) is not None:
                    gauge.add_metric([name], number)
            yield gauge
        age = core.GaugeMetricFamily("dsctl_forecast_age_seconds", "Time since the last fit.", labels=["service"])
        for name, one in found.items():
            age.add_metric([name], max(0.0, (now - one.fitted_at).total_seconds()))
        yield age


_ACCURACY: tuple[tuple[str, str, Callable[[forecasts.Accuracy], float | None]], ...] = (
    ("dsctl_forecast_wape", "Sum of absolute errors over arrivals, one cold start ahead.", lambda one: one.wape),
    ("dsctl_forecast_bias", "Mean error over the mean rate; above zero is too high.", lambda one: one.bias),
    ("dsctl_forecast_coverage", "Share of values between p10 and p90.", lambda one: one.coverage),
    (
        "dsctl_forecast_skill_last_value",
        "1 less the error over that of repeating the last value.",
        lambda one: one.skill_last_value,
    ),
    (
        "dsctl_forecast_skill_seasonal_naive",
        "1 less the error over that of repeating yesterday.",
        lambda one: one.skill_seasonal_naive,
    ),
)


def _plan_metrics(plans: Mapping[str, capacity.CapacityPlan]) -> Iterator[core.Metric]:
    nodes = core.GaugeMetricFamily("dsctl_capacity_nodes", "Nodes of a service.", labels=["service", "kind"])
    is_open = core.GaugeMetricFamily(
        "dsctl_forecast_gate_open", "1 while the forecast may ask for nodes.", labels=["service"]
    )
    for name, plan in plans.items():
        kinds = {"present": plan.present, "ready": plan.ready, "desired": plan.desired, "unmet": plan.unmet}
        for kind, number in kinds.items():
            nodes.add_metric([name, kind], number)
        is_open.add_metric([name], float(plan.gate.is_open))
    yield nodes
    yield is_open
