"""Writes what each process of the demo reads: settings of nodes, gateway, Prometheus, Alertmanager and control plane.

Called by the demo alone. The files are the kinds an operator writes, and stay in the demo's folder for reading. Policies
are the shipped ones, runbooks too but for the demo's shorter times. Secrets are made anew for each demo and go into files
that only the user may read. Plain functions that write small files.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from controlplane.demo import constants, processes
from controlplane.domain import policies
from controlplane.runs.language import library

_TOKEN_BYTES = 24
_WIRE = "http://127.0.0.1:"


@dataclass(frozen=True, slots=True)
class Addresses:
    """The loopback addresses of everything, as URLs without a closing slash."""

    nodes: Mapping[str, str]
    gateway: str
    prometheus: str
    alertmanager: str
    server: str

    @classmethod
    def choose(cls) -> "Addresses":
        """Take free ports."""
        ports = iter(processes.free_ports(len(constants.NODES) + 4))
        nodes = {name: f"{_WIRE}{next(ports)}" for name in constants.NODES}
        return cls(nodes, *(f"{_WIRE}{next(ports)}" for _ in range(4)))


@dataclass(frozen=True, slots=True)
class Files:
    """The demo's folder and what stands in it."""

    folder: Path
    addresses: Addresses
    admin_token: str

    @classmethod
    def open(cls, folder: Path) -> "Files":
        """Prepare a folder: take ports, make the token for the admin APIs of nodes and gateway."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        files = cls(folder, Addresses.choose(), token)
        files.write_secret("admin-api-token", token)
        return files

    def write_secret(self, name: str, secret: str) -> Path:
        """Write a file that only the user may read."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(secret, encoding="utf-8")
        return path

    def write(self, name: str, document: object) -> Path:
        """Write a YAML file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        return path

    @property
    def data_dir(self) -> Path:
        """The control plane's own data."""
        return self.folder / "data"

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
            "pace_step_seconds": constants.PACE_STEP_SECONDS,
            "batch": {"max_size": constants.MAX_BATCH_SIZE, "max_wait_seconds": constants.BATCH_WAIT_SECONDS},
            "cache": {"audit_ratio": constants.AUDIT_RATIO},
            "faults_enabled": True,
            "shutdown_grace_seconds": 1,
        },
    )


def write_gateway(files: Files) -> Path:
    """Write the settings of the gateway in front of the nodes."""
    nodes = [{"name": name, "url": url} for name, url in files.addresses.nodes.items()]
    return files.write(
        "gateway.yaml",
        {
            "service": constants.SERVICE,
            "port": port_of(files.addresses.gateway),
            "admin_tokens": [files.admin_token],
            "nodes": nodes,
            "shutdown_grace_seconds": 1,
        },
    )


def write_services(files: Files) -> Path:
    """Write services.yaml: one service of two nodes."""
    pool = {"name": "hot", "actuator": "local", "min": 1, "max": len(constants.NODES)}
    service = {
        "name": constants.SERVICE,
        "profile": "dsctl",
        "selector": {"service": constants.SERVICE},
        "objectives": {"latency_p99_seconds": 1.5, "success_ratio": 0.995},
        "pools": [pool],
    }
    return files.write("services.yaml", {"services": [service]})


def write_runbooks(files: Files, shipped: Mapping[str, str]) -> Path:
    """Write the shipped runbooks (name to YAML) with the demo's times of verification."""
    folder = files.folder / "runbooks"
    for name, text in shipped.items():
        document = cast("dict[str, Any]", yaml.safe_load(text))
        document["metadata"]["override"] = True
        verify = document["spec"].get("verify")
        if verify is not None:
            verify.update(within=constants.VERIFY_WITHIN, hold=constants.VERIFY_HOLD)
        files.write(f"runbooks/{name}.yaml", document)
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
            "mode": mode.value,
            "tick_seconds": constants.TICK_SECONDS,
            "query_window_seconds": constants.RATE_WINDOW_SECONDS,
            "incident_quiet_seconds": constants.INCIDENT_QUIET_SECONDS,
            "resolve_grace_seconds": constants.RESOLVE_GRACE_SECONDS,
            "listen": {"host": "127.0.0.1", "port": port_of(at.server)},
            "node_admin": {"token_file": str(files.folder / "admin-api-token")},
            "gateways": {
                constants.SERVICE: {
                    "admin_url": at.gateway,
                    "token_file": str(files.folder / "admin-api-token"),
                }
            },
        },
    )


def write_server_files(files: Files, mode: policies.Mode) -> Path:
    """Write everything the control plane reads, and return the path of its settings."""
    shipped = {path.stem: path.read_text(encoding="utf-8") for path in sorted(library.SHIPPED.glob("*.yaml"))}
    return write_server(files, mode, services=write_services(files), runbooks=write_runbooks(files, shipped))
