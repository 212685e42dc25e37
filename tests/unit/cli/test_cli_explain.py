"""`dsctl explain` and `dsctl automation breaker` against a real server over fakes: what people read."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import fastapi
import pytest

from controlplane.domain import outcomes
from tests.support import api, command_line
from tests.support.clock import START


@pytest.fixture
def cli(
    served: tuple[fastapi.FastAPI, str],
    fakes: api.Fakes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> command_line.Cli:
    """The command line of an operator."""
    application, url = served
    application.state.house = fakes.house()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("DSCTL_SERVER", url)
    monkeypatch.setenv("DSCTL_TOKEN", "token-operator")

    return command_line.caller(monkeypatch, capsys)


MODE = outcomes.GateAnswer(outcomes.Gate.MODE, True, "policy cache is in mode auto", {"mode": "auto"})
COOLDOWN = outcomes.GateAnswer(
    outcomes.Gate.COOLDOWN,
    False,
    "flush-cache acted on chat/node-a 1 min ago, cooldown 5 min; 4 min left",
    {"seconds_ago": 60.25, "cooldown_seconds": 300.0, "run": "run_7"},
    "waiting until 2026-03-02 09:05:00 UTC",
)
REFUSED = outcomes.Decision(
    id="dec_1",
    at=START,
    service="chat",
    target="chat/node-a",
    runbook="flush-cache",
    outcome="denied",
    sentence=COOLDOWN.sentence,
    incident_id="inc_1",
    policy="cache",
    answers=(MODE, COOLDOWN),
    times=37,
    since=START - timedelta(minutes=9),
)


def test_explain_shows_every_gate_its_numbers_and_what_would_change_it(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """Why not, from what is stored; the same refusal again is folded into a count."""
    fakes.decisions.rows += [
        REFUSED,
        replace(REFUSED, id="dec_2", at=START + timedelta(seconds=15), times=3, since=START),
    ]
    shown = cli("explain", "inc_1")
    assert shown.out == (
        "2026-03-02 09:00:15  denied: flush-cache on chat/node-a (policy cache, incident inc_1)\n"
        "  flush-cache acted on chat/node-a 1 min ago, cooldown 5 min; 4 min left\n"
        "  the same 40 times since 2026-03-02 08:51:00\n"
        "  what would change it: waiting until 2026-03-02 09:05:00 UTC\n"
        "    passed  mode         policy cache is in mode auto  [mode=auto]\n"
        "    REFUSED cooldown     flush-cache acted on chat/node-a 1 min ago, cooldown 5 min; 4 min left"
        "  [seconds_ago=60.25 cooldown_seconds=300 run=run_7]\n"
    )


def test_explain_takes_runs_services_and_nodes(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """Each has its own question; what nobody decided about is said."""
    run = replace(REFUSED, id="dec_3", run_id="run_9", target="chat/node-b", incident_id=None, policy=None)
    fakes.decisions.rows += [REFUSED, run]
    assert "run run_9" in cli("explain", "run_9").out
    assert cli("explain", "chat").out.count("denied: flush-cache") == 2
    assert "(a person, run run_9)" in cli("explain", "chat/node-b").out
    assert cli("explain", "chat", "--last", "1").out.endswith("--last takes a larger number\n")
    assert cli("explain", "search").out == "nothing was decided about search\n"


def test_what_differs_is_not_folded(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """Another gate, another run, or what was allowed."""
    fakes.decisions.rows += [REFUSED, replace(REFUSED, answers=(MODE,)), replace(REFUSED, outcome="allowed")]
    fakes.decisions.rows += [replace(REFUSED, outcome="allowed", run_id="run_1"), replace(REFUSED, run_id="run_1")]
    assert cli("explain", "inc_1", "-o", "name").out.count("dec_1") == 5
    assert cli("explain", "inc_1").out.count("(policy cache") == 5


async def test_a_breaker_is_shown_and_reset_with_a_reason(cli: command_line.Cli, fakes: api.Fakes) -> None:
    """An operator may; the name and the reason are kept."""
    assert cli("automation", "breaker", "list").out == "no breaker ever tripped\n"
    await fakes.automation.trip("chat", "6 nodes within 10 min", ["node-a", "node-b"])
    assert "chat     open" in cli("automation", "status").out
    assert cli("automation", "breaker", "reset", "chat").code == 2
    assert "operator" in cli("automation", "breaker", "reset", "chat", "--reason", "a broken switch").out
    assert fakes.automation.tripped["chat"].reset_reason == "a broken switch"
    assert cli("automation", "breaker", "reset", "chat", "--reason", "again").code == 5
    assert "stands still" not in cli("automation", "status").out


def test_a_node_needs_its_service(fakes: api.Fakes, cli: command_line.Cli) -> None:
    """A name alone may be anybody's."""
    assert cli("explain", "/node-a").code == 1
