"""Writes the Prometheus rule file for the services under management.

Called by `dsctl` and the demo with the services and their engines' queries; `default.yml` beside it is its output
for `example.services.yaml`, and a test keeps the two equal. Pure: values in, the text of a file out. The rules stay
within what Prometheus 2.42 understands.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from alerts.rules import conditions, pace, writing
from controlplane import promql
from controlplane.domain import alerting, errors, findings, services

# The gauge is exported by the control plane; it is silent when its process is gone or hangs.
SECONDS_SINCE_GOOD_TICK = "dsctl_seconds_since_good_tick"
MAX_SECONDS_WITHOUT_TICK = 45
DOCS = "docs/alerts"
_HEADER = "# Written by alerts.rules.generate from services.yaml: change that, not this.\n"


def rules(
    managed: Iterable[services.Service],
    engines: Mapping[str, promql.EngineQueries],
    *,
    speed: pace.Pace | None = None,
    docs: str = DOCS,
) -> str:
    """Return the rule file as YAML text. `engines` are the queries by profile name; `docs` is where pages lie.

    Raises NotFoundError when a service's profile is not among the engines.
    """
    speed = speed or pace.Pace()
    groups = [_group(one, _engine(one, engines), speed, docs) for one in managed]
    groups.append(_control_plane(speed, docs))
    return _HEADER + yaml.dump({"groups": groups}, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def _engine(one: services.Service, engines: Mapping[str, promql.EngineQueries]) -> promql.EngineQueries:
    found = engines.get(one.profile)
    if found is None:
        raise errors.NotFoundError(f"service {one.name}: no profile {one.profile!r} to write rules from")
    return found


def _group(one: services.Service, queries: promql.EngineQueries, speed: pace.Pace, docs: str) -> dict[str, Any]:
    writer = writing.Writer(one, queries, speed)
    written = [rule for condition in conditions.OF_A_SERVICE for rule in condition(writer)]
    return {
        "name": f"dsctl-{one.name}",
        "interval": promql.duration(speed.evaluation_seconds),
        "rules": [_rule(rule, one, queries.node_label, speed, docs) for rule in written],
    }


def _rule(rule: writing.Rule, one: services.Service, node_label: str, speed: pace.Pace, docs: str) -> dict[str, Any]:
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
        },
        docs,
    )


def _labels(severity: findings.Severity, fault: findings.FaultClass, signal: str) -> dict[str, str]:
    return {"severity": str(severity), alerting.FAULT_LABEL: str(fault), alerting.SIGNAL_LABEL: signal}


def _written(
    alert: str, expr: str, hold_seconds: float, labels: dict[str, str], annotations: dict[str, str], docs: str
) -> dict[str, Any]:
    return {
        "alert": alert,
        "expr": expr,
        **({"for": promql.duration(hold_seconds)} if hold_seconds else {}),
        "labels": labels,
        "annotations": {**annotations, "runbook_url": f"{docs}/{alert}.md"},
    }


def _control_plane(speed: pace.Pace, docs: str) -> dict[str, Any]:
    """Whoever watches must be watched: never paced, and about no service."""
    labels = _labels(findings.Severity.CRITICAL, findings.FaultClass.OTHER, "up")
    gauge = SECONDS_SINCE_GOOD_TICK
    text = "Incidents are neither noticed nor acted on. Look at its log and at `dsctl doctor`."
    late = {
        "summary": "dsctl has had no good tick for {{ $value | humanizeDuration }}",
        "description": text,
        "observed": "{{ $value }}",
    }
    gone = {"summary": "dsctl tells nothing about its loop", "description": text, "observed": "{{ $value }}"}
    return {
        "name": "dsctl-control-plane",
        "interval": promql.duration(speed.evaluation_seconds),
        "rules": [
            _written("ControlPlaneNotTicking", f"{gauge} > {MAX_SECONDS_WITHOUT_TICK}", 0, labels, late, docs),
            # Nothing to compare: the process is gone or hangs (absent), or never ticked (not a number).
            _written(
                "ControlPlaneSilent",
                f"absent({gauge}) or {gauge} != {gauge}",
                MAX_SECONDS_WITHOUT_TICK,
                labels,
                gone,
                docs,
            ),
        ],
    }


class _Dumper(yaml.SafeDumper):
    """Writes each mapping out in full, so that a change of one rule is a change of few lines."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # the base class decides by it, we never do
        return True
