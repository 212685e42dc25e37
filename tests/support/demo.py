"""Plays the demo as a user does, as a process of its own, and reads its report."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.clock import SystemClock

# Nodes import torch on two cores, then each story takes its window and its way to rest; the rest is room for a busy
# machine.
START_SECONDS = 200
STORY_SECONDS = 400
# The scenarios that are no variant of another, in the order in which the demo plays them.
IDS = ("S1", "S2", "S3", "S4", "S5")


def seconds_for(num_stories: int) -> int:
    """Return how long a demo of so many stories may take at most."""
    return START_SECONDS + STORY_SECONDS * num_stories


@dataclass(frozen=True)
class Played:
    """How a demo ended: exit status, how long it took, the report's mode, each scenario by its id, and everything for a
    failure's message.
    """

    status: int
    seconds: float
    mode: str
    scenarios: dict[str, dict[str, Any]]
    shown: str


def play(folder: Path, *ids: str, mode: str) -> Played:
    """Run `dsctl demo up` in an empty folder to its end."""
    command = [sys.executable, "-m", "controlplane.cli", "demo", "up", "--only", ",".join(ids), "--mode", mode]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DSCTL_")}
    within, began = seconds_for(len(ids)), SystemClock().monotonic()
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=within
    )
    took = SystemClock().monotonic() - began
    path = folder / "demo-report.json"
    assert path.exists(), ended.stdout + ended.stderr
    report = json.loads(path.read_text(encoding="utf-8"))
    shown = json.dumps(report, indent=1) + ended.stdout[-6000:] + ended.stderr[-1000:]
    return Played(ended.returncode, took, report["mode"], {one["id"]: one for one in report["scenarios"]}, shown)
