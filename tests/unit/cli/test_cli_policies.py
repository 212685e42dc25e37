"""`dsctl policies`: what people read of how far policies go, and lifting what is held against one."""

import json
import sys
from collections.abc import Callable, Generator

import pytest

from controlplane.cli import failures, main
from controlplane.domain import policies, trust
from controlplane.engine import trust as engine
from tests.support import api
from tests.support import builders as b
from tests.support.clock import START
from tests.support.trusts import deeds

Cli = Callable[..., tuple[int, str, str]]
Mode = policies.Mode
DEMOTION = trust.Entry("cache-poisoned", trust.Kind.DEMOTED, START, "dsctl", "it was bad", Mode.AUTO, Mode.APPROVE)


def standing(name: str, verdicts: str, mode: Mode, held: trust.Trust) -> trust.Standing:
    found = deeds(verdicts)
    policy = b.policy(name, mode=mode, written=mode)
    return engine.stand(policy, found, found, held, trust.Thresholds(), Mode.AUTO)


@pytest.fixture(scope="module")
def served() -> Generator[api.Fakes]:
    fakes = api.Fakes(api.system_clock())
    fakes.trustees.rows = {
        "cache-poisoned": standing("cache-poisoned", "rrrw", Mode.AUTO, trust.Trust(DEMOTION, START)),
        "bad-node": standing("bad-node", "r" * 35, Mode.SUGGEST, trust.Trust()),
    }
    with pytest.MonkeyPatch.context() as patch, api.serving(api.app.create_app(fakes.house())) as url:
        patch.setenv("DSCTL_SERVER", url)
        patch.setenv("DSCTL_TOKEN", "token-operator")
        yield fakes


@pytest.fixture
def cli(served: api.Fakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dsctl", "policies", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.run()
        seen = capsys.readouterr()
        return int(ended.value.code or 0), seen.out, seen.err

    return call


def test_list_shows_mode_mode_in_force_and_record(cli: Cli) -> None:
    """What is held against a policy and what is proposed stands below, with the command that lifts it."""
    code, out, _ = cli("list")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["NAME", "RUNBOOK", "MODE", "IN", "FORCE", "RUNS", "RECOVERED", "MEDIAN"]
    assert lines[1].split() == [
        "cache-poisoned",
        "flush-cache",
        "auto",
        "approve",
        "3",
        "67%",
        "(21%",
        "to",
        "94%)",
        "60s",
    ]
    assert "taken from auto to approve: it was bad; `dsctl policies reset cache-poisoned` lifts it" in out
    assert "policy bad-node may be raised to approve: 35 of 35 runs recovered" in out


def test_get_shows_the_record_by_service(cli: Cli) -> None:
    """And from when on it is counted."""
    code, out, _ = cli("get", "cache-poisoned")
    assert code == 0
    assert "counted since 2026-03-02T09:00:00Z" in out
    assert "  on chat" in out
    assert "its runbook, whoever asked" in out
    assert cli("get", "nobody")[0] == failures.Exit.NOT_FOUND
    assert "counted since" not in cli("get", "bad-node")[1]


def test_reset_needs_a_reason_and_keeps_it(cli: Cli, served: api.Fakes) -> None:
    """Who did it is in the token."""
    code, out, _ = cli("reset", "cache-poisoned", "--reason", "mended", "-o", "json")
    assert (code, json.loads(out)["name"]) == (0, "cache-poisoned")
    assert served.trustees.resets == [("cache-poisoned", "operator", "mended")]
    assert cli("reset", "cache-poisoned")[0] == failures.Exit.USAGE
    assert cli("list", "-o", "name")[1].split() == ["cache-poisoned", "bad-node"]
