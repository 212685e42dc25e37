"""`dsctl` against the real server, as a person and as a script use it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import service

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def read(rig: service.Rig, *words: str) -> Any:
    """Run a command that answers in JSON, and return the answer."""
    done = rig.cli(*words, "-o", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_person_looks_acts_and_reads_about_it(tmp_path: Path) -> None:
    """Dry run, refusal, run with verdict and exit code, and every list that shows it afterwards."""
    with service.installed(tmp_path, mode="suggest") as rig:
        rig.until_scraped()
        node = rig.nodes["n1"]

        looked = rig.cli("remediate", "flush-cache", "--node", "n1", "--dry-run")
        assert looked.returncode == 0, looked.stderr
        [change] = [line.split() for line in looked.stdout.splitlines() if line.startswith("chat/n1")]
        assert change[-2:] == ["812", "0"], looked.stdout
        assert (node.entries, node.effects, rig.runs(), rig.decisions()) == (812, [], [], [])

        node.is_poisoned = True
        incident = rig.incident(lambda one: one["state"] == "open", "an incident is open")
        done = rig.cli("remediate", "flush-cache", "--node", "n1", "--yes", "--reason", "wrong answers")
        assert done.returncode == 0, done.stdout + done.stderr
        assert " succeeded: recovered: " in done.stdout, done.stdout
        assert node.effects == ["POST /admin/v1/cache/flush"]

        refused = rig.cli("remediate", "flush-cache", "--node", "n1", "--yes")
        assert refused.returncode == 6, refused.stdout + refused.stderr
        assert "cooldown" in refused.stderr

        check_runs(rig)
        check_incidents(rig, incident["id"])
        check_the_rest(rig)


def check_runs(rig: service.Rig) -> None:
    """The run is listed, shown with its reason, and its log tells the story in order."""
    [run] = read(rig, "runs", "list")["items"]
    assert (run["state"], run["verdict"], run["target"]) == ("succeeded", "recovered", "chat/n1")
    shown = rig.cli("runs", "get", run["id"]).stdout
    assert "reason: wrong answers" in shown
    assert "asked for by admin" in shown
    kinds = [one["kind"] for one in read(rig, "runs", "events", run["id"])["items"]]
    assert kinds == ["submitted", "step_started", "step_finished", "verify_started", "verified", "ended"]
    assert rig.cli("runs", "get", "run_01ARZ3NDEKTSV4RRFFQ69G5FAV").returncode == 5


def check_incidents(rig: service.Rig, incident_id: str) -> None:
    """The incident can be read, and its timeline begins with who opened it."""
    assert incident_id in {one["id"] for one in read(rig, "incidents", "list")["items"]}
    assert "cache_wrong_ratio" in rig.cli("incidents", "get", incident_id).stdout
    timeline = rig.cli("incidents", "timeline", incident_id).stdout
    assert "opened by alert:CacheAnswersWrong" in timeline.splitlines()[0]


def check_the_rest(rig: service.Rig) -> None:
    """Nodes, runbooks, the kill switch, tokens, the doctor, and the rules of the services file."""
    nodes = {one["name"]: one for one in read(rig, "nodes", "list")["items"]}
    assert set(nodes) == {"n1", "n2"}
    assert nodes["n1"]["is_up"] is True
    assert "cache_wrong_ratio" in rig.cli("nodes", "get", "n1").stdout
    assert rig.cli("nodes", "get", "n9").returncode == 5
    assert "flush-cache" in rig.cli("runbooks", "list").stdout
    assert read(rig, "automation", "pause", "--reason", "look")["is_paused"] is True
    assert read(rig, "automation", "resume")["is_paused"] is False

    made = read(rig, "auth", "token", "create", "watcher", "--role", "viewer")
    held = rig.folder / "watcher-token"
    held.write_text(made["token"], encoding="utf-8")
    assert rig.cli("incidents", "list", token_file=held).returncode == 0
    forbidden = rig.cli("automation", "pause", "--reason", "no", token_file=held)
    assert forbidden.returncode == 4, forbidden.stderr
    assert made["token"] not in rig.cli("auth", "token", "list").stdout
    assert rig.cli("auth", "token", "revoke", "watcher").returncode == 0
    assert rig.cli("incidents", "list", token_file=held).returncode == 4

    found = {one["name"]: one for one in json.loads(rig.cli("doctor", "-o", "json").stdout)["items"]}
    for name in ("packages", "server", "token", "database", "runs", "prometheus", "alertmanager", "tick"):
        assert found[name]["state"] == "ok", found[name]
    rules = rig.cli("alerts", "rules", "--services", str(rig.folder / "services.yaml"))
    assert rules.returncode == 0, rules.stderr
    names = {rule["alert"] for group in yaml.safe_load(rules.stdout)["groups"] for rule in group["rules"]}
    assert {"CacheAnswersWrong", "NodeMetricsMissing", "ControlPlaneNotTicking"} <= names
