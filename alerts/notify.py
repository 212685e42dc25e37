"""The ports `Notifier` and `Asker`: tells people through Alertmanager, which owns routing, grouping and silencing.

Called by runs and the tick when somebody has to look, and by runs when somebody has to agree. What it sends carries the label `dsctl_origin`, which
intake drops when it comes back. Concurrency: async, stateless.
"""

from datetime import datetime, timedelta

from alerts import alertmanager
from controlplane.domain import alerting, ports

ALERT_NAME = "DsctlEscalation"
ASKING_NAME = "DsctlApprovalWanted"
# An escalation ends by itself. That of an incident is repeated every minute while it lasts, so that people are left alone
# soon after it was closed. Nobody repeats that of a run alone: a shift of four hours sees it at least once at the usual
# repeat_interval.
_LASTS_WITH_INCIDENT = timedelta(minutes=10)
_LASTS_ALONE = timedelta(hours=4)


class AlertmanagerNotifier:
    """Sends escalations as alerts. `link` is the console's or API's base URL, for the way back."""

    def __init__(self, server: alertmanager.Alertmanager, clock: ports.Clock, *, link: str = "") -> None:
        self._server = server
        self._clock = clock
        self._link = link.rstrip("/")

    async def escalate(self, incident_id: str, service: str, node: str, to: str, sentence: str) -> None:
        """Send one escalation; the same incident and receiver is one alert, however often it is sent.

        Raises RetryLaterError when Alertmanager does not answer, GiveUpError when it refuses.
        """
        now = self._clock.now()
        labels = {
            "alertname": ALERT_NAME,
            "severity": "critical",
            alerting.ORIGIN_LABEL: "dsctl",
            "service": service,
            "node": node,
            "incident": incident_id,
            "escalate_to": to,
        }
        alert = {
            "labels": {name: value for name, value in labels.items() if value},
            "annotations": {
                "summary": sentence,
                "description": f"dsctl asks {to} to look at {service} {node}".rstrip(),
            },
            "startsAt": now.isoformat(),
            "endsAt": (now + (_LASTS_WITH_INCIDENT if incident_id else _LASTS_ALONE)).isoformat(),
        }
        if self._link:
            alert["generatorURL"] = f"{self._link}/api/v1/incidents/{incident_id}"
        await self._server.post("/api/v2/alerts", [alert])

    async def ask(self, run_id: str, service: str, node: str, to: str, sentence: str, until: datetime) -> None:
        """Send one call for approval: an alert of its own for each run, which ends with the question's time.

        Raises RetryLaterError when Alertmanager does not answer, GiveUpError when it refuses.
        """
        labels = {
            "alertname": ASKING_NAME,
            "severity": "warning",
            alerting.ORIGIN_LABEL: "dsctl",
            "service": service,
            "node": node,
            "run": run_id,
            "escalate_to": to,
        }
        alert = {
            "labels": {name: value for name, value in labels.items() if value},
            "annotations": {"summary": sentence, "description": f"dsctl asks {to} about {service} {node}".rstrip()},
            "startsAt": self._clock.now().isoformat(),
            "endsAt": until.isoformat(),
        }
        if self._link:
            alert["generatorURL"] = f"{self._link}/runs/{run_id}"
        await self._server.post("/api/v2/alerts", [alert])
