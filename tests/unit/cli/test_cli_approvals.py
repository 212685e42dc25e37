"""`dsctl runs approve`, `runs reject` and `approvals list` against a real server over fakes."""

import json
import sys
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import fastapi
import pytest

from controlplane.api import app
from controlplane.cli import failures, main
from controlplane.domain import outcomes, plans, runs
from tests.support import api


class Result(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def fakes() -> api.Fakes:
    return api.Fakes(api.system_clock())


@pytest.fixture(scope="module")
def served() -> Generator[tuple[fastapi.FastAPI, str]]:
    application = app.create_app(api.Fakes(api.system_clock()).house())
    with api.serving(application) as url:
        yield application, url


@pytest.fixture
def cli(
    served: tuple[fastapi.FastAPI, str],
    fakes: api.Fakes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """The command line of an approver."""
    application, url = served
    application.state.house = fakes.house()
    monkeypatch.setenv("DSCTL_SERVER", url)
    monkeypatch.setenv("DSCTL_TOKEN", "token-approver")

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["dsctl", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.run()
        seen = capsys.readouterr()
        return Result(int(ended.value.code or 0), seen.out, seen.err)

    return call


@pytest.fixture
def asked(fakes: api.Fakes) -> runs.Run:
    """A run that waits for two people."""
    request = plans.PlanRequest("flush-cache", "chat", "n1", "policy:cache", reason="wrong answers")
    return fakes.runs.ask(fakes.remediator.plan(request), quorum=2)


def test_approving_shows_the_difference_and_the_hash_that_it_sends(cli: Cli, fakes: api.Fakes, asked: runs.Run) -> None:
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


def test_without_a_yes_nothing_is_approved(cli: Cli, fakes: api.Fakes, asked: runs.Run) -> None:
    """Nobody is there to ask: the plan is shown, and that is all."""
    refused = cli("runs", "approve", asked.id)
    assert (refused.code, fakes.runs.answers) == (failures.Exit.USAGE, [])
    assert "--yes" in refused.err


def test_rejecting_needs_a_reason(cli: Cli, fakes: api.Fakes, asked: runs.Run) -> None:
    """One word ends the run for everybody, so it comes with a why."""
    assert cli("runs", "reject", asked.id).code == failures.Exit.USAGE
    done: dict[str, Any] = json.loads(cli("runs", "reject", asked.id, "--reason", "launch day", "-o", "json").out)
    assert done["approvals"][0]["answers"][0]["reason"] == "launch day"
    assert [one.is_approved for one in fakes.runs.answers] == [False]


def test_a_run_that_asks_nobody_is_named_before_any_question(cli: Cli, fakes: api.Fakes, asked: runs.Run) -> None:
    """Over, without a question, unknown: each with its own text and exit code."""
    fakes.runs.end(asked.id, outcomes.RunState.CANCELLED)
    silent = fakes.runs.add(fakes.remediator.plan(plans.PlanRequest("flush-cache", "chat", "n1", "ada")))
    over, mute = cli("runs", "approve", asked.id), cli("runs", "approve", silent.id)
    assert (over.code, mute.code) == (failures.Exit.ERROR, failures.Exit.ERROR)
    assert "asks nobody: it is cancelled" in over.err
    assert "asks nobody: none of its steps does" in mute.err
    assert cli("runs", "approve", "run_0").code == failures.Exit.NOT_FOUND
