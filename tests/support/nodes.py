"""Starts real nodes and gateways as processes on free ports, and stops them by their id."""

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

API_KEY = "test-api-key"
PREMIUM_KEY = "test-premium-key"
GATEWAY_KEY = "test-gateway-key"
ADMIN_TOKEN = "test-admin-token"

NODE_START_SECONDS = 120.0
"""Importing torch and transformers alone takes 10 to 17 s here, and longer beside other work."""

NODE_DEFAULTS: Mapping[str, Any] = {
    "name": "node-1",
    "api_keys": [
        {"key": API_KEY},
        {"key": PREMIUM_KEY, "level": "premium"},
        {"key": GATEWAY_KEY, "is_gateway": True},
    ],
    "admin_tokens": [ADMIN_TOKEN],
    "faults_enabled": True,
    "batch": {"max_wait_seconds": 0.005},
}
GATEWAY_DEFAULTS: Mapping[str, Any] = {
    "api_keys": [{"key": API_KEY}, {"key": PREMIUM_KEY, "level": "premium"}],
    "admin_tokens": [ADMIN_TOKEN],
    "node_api_key": GATEWAY_KEY,
}


@dataclass(frozen=True)
class Started:
    """A running node or gateway."""

    url: str
    process: subprocess.Popen[str]
    api_key: str = API_KEY
    premium_key: str = PREMIUM_KEY
    gateway_key: str = GATEWAY_KEY
    admin_token: str = ADMIN_TOKEN

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def admin(self) -> dict[str, str]:
        """Headers of an admin call."""
        return {"authorization": f"Bearer {self.admin_token}"}


@contextmanager
def run_node(folder: Path, **overrides: Any) -> Generator[Started]:
    """Run a node until the block ends; overrides replace whole top-level settings."""
    with _run("inference_node.server", folder, {**NODE_DEFAULTS, **overrides}) as started:
        yield started


@contextmanager
def run_gateway(folder: Path, **overrides: Any) -> Generator[Started]:
    """Run a gateway until the block ends; overrides replace whole top-level settings."""
    with _run("inference_node.gateway", folder, {**GATEWAY_DEFAULTS, **overrides}) as started:
        yield started


@contextmanager
def _run(module: str, folder: Path, settings: Mapping[str, Any]) -> Generator[Started]:
    config = folder / f"{module}-{len(list(folder.glob('*.json')))}.json"
    config.write_text(json.dumps(settings))
    log = config.with_suffix(".log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--config", str(config), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield Started(_url(process, config), process)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
        log.close()


def _url(process: subprocess.Popen[str], config: Path) -> str:
    """Return the URL from the ready line; fails with the process's own words."""
    assert process.stdout is not None
    is_readable, _, _ = select.select([process.stdout], [], [], NODE_START_SECONDS)
    line = process.stdout.readline() if is_readable else ""
    found = re.search(r"^ready .*\burl=(\S+)", line)
    if found is None:
        raise AssertionError(f"not ready: {line!r}\n{config.with_suffix('.log').read_text()}")
    return found.group(1)
