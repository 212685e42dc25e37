"""Writes Prometheus's configuration: one scrape job per kind of target, found through files.

Called by the demo; `prometheus.yml` beside it is its output with the defaults, and a test
keeps the two equal. Pure: values in, the text of a file out. The jobs' names are those the metric profiles know.

Every target carries `service`, and nodes and their exporters carry `node`: that is how the reader knows whose
numbers it sees. Prometheus 2.42 looks at new targets at most every five seconds, whatever the refresh says.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from controlplane import promql

# The scrape jobs, and what each looks at.
NODES, GATEWAY, DCGM, HOST, CONTROL_PLANE = "nodes", "gateway", "dcgm", "host", "controlplane"
JOBS = (NODES, GATEWAY, DCGM, HOST, CONTROL_PLANE)
# A node exposes about 400 samples, a DCGM exporter of eight GPUs 1,000: far more is a mistake that must not fill
# the store.
SAMPLE_LIMIT = 20_000
_HEADER = "# Written by alerts.prometheus_config: change its parameters, not this.\n"


@dataclass(frozen=True, slots=True)
class Target:
    """One address to scrape. `node` is empty for gateways and the control plane."""

    address: str
    service: str = ""
    node: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often is scraped and judged. Rates need four scrapes, so windows follow from this."""

    scrape_seconds: float = 5.0
    evaluation_seconds: float = 15.0
    refresh_seconds: float = 5.0


def config(
    *,
    targets_folder: str = "targets",
    rule_files: Iterable[str] = ("rules/*.yml",),
    alertmanagers: Iterable[str] = ("127.0.0.1:9093",),
    cadence: Cadence | None = None,
    jobs: Iterable[str] = JOBS,
    control_plane_token_file: str | None = None,
) -> str:
    """Return the configuration as YAML text. Each job reads `TARGETS_FOLDER/JOB.json`, which need not exist yet."""
    cadence = cadence or Cadence()
    scrape = promql.duration(cadence.scrape_seconds)
    document = {
        "global": {
            "scrape_interval": scrape,
            "scrape_timeout": scrape,
            "evaluation_interval": promql.duration(cadence.evaluation_seconds),
        },
        "rule_files": list(rule_files),
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]},
        "scrape_configs": [_job(name, targets_folder, cadence, control_plane_token_file) for name in jobs],
    }
    return _HEADER + yaml.safe_dump(document, sort_keys=False)


def _job(name: str, folder: str, cadence: Cadence, token_file: str | None) -> dict[str, Any]:
    job: dict[str, Any] = {
        "job_name": name,
        "sample_limit": SAMPLE_LIMIT,
        "file_sd_configs": [
            {"files": [f"{folder}/{name}.json"], "refresh_interval": promql.duration(cadence.refresh_seconds)}
        ],
    }
    if name == CONTROL_PLANE and token_file is not None:
        job["authorization"] = {"type": "Bearer", "credentials_file": token_file}
    return job


def target_file(targets: Iterable[Target]) -> str:
    """Return the JSON text of a job's target file. Write it beside and rename it: Prometheus reads it at any time.

    >>> target_file([Target("127.0.0.1:8001", service="chat", node="node-1")])
    '[{"targets": ["127.0.0.1:8001"], "labels": {"service": "chat", "node": "node-1"}}]'
    """
    return json.dumps([{"targets": [one.address], "labels": _labels(one)} for one in targets])


def _labels(target: Target) -> dict[str, str]:
    named = {"service": target.service, "node": target.node}
    return {**target.labels, **{name: value for name, value in named.items() if value}}
