"""A real `dsctl server` in a process of its own, for benchmark `intake`: installed as new, and killed at will.

Prometheus and Alertmanager are not there, so that the loop goes on over unknown data, as it would when they are down.
Blocking; for the benchmark's own process.
"""

import http.client
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from controlplane import clock
from controlplane.demo import processes

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
_START_SECONDS = 120.0
_LOOK_SECONDS = 0.1


class ServerError(RuntimeError):
    """The server did not do what the benchmark needs of it."""


@dataclass
class Server:
    """One installation in `folder`; the same data and port over every start."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @classmethod
    def installed(cls, folder: Path) -> "Server":
        """Write the settings of a fresh installation with one service."""
        port, nobody, neither = processes.free_ports(3)
        pool = {"name": "hot", "actuator": "local", "min": 1, "max": 2}
        service = {"name": "chat", "profile": "dsctl", "selector": {"service": "chat"}, "pools": [pool]}
        (folder / "services.yaml").write_text(yaml.safe_dump({"services": [service]}), encoding="utf-8")
        chosen = {
            "data_dir": "data",
            "services_file": "services.yaml",
            "prometheus_url": f"http://{HOST}:{nobody}",
            "alertmanager_url": f"http://{HOST}:{neither}",
            "listen": {"port": port},
        }
        (folder / "dsctl.yaml").write_text(yaml.safe_dump(chosen), encoding="utf-8")
        return cls(folder, port)

    @property
    def database(self) -> Path:
        """The SQLite file."""
        (found,) = (self.folder / "data").glob("*.db")
        return found

    def start(self) -> None:
        """Start the process and wait until it answers."""
        command = [sys.executable, "-m", "controlplane.cli", "server", "start"]
        command += ["--config", str(self.folder / "dsctl.yaml")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DSCTL_")}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        end, pause = clock.SystemClock().monotonic() + _START_SECONDS, threading.Event()
        while not self._is_up():
            if self.process.poll() is not None or clock.SystemClock().monotonic() > end:
                raise ServerError(f"the server did not start; its log ends:\n{self.log_end()}")
            pause.wait(_LOOK_SECONDS)

    def log_end(self) -> str:
        """Return the last lines of its log."""
        return (self.folder / "server.log").read_text(encoding="utf-8")[-2000:]

    def kill(self) -> None:
        """End it as a power cut does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)

    def stop(self) -> None:
        """End it, however it was left."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def webhook_token(self) -> str:
        """Make a token for posting events, with the administrator's."""
        secret = (self.folder / "data" / "admin-token").read_text(encoding="utf-8").strip()
        body = json.dumps({"name": "alertmanager", "role": "events"}).encode()
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        return self._call("POST", "/api/v1/tokens", body, headers)["token"]

    def numbers(self) -> dict[str, float]:
        """Return the server's own metrics, by name and labels as they are written."""
        lines = self._send("GET", "/metrics", None, {}).decode().splitlines()
        return {name: float(value) for name, _, value in (one.rpartition(" ") for one in lines if one[0] != "#")}

    def _is_up(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            self._send("GET", "/livez", None, {})
            return True
        return False

    def _call(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Any:
        return json.loads(self._send(method, path, body, headers))

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise ServerError(f"{method} {path} was answered {answer.status}: {content[:300]!r}")
        return content
