"""Turns alerts into findings, so that correlate sees one kind of thing whoever said it.

Called by the tick. An alert is mapped by its labels `service`, `node`, `dsctl_fault`, `dsctl_signal` and
`severity`; what cannot be mapped to a managed service is told, never dropped. Pure functions.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from controlplane.domain import alerting
from controlplane.domain import findings as fnd

# Enough to see what is wrong; a sender of alerts with ever new labels must not fill every tick's report.
_MAX_STRAYS = 20
_MAX_NAMES = 3
_FAULTS = {one.value: one for one in fnd.FaultClass}
_SEVERITIES = {one.value: one for one in fnd.Severity}


@dataclass(frozen=True, slots=True)
class Stray:
    """Alerts that no managed service owns, under the name of one of them, and the sentence that says so."""

    name: str
    sentence: str


def from_alerts(
    alerts: Sequence[alerting.Alert], services: Collection[str]
) -> tuple[tuple[fnd.Finding, ...], tuple[Stray, ...]]:
    """Return the findings the firing alerts stand for, and one word about the alerts of each unmanaged service.

    Our own alerts (label `dsctl_origin`) and resolved ones are left out: they are no news.
    """
    found: list[fnd.Finding] = []
    strays: dict[str, list[alerting.Alert]] = {}
    for alert in alerts:
        if alerting.ORIGIN_LABEL in alert.labels or alert.status is not alerting.AlertStatus.FIRING:
            continue
        if alert.labels.get("service") in services:
            found.append(_finding(alert))
        else:
            strays.setdefault(alert.labels.get("service", ""), []).append(alert)
    return tuple(found), _strays(strays)


def source_of(alert: alerting.Alert) -> str:
    """Return the name under which an alert is a source of an incident."""
    return f"alert:{alert.name}"


def _strays(alerts: Mapping[str, Sequence[alerting.Alert]]) -> tuple[Stray, ...]:
    """Say something of each service nobody manages; beyond a few of them, only how many there are."""
    told = [_stray(service, alerts[service]) for service in sorted(alerts)[:_MAX_STRAYS]]
    if len(alerts) > _MAX_STRAYS:
        sentence = f"held: alerts name {len(alerts) - _MAX_STRAYS} further services that are not managed"
        told.append(Stray("others", sentence))
    return tuple(told)


def _stray(service: str, alerts: Sequence[alerting.Alert]) -> Stray:
    names = sorted({alert.name or alert.fingerprint for alert in alerts})
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    who = f"alert {names[0]}" if len(names) == 1 else f"alerts {', '.join(names[:_MAX_NAMES])}{more}"
    if service:
        said = f"{'names' if len(names) == 1 else 'name'} service {service!r}, which is not managed"
    else:
        said = f"{'has' if len(names) == 1 else 'have'} no label `service`"
    return Stray(
        names[0],
        f"held: {who} {said}; no policy can answer it. Add the service to services.yaml, or route the alert elsewhere",
    )


def _finding(alert: alerting.Alert) -> fnd.Finding:
    labels = alert.labels
    return fnd.Finding(
        kind=_fault(labels.get(alerting.FAULT_LABEL, "")),
        service=labels["service"],
        node=labels.get("node", ""),
        signal=labels.get(alerting.SIGNAL_LABEL, ""),
        severity=_severity(labels.get("severity", "")),
        source=source_of(alert),
        at=alert.starts_at,
        summary=alert.annotations.get("summary", "") or alert.name,
        observed=_number(alert.annotations.get("observed", "")),
        labels=dict(labels),
    )


def _fault(text: str) -> fnd.FaultClass:
    return _FAULTS.get(text, fnd.FaultClass.OTHER)


def _severity(text: str) -> fnd.Severity:
    """Return the severity; a word of somebody else's scheme (`page`, `ticket`) counts as warning."""
    return _SEVERITIES.get(text, fnd.Severity.WARNING)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
