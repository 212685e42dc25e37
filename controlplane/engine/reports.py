"""Turns alerts into findings, so that correlate sees one kind of thing whoever said it.

Called by the tick. An alert is mapped by its labels `service`, `node`, `dsctl_fault`, `dsctl_signal` and
`severity`; what cannot be mapped to a managed service is told, never dropped. Pure functions.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from controlplane.domain import alerting
from controlplane.domain import findings as fnd


@dataclass(frozen=True, slots=True)
class Stray:
    """An alert that no managed service owns, and the sentence that says so."""

    name: str
    sentence: str


def from_alerts(
    alerts: Sequence[alerting.Alert], services: Collection[str]
) -> tuple[tuple[fnd.Finding, ...], tuple[Stray, ...]]:
    """Return the findings the firing alerts stand for, and the alerts of nobody's service.

    Our own alerts (label `dsctl_origin`) and resolved ones are left out: they are no news.
    """
    found: list[fnd.Finding] = []
    strays: list[Stray] = []
    for alert in alerts:
        if alerting.ORIGIN_LABEL in alert.labels or alert.status is not alerting.AlertStatus.FIRING:
            continue
        if alert.labels.get("service") in services:
            found.append(_finding(alert))
        else:
            strays.append(_stray(alert))
    return tuple(found), tuple(strays)


def source_of(alert: alerting.Alert) -> str:
    """Return the name under which an alert is a source of an incident."""
    return f"alert:{alert.name}"


def _stray(alert: alerting.Alert) -> Stray:
    service = alert.labels.get("service")
    said = f"names service {service!r}, which is not managed" if service else "has no label `service`"
    return Stray(
        alert.name,
        f"held: alert {alert.name or alert.fingerprint} {said}; no policy can answer it. Add the service to "
        "services.yaml, or route the alert elsewhere",
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
    return fnd.FaultClass(text) if text in set(fnd.FaultClass) else fnd.FaultClass.OTHER


def _severity(text: str) -> fnd.Severity:
    """Return the severity; a word of somebody else's scheme (`page`, `ticket`) counts as warning."""
    return fnd.Severity(text) if text in set(fnd.Severity) else fnd.Severity.WARNING


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
