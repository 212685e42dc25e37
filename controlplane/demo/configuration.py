"""Writes what each process of the demo reads: settings of nodes, gateway, Prometheus, Alertmanager and control plane.

Called by the demo alone. The files are the kinds an operator writes, and stay in the demo's folder for reading. Policies
are the shipped ones, runbooks too but for the demo's shorter times. Secrets are made anew for each demo and go into files
that only the user may read. Plain functions that write small files.
"""

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml

from actions.local import definitions
from alerts import prometheus_config
from controlplane.demo import constants, processes
from controlplane.domain import policies
from controlplane.runs.language import library
from controlplane.scenarios import samples as smp
from controlplane.scenarios import stories

_TOKEN_BYTES = 24
_WIRE = "http://127.0.0.1:"
_HOT, _COLD = "hot", "cold"
# Where Prometheus finds the nodes; whoever starts and stops them writes it.
TARGETS_FILE = f"targets/{prometheus_config.NODES}.json"


@dataclass(frozen=True, slots=True)
class Addresses:
    """The loopback addresses of everything, as URLs without a closing slash."""

    nodes: Mapping[str, str]
    gateway: str
    prometheus: str
    alertmanager: str
    server: str

    @classmethod
    def choose(cls, num_nodes: int) -> "Addresses":
        """Take free ports."""
        ports = iter(processes.free_ports(num_nodes + 4))
        nodes = {f"node-{number}": f"{_WIRE}{next(ports)}" for number in range(1, num_nodes + 1)}
        return cls(nodes, *(f"{_WIRE}{next(ports)}" for _ in range(4)))


@dataclass(frozen=True, slots=True)
class Size:
    """How many nodes run from the beginning, and how many more could be started."""

    nodes: int
    spare: int = 0


@dataclass(frozen=True, slots=True)
class Files:
    """The demo's folder and what stands in it. `api_keys` are those of clients, by the level that they grant.

    The addresses of nodes are those that run from the beginning, then those of spares.
    """

    folder: Path
    size: Size
    addresses: Addresses
    admin_token: str
    gateway_key: str
    api_keys: Mapping[smp.Level, str]

    @classmethod
    def open(cls, folder: Path, size: Size) -> "Files":
        """Prepare a folder: take ports, make the token for the admin APIs and the keys for the data APIs."""
        keys: dict[smp.Level, str] = {level: secrets.token_urlsafe(_TOKEN_BYTES) for level in smp.LEVELS}
        token, gateway_key = secrets.token_urlsafe(_TOKEN_BYTES), secrets.token_urlsafe(_TOKEN_BYTES)
        files = cls(folder, size, Addresses.choose(size.nodes + size.spare), token, gateway_key, keys)
        files.write_secret("admin-api-token", token)
        return files

    def write_secret(self, name: str, secret: str) -> Path:
        """Write a file that only the user may read."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(secret, encoding="utf-8")
        return path

    def write(self, name: str, document: object) -> Path:
        """Write a YAML file; only the user may read it, for some hold keys."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        return self.write_secret(name, yaml.safe_dump(document, sort_keys=False))

    @property
    def started(self) -> tuple[str, ...]:
        """The nodes that run from the beginning."""
        return tuple(self.addresses.nodes)[: self.size.nodes]

    @property
    def data_dir(self) -> Path:
        """The control plane's own data."""
        return self.folder / "data"

    @property
    def services(self) -> Path:
        """Where services.yaml stands."""
        return self.folder / "services.yaml"

    @property
    def server_token_file(self) -> Path:
        """Where the control plane leaves the token of its first administrator."""
        return self.data_dir / "admin-token"


def port_of(url: str) -> int:
    """Return the port of one of our own addresses."""
    return int(url.rpartition(":")[2])


def write_node(files: Files, name: str) -> Path:
    """Write the settings of a node: paced, with faults allowed and many audits."""
    return files.write(
        f"{name}.yaml",
        {
            "name": name,
            "service": constants.SERVICE,
            "port": port_of(files.addresses.nodes[name]),
            "admin_tokens": [files.admin_token],
            "api_keys": [{"key": files.gateway_key, "is_gateway": True}],
            "pace_step_seconds": constants.PACE_STEP_SECONDS,
            "batch": {"max_size": constants.MAX_BATCH_SIZE, "max_wait_seconds": constants.BATCH_WAIT_SECONDS},
            "levels": constants.LEVEL_PLACES,
            "cache": {"audit_ratio": constants.AUDIT_RATIO},
            "faults_enabled": True,
            "memory_limit_bytes": constants.NODE_MEMORY_LIMIT_BYTES,
            "shutdown_grace_seconds": 1,
            "lifeline_pid": os.getpid(),
        },
    )


def write_fleet(files: Files, num_spare: int) -> Path:
    """Write which nodes there are and how each is started, for the demo and for the control plane alike.

    The first `num_spare` spares are offered; what is not in the file cannot be started.
    """
    offered = tuple(files.addresses.nodes)[: files.size.nodes + num_spare]
    nodes: dict[str, object] = {
        name: {
            "argv": [sys.executable, "-m", "inference_node.server", "--config", str(write_node(files, name))],
            "url": files.addresses.nodes[name],
            "environment": {"OMP_NUM_THREADS": "1"},
            "pool": _HOT if name in files.started else _COLD,
        }
        for name in offered
    }
    return files.write(
        definitions.FILE,
        {"nodes": nodes, "targets_file": TARGETS_FILE, "stop_seconds": constants.NODE_STOP_SECONDS},
    )


def write_gateway(files: Files) -> Path:
    """Write the settings of the gateway in front of the nodes."""
    nodes = [{"name": name, "url": files.addresses.nodes[name]} for name in files.started]
    return files.write(
        "gateway.yaml",
        {
            "service": constants.SERVICE,
            "port": port_of(files.addresses.gateway),
            "admin_tokens": [files.admin_token],
            "api_keys": [{"key": key, "level": level} for level, key in files.api_keys.items()],
            "node_api_key": files.gateway_key,
            "max_outstanding": constants.PLACES_IN_GATEWAY_PER_NODE * len(files.addresses.nodes),
            "max_at_each_node": constants.PLACES_AT_NODE,
            "levels": constants.LEVEL_PLACES,
            "nodes": nodes,
            "shutdown_grace_seconds": 1,
            "slow_start_seconds": constants.SLOW_START_SECONDS,
            "lifeline_pid": os.getpid(),
        },
    )


def write_services(files: Files, *, event: stories.Past | None = None, event_at: datetime | None = None) -> Path:
    """Write services.yaml: one service, its hot pool of the nodes that run, its cold pool of the spares."""
    nodes, spare = files.size.nodes, files.size.spare
    cold = {"name": _COLD, "actuator": "local", "min": 0, "max": spare, "queue_depth_per_node": constants.COLD_QUEUE}
    events: list[dict[str, object]] = []
    if event is not None and event_at is not None:
        at = event_at.astimezone(UTC).strftime("%H:%M")
        events.append({"name": event.event, "at": at, "lasts": f"{round(event.peak_seconds)}s"})
    service = {
        "name": constants.SERVICE,
        "profile": "dsctl",
        "selector": {"service": constants.SERVICE},
        "objectives": {"latency_p99_seconds": constants.LATENCY_P99_SECONDS, "success_ratio": 0.995},
        "thresholds": {"pending_requests": constants.PENDING_REQUESTS},
        "pools": [
            {"name": _HOT, "actuator": "local", "min": nodes, "max": nodes, "min_ready": constants.MIN_READY},
            *([cold] if spare else []),
        ],
        "capacity": constants.CAPACITY,
        "events": events,
    }
    return files.write("services.yaml", {"services": [service]})


def write_runbooks(files: Files, shipped: Mapping[str, str]) -> Path:
    """Write the shipped runbooks (name to YAML) with the demo's times of verification and draining, and its length of capped answers."""
    folder = files.folder / "runbooks"
    for name, text in shipped.items():
        document = cast("dict[str, Any]", yaml.safe_load(text))
        document["metadata"]["override"] = True
        verify = document["spec"].get("verify")
        if verify is not None:
            verify.update(within=constants.VERIFY_WITHIN, hold=constants.VERIFY_HOLD)
        inputs = document["spec"].get("inputs", {})
        for known, default in constants.RUNBOOK_INPUTS.items():
            if known in inputs:
                inputs[known]["default"] = default
        files.write(f"runbooks/{name}.yaml", document)
    return folder


def write_policies(files: Files) -> Path:
    """Write the shipped policies with the demo's pace of the degradation ladder."""
    folder = files.folder / "policies"
    for entry in (resources.files("controlplane.engine") / "library").iterdir():
        document = cast("dict[str, Any]", yaml.safe_load(entry.read_text(encoding="utf-8")))
        if "ladder" in document["spec"]:
            document["spec"]["ladder"].update(constants.LADDER)
        files.write(f"policies/{entry.name}", document)
    return folder


def write_server(files: Files, mode: policies.Mode, *, services: Path, runbooks: Path) -> Path:
    """Write the control plane's settings."""
    at = files.addresses
    return files.write(
        "dsctl.yaml",
        {
            "data_dir": str(files.data_dir),
            "prometheus_url": at.prometheus,
            "alertmanager_url": at.alertmanager,
            "services_file": str(services),
            "runbooks_dir": str(runbooks),
            "policies_dir": str(write_policies(files)),
            "mode": mode.value,
            "tick_seconds": constants.TICK_SECONDS,
            "query_window_seconds": constants.RATE_WINDOW_SECONDS,
            "incident_quiet_seconds": constants.INCIDENT_QUIET_SECONDS,
            "resolve_grace_seconds": constants.RESOLVE_GRACE_SECONDS,
            "detectors": {
                "false_alarms_per_day": constants.FALSE_ALARMS_PER_DAY,
                "leak_window_seconds": constants.LEAK_WINDOW_SECONDS,
            },
            "forecast": constants.FORECAST,
            "listen": {"host": "127.0.0.1", "port": port_of(at.server)},
            "node_admin": {"token_file": str(files.folder / "admin-api-token")},
            "node_api": {"token_file": str(files.write_secret("node-api-key", files.gateway_key))},
            "local_fleets": {constants.SERVICE: {"folder": str(files.folder)}},
            "gateways": {
                constants.SERVICE: {
                    "admin_url": at.gateway,
                    "token_file": str(files.folder / "admin-api-token"),
                }
            },
        },
    )


def write_server_files(files: Files, mode: policies.Mode, *, services: Path) -> Path:
    """Write everything else the control plane reads, and return the path of its settings."""
    shipped = {path.stem: path.read_text(encoding="utf-8") for path in sorted(library.SHIPPED.glob("*.yaml"))}
    return write_server(files, mode, services=services, runbooks=write_runbooks(files, shipped))
