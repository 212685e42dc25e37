"""Scenario S4 on the whole product: a poisoned cache, with the control plane allowed to act and with its hands tied."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.acceptance
# Two nodes import torch on two cores, then the story takes its window; the rest is room for a busy machine.
WITHIN_SECONDS = 420
# From when the condition can be scraped; two scrapes and the wait for a first audit come before that.
ACTED_WITHIN_SECONDS = 20.0


def play(folder: Path, mode: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run the demo as a user does, in an empty folder, and return how it ended and what it reported."""
    command = [sys.executable, "-m", "controlplane.cli", "demo", "up", "--only", "S4", "--mode", mode]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DSCTL_")}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=WITHIN_SECONDS
    )
    report = folder / "demo-report.json"
    assert report.exists(), ended.stdout + ended.stderr
    return ended, json.loads(report.read_text(encoding="utf-8"))


@pytest.mark.timeout(WITHIN_SECONDS + 30)
def test_a_poisoned_cache_is_noticed_flushed_and_verified(tmp_path: Path):
    """At 0 s the cache of node-1 is poisoned; by 15 s an incident; by 20 s a flush; then right answers and a verdict."""
    ended, report = play(tmp_path, "auto")
    (scenario,) = report["scenarios"]
    seen = json.dumps(scenario, indent=1) + ended.stdout[-3000:] + ended.stderr[-1000:]
    assert ended.returncode == 0, seen
    assert (report["mode"], scenario["id"], scenario["verdict"]) == ("auto", "S4", "recovered"), seen
    assert scenario["opened_by"] == "alert:CacheAnswersWrong", seen
    assert scenario["detected_s"] < scenario["acted_s"] <= ACTED_WITHIN_SECONDS, seen
    assert scenario["before"]["error_ratio"] == 0.0, seen
    assert scenario["during"]["error_ratio"] > 0.2, seen
    assert scenario["after"]["error_ratio"] <= 0.005, seen
    assert len(scenario["runs"]) == 1, seen


@pytest.mark.slow
@pytest.mark.timeout(WITHIN_SECONDS + 30)
def test_with_its_hands_tied_it_notices_and_the_trouble_stays(tmp_path: Path):
    """In observe mode the incident is opened, nothing acts, and wrong answers go on until the end of the window."""
    ended, report = play(tmp_path, "observe")
    (scenario,) = report["scenarios"]
    seen = json.dumps(scenario, indent=1) + ended.stdout[-3000:] + ended.stderr[-1000:]
    assert ended.returncode == 0, seen
    assert (report["mode"], scenario["verdict"], scenario["acted_s"]) == ("observe", "not_recovered", None), seen
    assert scenario["opened_by"] == "alert:CacheAnswersWrong", seen
    assert scenario["after"]["error_ratio"] > 0.2, seen
    assert scenario["runs"] == [], seen
