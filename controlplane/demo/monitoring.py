"""Writes what Prometheus and Alertmanager of the demo read: the shipped rules and routes at the demo's pace.

Called by the demo's fleet. The rules are generated as for any installation, from services.yaml and the metric profiles;
only their durations are multiplied by one ratio, and the ranges of hours are cut. Plain functions that write small files.
"""

from collections.abc import Iterable
from pathlib import Path

from alerts import alertmanager_config, prometheus_config
from alerts.rules import generate, pace
from controlplane.demo import configuration, constants
from controlplane.observe import catalogue, profiles, service_file

_WEBHOOK_PATH = "/api/v1/webhooks/alertmanager"


def write_prometheus(files: configuration.Files) -> Path:
    """Write rules, targets and configuration, and return the path of the latter; the nodes' are the local fleet's."""
    at = files.addresses
    write_rules(files)
    _write_targets(files, prometheus_config.GATEWAY, [_target(at.gateway)])
    _write_targets(files, prometheus_config.CONTROL_PLANE, [prometheus_config.Target(_host_port(at.server))])
    text = prometheus_config.config(
        targets_folder=str(files.folder / "targets"),
        rule_files=[str(files.folder / "rules.yml")],
        alertmanagers=[_host_port(at.alertmanager)],
        cadence=prometheus_config.Cadence(
            scrape_seconds=constants.SCRAPE_SECONDS,
            evaluation_seconds=constants.EVALUATION_SECONDS,
            refresh_seconds=constants.SCRAPE_SECONDS,
        ),
        jobs=(prometheus_config.NODES, prometheus_config.GATEWAY, prometheus_config.CONTROL_PLANE),
    )
    return _write(files, "prometheus.yml", text)


def write_rules(files: configuration.Files) -> Path:
    """Write the rule file for the demo's services."""
    services = service_file.load(files.services)
    loaded = profiles.load_all([one.profile for one in services], catalogue.load())
    speed = pace.Pace(
        constants.RULE_TIME_RATIO,
        constants.SCRAPE_SECONDS,
        constants.EVALUATION_SECONDS,
        constants.MAX_WINDOW_SECONDS,
    )
    engines = {name: profile.queries for name, profile in loaded.items()}
    return _write(files, "rules.yml", generate.rules(services, engines, speed=speed))


def write_alertmanager(files: configuration.Files, token_file: Path) -> Path:
    """Write the routes to the control plane's webhook, and return their path."""
    text = alertmanager_config.config(
        webhook_url=f"{files.addresses.server}{_WEBHOOK_PATH}",
        credentials_file=str(token_file),
        timing=alertmanager_config.Timing(
            group_wait_seconds=constants.GROUP_WAIT_SECONDS,
            group_interval_seconds=constants.GROUP_INTERVAL_SECONDS,
        ),
    )
    return _write(files, "alertmanager.yml", text)


def _write(files: configuration.Files, name: str, text: str) -> Path:
    path = files.folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _write_targets(files: configuration.Files, job: str, targets: Iterable[prometheus_config.Target]) -> None:
    path = files.folder / "targets" / f"{job}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(prometheus_config.target_file(targets), encoding="utf-8")


def _target(url: str) -> prometheus_config.Target:
    return prometheus_config.Target(_host_port(url), service=constants.SERVICE)


def _host_port(url: str) -> str:
    return url.removeprefix("http://")
