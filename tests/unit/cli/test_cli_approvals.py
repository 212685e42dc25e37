"""`dsctl runs approve`, `runs reject` and `approvals list` against a real server over fakes."""

import json
from typing import Any

import fastapi
import pytest

from controlplane.cli import failures
from controlplane.domain import outcomes, plans, runs
from tests.support import api, command_line


@pytest.fixture
def cli(
    served: tuple[fastapi.FastAPI, str],
    fakes: api.Fakes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> command_line.Cli:
    """The command line of an approver."""
    application, url = served
    application.state.house = fakes.house()
    monkeypatch.setenv("DSCTL_SERVER", url)
    monkeypatch.setenv("DSCTL_TOKEN", "token-approver")

    return command_line.caller(monkeypatch, capsys)


@pytest.fixture
def asked(fakes: api.Fakes) -> runs.Run:
    """A run that waits for two people."""
    request = plans.PlanRequest("flush-cache", "chat", "n1", "policy:cache", reason="wrong answers")
    return fakes.runs.ask(fakes.remediator.plan(request), quorum=2)


def test_approving_shows_the_difference_and_the_hash_that_it_sends(
    cli: command_line.Cli, fakes: api.Fakes, asked: runs.Run
) -> None:
    """What was shown is what is agreed to; the list says who has."""
    done = cli("runs", "approve", asked.id, "--yes", "--reason", "seen")
    assert (done.code, done.err) == (0, "")
    assert "chat/n1  cache entries  12      0" in done.out
    assert f"plan {asked.plan.hash}" in done.out
    assert "approval: 0 of 2" in done.out
    [kept] = fakes.runs.answers
    assert (kept.who, kept.reason, kept.plan_hash) == ("approver", "seen", asked.plan.hash)
    listed = cli("approvals", "list").out.splitlines()[1]
    for part in (asked.id, "flush-cache", "chat/n1", "policy:cache", "1 of 2: approver", "wrong answers"):
        assert part in listed
    again = cli("runs", "approve", asked.id, "--yes")
    assert again.code == failures.Exit.ERROR
    assert "approver has approved step approval" in again.err


def test_without_a_yes_nothing_is_approved(cli: command_line.Cli, fakes: api.Fakes, asked: runs.Run) -> None:
    """Nobody is there to ask: the plan is shown, and that is all."""
    refused = cli("runs", "approve", asked.id)
    assert (refused.code, fakes.runs.answers) == (failures.Exit.USAGE, [])
    assert "--yes" in refused.err


def test_rejecting_needs_a_reason(cli: command_line.Cli, fakes: api.Fakes, asked: runs.Run) -> None:
    """One word ends the run for everybody, so it comes with a why."""
    assert cli("runs", "reject", asked.id).code == failures.Exit.USAGE
    done: dict[str, Any] = json.loads(cli("runs", "reject", asked.id, "--reason", "launch day", "-o", "json").out)
    assert done["approvals"][0]["answers"][0]["reason"] == "launch day"
    assert [one.is_approved for one in fakes.runs.answers] == [False]


def test_a_run_that_asks_nobody_is_named_before_any_question(
    cli: command_line.Cli, fakes: api.Fakes, asked: runs.Run
) -> None:
    """Over, without a question, unknown: each with its own text and exit code."""
    fakes.runs.end(asked.id, outcomes.RunState.CANCELLED)
    silent = fakes.runs.add(fakes.remediator.plan(plans.PlanRequest("flush-cache", "chat", "n1", "ada")))
    over, mute = cli("runs", "approve", asked.id), cli("runs", "approve", silent.id)
    assert (over.code, mute.code) == (failures.Exit.ERROR, failures.Exit.ERROR)
    assert "asks nobody: it is cancelled" in over.err
    assert "asks nobody: none of its steps does" in mute.err
    assert cli("runs", "approve", "run_0").code == failures.Exit.NOT_FOUND
