"""Local fleets for tests: cheap processes behind real definitions, and no process left when the test is over."""

import contextlib
import os
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from actions.local import definitions, fleet, processes
from controlplane import clock

SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")


def write(folder: Path, argvs: Mapping[str, Sequence[str]], **fields: Any) -> fleet.LocalFleet:
    """Define nodes by their command lines; their URLs have ports that count up from 1."""
    nodes = {
        name: {"argv": list(argv), "url": f"http://127.0.0.1:{number}"}
        for number, (name, argv) in enumerate(argvs.items(), start=1)
    }
    return define(folder, nodes, **fields)


def define(folder: Path, nodes: Mapping[str, Mapping[str, Any]], **fields: Any) -> fleet.LocalFleet:
    """Write fleet.yaml and return the fleet."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"nodes": {name: dict(node) for name, node in nodes.items()}, "stop_seconds": 10.0, **fields}
    (folder / definitions.FILE).write_text(yaml.safe_dump(document), encoding="utf-8")
    return fleet.LocalFleet("chat", folder, clock.SystemClock())


def pid(local: fleet.LocalFleet, name: str) -> int:
    """Return the number of a node's process."""
    record = local.status(name).record
    assert record is not None
    assert record.pid is not None
    return record.pid


@contextlib.contextmanager
def ended(folder: Path) -> Generator[None]:
    """End every process that the records of a fleet name, whatever the test did."""
    try:
        yield
    finally:
        for path in sorted((folder / "state").glob("*.json")):
            record = definitions.read_record(path)
            identity = None if record is None else record.identity
            if identity is not None and processes.is_running(identity):
                os.kill(identity.pid, signal.SIGKILL)
