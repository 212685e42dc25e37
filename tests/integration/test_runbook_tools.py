"""The tools for people who write runbooks, as they use them: from any folder, without a server, in a process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.rehearsal import rehearse
from controlplane.runs.language import library

pytestmark = pytest.mark.integration  # starts processes

ROOT = Path(__file__).parents[2]
BOOK = """\
apiVersion: dsctl/v1
kind: Runbook
metadata: {name: keep-out, summary: Keep a node out}
spec:
  inputs: {node: {type: node}}
  steps:
    - {name: eject, action: eject_node, with: {ttl_seconds: 600}}
  on_failure: [{run: quarantine-node}]
"""
TEST = """\
apiVersion: dsctl/v1
kind: RunbookTest
metadata: {name: keep-out}
spec:
  runbook: keep-out
  node: node-1
  cases:
    - {name: it is kept out, expect: {acts: [{step: eject, with: {ttl_seconds: 600}}], state: succeeded}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's runbooks with their tests beside them."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "keep-out.yaml").write_text(BOOK, encoding="utf-8")
    (tmp_path / "tests" / "keep-out.yaml").write_text(TEST, encoding="utf-8")
    return tmp_path


def dsctl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "controlplane.cli", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(folder), "DSCTL_SERVER": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_good_files_are_valid_and_do_what_their_tests_say(folder: Path) -> None:
    """A folder stands for its runbooks and their tests; no server is asked."""
    checked = dsctl(folder, "runbooks", "validate", ".")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.splitlines() == [
        "keep-out.yaml is a valid runbook: keep-out",
        "tests/keep-out.yaml is a valid test of a runbook: keep-out",
    ]
    tested = dsctl(folder, "runbooks", "test", "tests")
    assert (tested.returncode, tested.stderr) == (0, "")
    assert tested.stdout.splitlines()[-1] == "1 of 1 went as expected"
    elsewhere = dsctl(folder, "runbooks", "test", "tests/keep-out.yaml", "--runbooks", ".", "-o", "json")
    assert json.loads(elsewhere.stdout)["items"][0]["differences"] == []


def test_every_fault_is_told_with_file_line_and_column(folder: Path) -> None:
    """Of every file, also those between files; the exit status says that something is wrong."""
    text = BOOK.replace("eject_node", "eject_nod").replace("600", "lots")
    (folder / "keep-out.yaml").write_text(text.replace("quarantine-node", "quarantine"), encoding="utf-8")
    (folder / "other.yaml").write_text(f"{BOOK}    surprise: 1\n", encoding="utf-8")
    (folder / "tests" / "keep-out.yaml").write_text(TEST.replace("cases:", "case:"), encoding="utf-8")
    checked = dsctl(folder, "runbooks", "validate", ".")
    assert checked.returncode == 1
    places = [line.split(": ")[0] for line in checked.stdout.splitlines()]
    assert places == [
        "keep-out.yaml:7:21",
        "keep-out.yaml:8:17",
        "other.yaml:9:5",
        "tests/keep-out.yaml:4:1",
        "tests/keep-out.yaml:7:3",
    ]
    assert "did you mean 'eject_node'?" in checked.stdout
    assert "did you mean 'quarantine-node'?" in checked.stdout


def test_a_runbook_that_does_otherwise_fails_its_test_with_the_log(folder: Path) -> None:
    """What was expected, what came, and what the run did, in this order."""
    (folder / "keep-out.yaml").write_text(BOOK.replace("600", "60"), encoding="utf-8")
    tested = dsctl(folder, "runbooks", "test", "tests")
    assert tested.returncode == 1
    assert "acts[0] eject: expected ttl_seconds=600, got 60" in tested.stdout
    assert "step_finished    eject" in tested.stdout
    assert tested.stdout.splitlines()[-1] == "0 of 1 went as expected"
    missing = dsctl(folder, "runbooks", "test", "tests/nothing.yaml")
    assert (missing.returncode, "cannot be read" in missing.stderr) == (2, True)


def test_shipped_runbooks_are_valid_and_tested_by_default() -> None:
    """They are the example that people start from, and their tests play without being named."""
    checked = dsctl(ROOT, "runbooks", "validate", str(library.SHIPPED))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert len(checked.stdout.splitlines()) == 2 * len(list(library.SHIPPED.glob("*.yaml")))
    tested = dsctl(ROOT, "runbooks", "test")
    assert (tested.returncode, tested.stderr) == (0, ""), tested.stdout
    assert {line.partition(": ")[0].split()[-1] for line in tested.stdout.splitlines()[:-1]} == {
        str(path) for path in rehearse.SHIPPED.glob("*.yaml")
    }


@pytest.mark.parametrize("kind", ["runbook", "runbook-test", "policy", "services"])
def test_schemas_are_printed_for_editors(folder: Path, kind: str) -> None:
    """The one that is published."""
    printed = dsctl(folder, "runbooks", "schema", kind)
    assert printed.stdout == (ROOT / "docs" / "schemas" / f"{kind}.schema.json").read_text(encoding="utf-8")
