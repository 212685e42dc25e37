"""The files of one installation for tests: settings, services, runbook, policy, and what Prometheus and Alertmanager read.

Everything an operator would write, at the pace of tests: scrape and tick 1 s, rates over 4 s, rules at a twentieth of
their time. Used by `tests.support.service`. Plain functions that write small files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from alerts import alertmanager_config, prometheus_config
from alerts.rules import pace
from controlplane.observe import profiles, service_file
from tests.support import fake_node, rules
from tests.support import prometheus as real

Json = dict[str, Any]

SERVICE = "chat"
WEBHOOK = "/api/v1/webhooks/alertmanager"
SPEED = pace.Pace(time_ratio=0.05, scrape_seconds=1.0, evaluation_seconds=1.0)

FLUSH_CACHE: Json = {
    "apiVersion": "dsctl/v1",
    "kind": "Runbook",
    "metadata": {"name": "flush-cache", "summary": "Empty the cache, at the pace of tests", "override": True},
    "spec": {
        "inputs": {"node": {"type": "node", "required": False}},
        "steps": [{"name": "flush", "action": "flush_cache", "with": {"tier": "l1"}, "timeout": "3s", "attempts": 3}],
        "verify": {"signals": ["cache_wrong_ratio"], "within": "40s", "hold": "5s", "control": "untouched-nodes"},
        "on_failure": [{"escalate": "oncall"}],
    },
}
CACHE_POISONED: Json = {
    "apiVersion": "dsctl/v1",
    "kind": "Policy",
    "metadata": {"name": "cache-poisoned"},
    "spec": {
        "services": ["*"],
        "when": 'finding.kind == "cache" && finding.signal == "cache_wrong_ratio"',
        "runbook": "flush-cache",
        "mode": "auto",
        "guard": {"cooldown": "1s", "max_per_hour": 60, "max_attempts": 3},
    },
}


def write(folder: Path, *, mode: str = "auto", **settings: object) -> Path:
    """Write everything the server reads, and return the path of its settings; `settings` replace the defaults."""
    pool = {"name": "hot", "actuator": "local", "min": 1, "max": 2}
    service = {"name": SERVICE, "profile": "dsctl", "selector": {"service": SERVICE}, "pools": [pool]}
    _write(folder / "services.yaml", {"services": [service]})
    _write(folder / "runbooks" / "flush-cache.yaml", FLUSH_CACHE)
    _write(folder / "policies" / "cache-poisoned.yaml", CACHE_POISONED)
    (folder / "node-token").write_text(fake_node.TOKEN, encoding="utf-8")
    defaults: Json = {
        "data_dir": "data",
        "prometheus_url": f"http://127.0.0.1:{real.free_port()}",
        "alertmanager_url": f"http://127.0.0.1:{real.free_port()}",
        "services_file": "services.yaml",
        "runbooks_dir": "runbooks",
        "policies_dir": "policies",
        "mode": mode,
        "tick_seconds": 1.0,
        "query_window_seconds": 4.0,
        "incident_quiet_seconds": 3.0,
        "resolve_grace_seconds": 20.0,
        "listen": {"port": real.free_port()},
        "node_admin": {"token_file": "node-token"},
    }
    return _write(folder / "dsctl.yaml", defaults | settings)


def _write(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def alertmanager(config: Path, server_url: str, people_url: str) -> str:
    """Return the routes: alerts to the server's webhook, what it says to people."""
    return alertmanager_config.config(
        webhook_url=f"{server_url}{WEBHOOK}",
        credentials_file=str(webhook_token(config)),
        people_url=people_url,
        timing=alertmanager_config.Timing(group_wait_seconds=0.2, group_interval_seconds=1.0),
    )


def prometheus(config: Path, nodes: Mapping[str, str]) -> str:
    """Write rules and targets (`nodes`: name to host:port), and return the configuration that names them."""
    folder = config.parent
    managed = service_file.load(folder / "services.yaml", profiles=profiles.names())
    (folder / "rules.yml").write_text(rules.written(managed, SPEED), encoding="utf-8")
    targets = [prometheus_config.Target(address, service=SERVICE, node=name) for name, address in nodes.items()]
    (folder / "nodes.json").write_text(prometheus_config.target_file(targets), encoding="utf-8")
    return prometheus_config.config(
        targets_folder=str(folder),
        rule_files=[str(folder / "rules.yml")],
        alertmanagers=[f"127.0.0.1:{port_in(config, 'alertmanager_url')}"],
        cadence=prometheus_config.Cadence(scrape_seconds=1.0, evaluation_seconds=1.0, refresh_seconds=1.0),
        jobs=[prometheus_config.NODES],
    )


def port_in(config: Path, setting: str) -> int:
    """Return the port of an address in a settings file."""
    return int(yaml.safe_load(config.read_text())[setting].rpartition(":")[2])


def webhook_token(config: Path) -> Path:
    """Return where the token lies that Alertmanager sends."""
    return config.parent / "webhook-token"


def wrong_answers(node: str, *, status: str = "firing", starts_at: str = "2026-03-02T09:00:00Z") -> Json:
    """Return the alert about wrong answers as Alertmanager words it, for one node."""
    labels = {
        "alertname": "CacheAnswersWrong",
        "service": SERVICE,
        "node": node,
        "severity": "critical",
        "dsctl_fault": "cache",
        "dsctl_signal": "cache_wrong_ratio",
    }
    ends_at = "0001-01-01T00:00:00Z" if status == "firing" else "2026-03-02T09:05:00Z"
    observed = {"summary": "wrong answers", "observed": "1"}
    return {"labels": labels, "annotations": observed, "status": status, "startsAt": starts_at, "endsAt": ends_at}


def notification(*alerts: Json, status: str = "firing") -> Json:
    """Return the body of a webhook call of version 4."""
    return {"version": "4", "groupKey": "{}:{}", "status": status, "receiver": "dsctl", "alerts": list(alerts)}
