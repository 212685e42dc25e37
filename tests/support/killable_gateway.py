"""A real gateway as a process that a test may stop, kill and start again on its address, as a service manager would.

Nothing survives a start: the new process knows the configured nodes, all in service, and no key of a call.
Concurrency: blocking on purpose. A test that starts it from its event loop holds up whatever else runs there, so that
nothing happens between the kill and the new process.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from controlplane.demo import processes
from tests.support import fake_node, prometheus

# Half a second of work; the machine may be busy with other things.
START_SECONDS = 60.0


@dataclass
class KillableGateway:
    """One address; the token of its admin API is that of the fake nodes."""

    config: Path
    url: str
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start the process and wait until its admin API answers."""
        command = [sys.executable, "-m", "inference_node.gateway", "--config", str(self.config)]
        with self.config.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
        prometheus.until(self._answers, "the gateway answers", seconds=START_SECONDS, pause_seconds=0.05)

    def freeze(self) -> None:
        """Let calls arrive and none be answered."""
        os.kill(self._running().pid, signal.SIGSTOP)

    def kill(self) -> None:
        """End it as a power cut does."""
        self._running().kill()
        self._running().wait(20)

    def state(self) -> dict[str, Any]:
        """Return what its admin API shows."""
        headers = {"authorization": f"Bearer {fake_node.TOKEN}"}
        return httpx.get(f"{self.url}/admin/v1/state", headers=headers, timeout=5, trust_env=False).json()

    def node(self, name: str) -> dict[str, Any]:
        """Return how it treats a node."""
        [found] = [one for one in self.state()["nodes"] if one["name"] == name]
        return found

    def _answers(self) -> bool:
        assert self._running().poll() is None, self.config.with_suffix(".log").read_text()
        try:
            return bool(self.state())
        except httpx.TransportError:
            return False

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self.process is not None, "the gateway was never started"
        return self.process


@contextlib.contextmanager
def running(folder: Path, node_urls: Mapping[str, str]) -> Generator[KillableGateway]:
    """Run a gateway in front of nodes until the block ends."""
    (port,) = processes.free_ports(1)
    nodes = [{"name": name, "url": url} for name, url in node_urls.items()]
    settings = {"port": port, "admin_tokens": [fake_node.TOKEN], "nodes": nodes, "shutdown_grace_seconds": 0}
    config = folder / "gateway.json"
    config.write_text(json.dumps(settings), encoding="utf-8")
    gateway = KillableGateway(config, f"http://127.0.0.1:{port}")
    try:
        gateway.start()
        yield gateway
    finally:
        if gateway.process is not None:
            gateway.kill()
