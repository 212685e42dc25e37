"""Writes Alertmanager's configuration: alerts go to dsctl's webhook, what dsctl says goes to people.

Called by the demo; `alertmanager.yml` beside it is its output with the defaults, and a test
keeps the two equal. Pure: values in, the text of a file out. Stays within what Alertmanager 0.25 understands.
"""

from dataclasses import dataclass
from typing import Any

import yaml

from controlplane import promql
from controlplane.domain import alerting, findings

# The path of the webhook, and where a token lies that only Alertmanager may read.
WEBHOOK_URL = "http://127.0.0.1:8090/api/v1/webhooks/alertmanager"
CREDENTIALS_FILE = "/etc/dsctl/alertmanager.token"
# An incident is a service, a fault and a node: so are Alertmanager's groups.
GROUP_BY = ("service", alerting.FAULT_LABEL, "node")
# About the control plane itself: it cannot be the one to hear it.
_OURS = "ControlPlane.+"
_HEADER = "# Written by alerts.alertmanager_config: change its parameters, not this.\n"


@dataclass(frozen=True, slots=True)
class Timing:
    """How long Alertmanager collects. The first notice leaves after `group_wait_seconds`."""

    group_wait_seconds: float = 5.0
    group_interval_seconds: float = 30.0
    repeat_interval_seconds: float = 3600.0


def config(
    *,
    webhook_url: str = WEBHOOK_URL,
    credentials_file: str = CREDENTIALS_FILE,
    people_url: str | None = None,
    timing: Timing | None = None,
) -> str:
    """Return the configuration as YAML text. Without `people_url`, alerts for people stay in Alertmanager's list."""
    timing = timing or Timing()
    people: dict[str, Any] = {"name": "people"}
    if people_url is not None:
        people["webhook_configs"] = [{"url": people_url, "send_resolved": True}]
    document = {
        "route": _route(timing),
        "inhibit_rules": [_critical_hides_warning()],
        "receivers": [_dsctl(webhook_url, credentials_file), people],
    }
    return _HEADER + yaml.safe_dump(document, sort_keys=False)


def _route(timing: Timing) -> dict[str, Any]:
    return {
        "receiver": "dsctl",
        "group_by": list(GROUP_BY),
        "group_wait": promql.duration(timing.group_wait_seconds),
        "group_interval": promql.duration(timing.group_interval_seconds),
        "repeat_interval": promql.duration(timing.repeat_interval_seconds),
        "routes": [
            {"receiver": "people", "matchers": [f'{alerting.ORIGIN_LABEL}=~".+"']},
            {"receiver": "people", "matchers": [f'alertname=~"{_OURS}"']},
        ],
    }


def _critical_hides_warning() -> dict[str, Any]:
    """Of two alerts about one signal of one target, the worse one is enough."""
    return {
        "source_matchers": [f'severity="{findings.Severity.CRITICAL}"'],
        "target_matchers": [f'severity=~"{findings.Severity.WARNING}|{findings.Severity.INFO}"'],
        "equal": ["service", "node", alerting.SIGNAL_LABEL],
    }


def _dsctl(webhook_url: str, credentials_file: str) -> dict[str, Any]:
    """Every alert of a group is sent (`max_alerts: 0`), and its end too, so that waiting approvals can be cancelled."""
    authorization = {"type": "Bearer", "credentials_file": credentials_file}
    return {
        "name": "dsctl",
        "webhook_configs": [
            {
                "url": webhook_url,
                "send_resolved": True,
                "max_alerts": 0,
                "http_config": {"authorization": authorization, "follow_redirects": False},
            }
        ],
    }
