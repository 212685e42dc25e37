"""Writes the Prometheus rule file for the services under management.

Called by `dsctl` and the demo with the services and their engines' queries; `default.yml` beside it is its output
for `example.services.yaml`, and a test keeps the two equal. Pure: values in, the text of a file out. The rules stay
within what Prometheus 2.42 understands.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import yaml

from alerts.rules import conditions, pace, writing
from controlplane import promql
from controlplane.domain import alerting, errors, findings, services

# The gauge is exported by the control plane; it is silent when its process is gone or hangs.
SECONDS_SINCE_GOOD_TICK = "dsctl_seconds_since_good_tick"
MAX_SECONDS_WITHOUT_TICK = 45
BREAKER_OPEN = "dsctl_automation_breaker_open"
POLICY_DEMOTED = "dsctl_policy_demoted"
_HEADER = "# Written by alerts.rules.generate from services.yaml: change that, not this.\n"


@dataclass(frozen=True, slots=True)
class Links:
    """Where an alert leads people: the folder of its page, and the address of the board of the fleet.

    Both are relative unless told otherwise: to this repository, and to Grafana (the board's uid never changes).
    """

    docs: str = "docs/alerts"
    board: str = "d/dsctl-fleet"

    def of(self, alert: str, service: str = "") -> dict[str, str]:
        """Return the annotations; the board opens on the service where there is one.

        >>> Links().of("CpuHigh", "chat")["dashboard_url"]
        'd/dsctl-fleet?var-service=chat'
        """
        query = f"?var-service={quote(service, safe='')}" if service else ""
        return {"runbook_url": f"{self.docs}/{alert}.md", "dashboard_url": f"{self.board}{query}"}


def rules(
    managed: Iterable[services.Service],
    engines: Mapping[str, promql.EngineQueries],
    *,
    speed: pace.Pace | None = None,
    links: Links | None = None,
) -> str:
    """Return the rule file as YAML text. `engines` are the queries by profile name.

    Raises NotFoundError when a service's profile is not among the engines.
    """
    speed, links = speed or pace.Pace(), links or Links()
    groups = [_group(one, _engine(one, engines), speed, links) for one in managed]
    groups.append(_control_plane(speed, links))
    return _HEADER + yaml.dump({"groups": groups}, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def _engine(one: services.Service, engines: Mapping[str, promql.EngineQueries]) -> promql.EngineQueries:
    found = engines.get(one.profile)
    if found is None:
        raise errors.NotFoundError(f"service {one.name}: no profile {one.profile!r} to write rules from")
    return found


def _group(one: services.Service, queries: promql.EngineQueries, speed: pace.Pace, links: Links) -> dict[str, Any]:
    writer = writing.Writer(one, queries, speed)
    written = [rule for condition in conditions.OF_A_SERVICE for rule in condition(writer)]
    return {
        "name": f"dsctl-{one.name}",
        "interval": promql.duration(speed.evaluation_seconds),
        "rules": [_rule(rule, one, queries.node_label, speed, links) for rule in written],
    }


def _rule(rule: writing.Rule, one: services.Service, node_label: str, speed: pace.Pace, links: Links) -> dict[str, Any]:
    labels = {"service": one.name}
    if rule.is_per_node:
        labels["node"] = f"{{{{ $labels.{node_label} }}}}"
    if rule.stage:
        labels["stage"] = str(rule.stage)
    target = f"{one.name}/{labels['node']}" if rule.is_per_node else one.name
    return _written(
        rule.alert,
        rule.expr,
        speed.hold(rule.hold_seconds),
        {**labels, **_labels(rule.severity, rule.fault, rule.signal)},
        {
            "summary": f"{target}: {rule.summary}",
            "description": rule.description,
            "observed": "{{ $value }}",
            **({} if rule.threshold is None else {"threshold": f"{rule.threshold:.6g}"}),
            **links.of(rule.alert, one.name),
        },
    )


def _labels(severity: findings.Severity, fault: findings.FaultClass, signal: str) -> dict[str, str]:
    return {"severity": str(severity), alerting.FAULT_LABEL: str(fault), alerting.SIGNAL_LABEL: signal}


def _written(
    alert: str, expr: str, hold_seconds: float, labels: dict[str, str], annotations: dict[str, str]
) -> dict[str, Any]:
    return {
        "alert": alert,
        "expr": expr,
        **({"for": promql.duration(hold_seconds)} if hold_seconds else {}),
        "labels": labels,
        "annotations": annotations,
    }


def _control_plane(speed: pace.Pace, links: Links) -> dict[str, Any]:
    """Whoever watches must be watched: never paced, and about no service."""
    gauge, limit = SECONDS_SINCE_GOOD_TICK, MAX_SECONDS_WITHOUT_TICK
    # Nothing to compare: the process is gone or hangs (absent), or never ticked (not a number).
    silence = f"absent({gauge}) or {gauge} != {gauge}"

    def written(
        alert: str, expr: str, hold_seconds: float, summary: str, text: str, severity: findings.Severity
    ) -> dict[str, Any]:
        labels = _labels(severity, findings.FaultClass.OTHER, "up")
        notes = {"summary": summary, "description": text, "observed": "{{ $value }}", **links.of(alert)}
        return _written(alert, expr, hold_seconds, labels, notes)

    late = "dsctl has had no good tick for {{ $value | humanizeDuration }}"
    nothing_done = "Incidents are neither noticed nor acted on. Look at its log and at `dsctl doctor`."
    mute, opened = "dsctl tells nothing about its loop", "automation stands still on a service: its breaker is open"
    see_why = "It touched too many nodes in a short time. `dsctl automation breaker list` says which and when."
    demoted = "a policy may do less than its file says, for its record"
    see_record = "Its runs made it worse, or mostly did not help. `dsctl policies list` says which, and why."
    critical, warning = findings.Severity.CRITICAL, findings.Severity.WARNING
    return {
        "name": "dsctl-control-plane",
        "interval": promql.duration(speed.evaluation_seconds),
        "rules": [
            written("ControlPlaneNotTicking", f"{gauge} > {limit}", 0, late, nothing_done, critical),
            written("ControlPlaneSilent", silence, limit, mute, nothing_done, critical),
            # Without the service as a label: nobody is to take it for trouble of that service.
            written("AutomationBreakerOpen", f"max({BREAKER_OPEN}) == 1", 0, opened, see_why, warning),
            written("PolicyDemoted", f"max by (policy) ({POLICY_DEMOTED}) == 1", 0, demoted, see_record, warning),
        ],
    }


class _Dumper(yaml.SafeDumper):
    """Writes each mapping out in full, so that a change of one rule is a change of few lines."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # the base class decides by it, we never do
        return True
