"""The board `dsctl-fleet`: is it well, what arrives and what is there for it, who waits, what dsctl does, the GPUs.

Used by `build`. Pure. The uid never changes: alerts and pages link to it. It is for every service at once or for a few
chosen ones, and it says `no data` where nobody knows, never zero.
"""

from dataclasses import dataclass

from dashboards import panels, queries
from dashboards.panels import BLUE, GREEN, RED, YELLOW, Json, Query

UID = "dsctl-fleet"
# Grafana 11 speaks this version of the classic model, and later ones migrate it when they load it.
SCHEMA_VERSION = 39
# The objective of services that state none; one of its own is the variable's to hold.
OBJECTIVE = "0.995"
# Where `dsctl server` listens unless it is told otherwise.
CONSOLE = "http://127.0.0.1:8090"
# Only whoever dsctl runs next to may say that it has nothing: without its age of tick there is no series at all.
_ALIVE = "max(dsctl_seconds_since_good_tick) * 0"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Makes the board from the engines' queries; `console` is the address of the console its links lead to."""

    ask: queries.Queries
    console: str = CONSOLE

    def board(self) -> Json:
        """Return the board as Grafana stores it."""
        rows = (self._health(), self._demand(), self._waiting(), self._remediation(), self._gpus())
        return {
            "id": None,
            "uid": UID,
            "title": "dsctl fleet",
            "description": "Service levels, demand and capacity, remediation and GPUs of the services dsctl looks after.",
            "tags": ["dsctl", "gpu", "llm"],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": False,
            "timezone": "browser",
            "graphTooltip": 1,  # one crosshair over all panels
            "time": {"from": "now-3h", "to": "now"},
            "refresh": "30s",
            "timepicker": {},
            "templating": {"list": self._variables()},
            "annotations": {"list": [_runs_annotation()]},
            "links": [panels.link("Runs in the console", "${console}/runs", "What dsctl did and does, step by step")],
            "panels": panels.laid_out(rows),
        }

    def _variables(self) -> list[Json]:
        return [
            {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1},
            {
                "name": "service",
                "label": "Service",
                "type": "query",
                "datasource": panels.DATASOURCE,
                "query": 'label_values(up{service!=""}, service)',
                "refresh": 2,  # when the time range changes: a service that came later is found
                "sort": 1,
                "multi": True,
                "includeAll": True,
                "current": {"text": ["All"], "value": ["$__all"]},
            },
            _constant("objective", OBJECTIVE, "The share of requests that should succeed"),
            _constant("console", self.console, "Address of dsctl's console"),
        ]

    def _health(self) -> panels.Row:
        success = self.ask.service("success_ratio")
        hour = self.ask.service("success_ratio", "1h")
        paused = {0: "active", 1: "paused"}
        return panels.Row(
            "Is it well?",
            (
                panels.stat(
                    "Success ratio",
                    "Answers that were not 5xx, of all answers but 429, of the worst service. "
                    "Shedding with 429 is on purpose and counts for neither.",
                    Query(f"min({success})"),
                    unit="percentunit",
                    steps=((None, RED), (float(OBJECTIVE), GREEN)),
                    decimals=2,
                ),
                panels.stat(
                    "Error budget burn, 1 h",
                    "How many times faster than the objective allows the budget of errors is used up, over the last hour, "
                    "for the worst service. 14.4 for an hour is the critical alert.",
                    Query(f"max((1 - ({hour})) / (1 - $objective))"),
                    unit="suffix:x",
                    steps=((None, GREEN), (1, YELLOW), (14.4, RED)),
                    decimals=1,
                ),
                panels.stat(
                    "Latency P99",
                    "One request in a hundred takes longer, in the slowest service. Colours: the default warning and limit.",
                    Query(f"max({self.ask.service('latency_p99')})"),
                    unit="s",
                    steps=((None, GREEN), (0.5, YELLOW), (1.5, RED)),
                ),
                panels.stat(
                    "Open incidents",
                    "Incidents that are not closed, of all services.",
                    Query(f"sum(dsctl_incidents) or {_ALIVE}"),
                    unit="short",
                    steps=((None, GREEN), (1, YELLOW)),
                ),
                panels.stat(
                    "Automation",
                    "Paused while anybody holds the kill switch; then nothing is done by itself.",
                    Query("max(dsctl_automation_paused)"),
                    unit="short",
                    steps=((None, GREEN), (1, RED)),
                    texts=paused,
                ),
                panels.stat(
                    "Last good tick",
                    "How long ago dsctl last looked at the fleet without a problem. Above 45 s it is as good as absent.",
                    Query("max(dsctl_seconds_since_good_tick)"),
                    unit="s",
                    steps=((None, GREEN), (30, YELLOW), (45, RED)),
                    decimals=0,
                ),
            ),
        )

    def _demand(self) -> panels.Row:
        of_one = {"selector": 'service="$service"'}
        low, middle, high = (_foretold(quantile) for quantile in ("0.1", "0.5", "0.9"))
        return panels.Row(
            "Demand and capacity",
            (
                panels.lines(
                    "Arrivals and forecast, $service",
                    "Requests per second that arrive, refused ones included where a gateway counts them. "
                    "The band is what was foretold at that moment for one cold start later: one value in ten should lie "
                    "below it, one in ten above.",
                    (
                        Query(self.ask.service("request_rate", **of_one), "arrivals"),
                        Query(low, "forecast p10"),
                        Query(middle, "forecast p50"),
                        Query(high, "forecast p90"),
                    ),
                    unit="reqps",
                    band=("forecast p10", "forecast p90"),
                    repeat="service",
                ),
                panels.lines(
                    "Nodes planned and present",
                    "Nodes that are started (present), those of them that serve (ready), how many the plan asks for "
                    "(desired), and how many more would be needed than can be had (unmet).",
                    (
                        Query(
                            f"max by (service, kind) (dsctl_capacity_nodes{{{queries.SELECTOR}}})",
                            "{{service}} {{kind}}",
                        ),
                    ),
                    unit="short",
                    is_steps=True,
                ),
                panels.lines(
                    "Degradation level",
                    "The rung of the degradation ladder each service stands on; 0 is full quality.",
                    (Query(self.ask.service("degradation_level"), "{{service}}"),),
                    unit="short",
                    is_steps=True,
                ),
            ),
        )

    def _waiting(self) -> panels.Row:
        quantiles = [
            Query(self.ask.service(f"latency_{one}"), f"{{{{service}}}} {one}") for one in ("p50", "p95", "p99")
        ]
        waiting = (
            Query(self.ask.service("queue_depth"), "{{service}} at nodes"),
            Query(self.ask.service("gateway_queue_depth"), "{{service}} in the gateway"),
        )
        return panels.Row(
            "Latency, queues, refusals",
            (
                panels.lines(
                    "Latency", "Time of whole requests: half, 95 and 99 of a hundred are faster.", quantiles, unit="s"
                ),
                panels.lines(
                    "Requests waiting",
                    "Requests that nodes have admitted and not begun, and requests that wait in front of the nodes.",
                    waiting,
                    unit="short",
                ),
                panels.lines(
                    "Refused requests",
                    "Requests answered 429 to protect the rest. They are no errors.",
                    (Query(self.ask.service("rejected_rate"), "{{service}}"),),
                    unit="reqps",
                ),
                panels.lines(
                    "Server errors",
                    "Answers 5xx, of all answers but 429.",
                    (Query(self.ask.service("server_error_ratio"), "{{service}}"),),
                    unit="percentunit",
                ),
            ),
        )

    def _remediation(self) -> panels.Row:
        console = [panels.link("Runs", "${console}/runs", "The newest runs in dsctl's console")]
        return panels.Row(
            "What dsctl does",
            (
                panels.lines(
                    "Incidents by fault",
                    "Incidents that are not closed, by what is wrong and how far it is handled.",
                    (Query("sum by (fault, state) (dsctl_incidents)", "{{fault}} {{state}}"),),
                    unit="short",
                    width=8,
                    is_stacked=True,
                    is_steps=True,
                ),
                panels.lines(
                    "Runs by result, last hour",
                    "Runs that ended within the hour before, by state and verdict.",
                    (Query(f"sum by (state, verdict) ({_grown('1h')})", "{{state}} {{verdict}}"),),
                    unit="short",
                    width=8,
                    is_steps=True,
                    links=console,
                ),
                panels.lines(
                    "Refusals by gate, last hour",
                    "Plans the guard refused within the hour before, by the gate that refused.",
                    (Query("sum by (gate) (increase(dsctl_guard_refusals_total[1h])) > 0", "{{gate}}"),),
                    unit="short",
                    width=8,
                    is_steps=True,
                ),
            ),
        )

    def _gpus(self) -> panels.Row:
        asked = (
            (
                "gpu_utilization_ratio",
                "GPU utilisation",
                "Share of time the GPUs of a node worked.",
                "percentunit",
                1.0,
            ),
            ("gpu_memory_used_ratio", "GPU memory", "Memory in use on a node's fullest GPU.", "percentunit", 1.0),
            ("gpu_temperature", "GPU temperature", "The hottest GPU of each node.", "celsius", None),
            (
                "gpu_xid",
                "XID errors",
                "Changes of the last XID error; the same number twice counts once.",
                "short",
                None,
            ),
        )
        return panels.Row(
            "GPUs (where an exporter tells about them)",
            tuple(
                panels.lines(
                    title, text, (Query(self.ask.node(signal), "{{service}}/{{node}}"),), unit=unit, highest=highest
                )
                for signal, title, text, unit, highest in asked
            ),
        )


def _foretold(quantile: str) -> str:
    return f'max(dsctl_forecast_requests_per_second{{service="$service",quantile="{quantile}"}})'


def _grown(span: str) -> str:
    """Return by how much the counts of ended runs grew: a series that begins within the span began at zero.

    `increase` would not see its first count, and most runbooks end once in a while.
    """
    ended = "sum by (runbook, state, verdict) (dsctl_runs_total"
    now, before = f"{ended})", f"{ended} offset {span})"
    return f"({now} - ({before} or {now} * 0) > 0)"


def _runs_annotation() -> Json:
    """Mark each run that ended. Needs no token of Grafana's: it is one more question to Prometheus."""
    return {
        "name": "Runs",
        "datasource": panels.DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": BLUE,
        "expr": _grown("1m"),
        "step": "60s",  # as long as the span, so that each run is marked once
        "titleFormat": "{{runbook}}",
        "textFormat": "{{state}}, {{verdict}}",
        "tagKeys": "runbook,state,verdict",
    }


def _constant(name: str, value: str, label: str) -> Json:
    return {
        "name": name,
        "label": label,
        "type": "constant",
        "hide": 2,
        "skipUrlSync": True,  # a link must not lead people to somebody else's console
        "query": value,
        "current": {"text": value, "value": value},
    }
