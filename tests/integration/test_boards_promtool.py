"""The boards' PromQL, judged by promtool: it parses, and the expressions that are made by hand say what they should."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.support import boards
from tests.support import prometheus as real

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

ASKED = dict(boards.expressions(boards.read()))
ENDED = 'dsctl_runs_total{runbook="flush-cache",state="succeeded",verdict="recovered",instance="h"}'
MARK = '{runbook="flush-cache",state="succeeded",verdict="recovered"}'
TICK = "dsctl_seconds_since_good_tick"


def test_every_expression_of_every_board_parses(tmp_path: Path) -> None:
    """Prometheus of the oldest supported version takes each of them as a rule, with Grafana's variables filled in."""
    rules = [
        {"record": f"board:number:{number}", "expr": boards.filled_in(expr)}
        for number, expr in enumerate(ASKED.values())
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    assert f"{len(ASKED)} rules found" in real.run_tool("promtool", "check", "rules", tmp_path / "rules.yml")


def play(folder: Path, series: Mapping[str, str], asked: list[tuple[str, str, dict[str, float]]]) -> None:
    """Ask expressions at instants, over series that are sampled every 15 s."""
    case = {
        "interval": "15s",
        "input_series": [{"series": name, "values": text} for name, text in series.items()],
        "promql_expr_test": [
            {
                "expr": boards.filled_in(ASKED[who]),
                "eval_time": at,
                "exp_samples": [{"labels": labels, "value": value} for labels, value in expected.items()],
            }
            for who, at, expected in asked
        ],
    }
    (folder / "rules.yml").write_text("groups: []\n")
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": [case]}
    (folder / "case.yml").write_text(yaml.safe_dump(document))
    real.run_tool("promtool", "test", "rules", folder / "case.yml")


def test_a_run_is_marked_once_when_it_ends_the_first_one_included(tmp_path: Path) -> None:
    """A series that begins at one was zero before; a minute later it is no news any more."""
    first = "_ _ _ _ _ _ _ _ 1 1 1 1 1 1 1 1 2 2 2 2 2 2 2 2"  # from 2m on, and again from 4m on
    who = "annotation Runs"
    play(
        tmp_path,
        {ENDED: first},
        [(who, "1m", {}), (who, "2m", {MARK: 1}), (who, "3m15s", {}), (who, "4m", {MARK: 1}), (who, "5m30s", {})],
    )


def test_a_restart_of_dsctl_marks_no_run(tmp_path: Path) -> None:
    """Its counts begin anew, which is no run that ended."""
    play(tmp_path, {ENDED: "5x8 0x8"}, [("annotation Runs", "2m15s", {}), ("annotation Runs", "3m", {})])


def test_no_incident_is_zero_only_while_dsctl_tells(tmp_path: Path) -> None:
    """With nothing open the panel says 0; without dsctl it says nothing."""
    who = "Open incidents A"
    play(tmp_path, {TICK: "3x20"}, [(who, "2m", {"{}": 0})])
    play(tmp_path, {"other": "1x20"}, [(who, "2m", {})])
    play(tmp_path, {TICK: "3x20", 'dsctl_incidents{state="open",fault="cache"}': "2x20"}, [(who, "2m", {"{}": 2})])


def test_the_burn_of_the_budget_is_of_the_worst_service_whatever_runs_it(tmp_path: Path) -> None:
    """2 % of errors use a budget of 0.5 % four times as fast as allowed; an engine without our gateway counts too."""
    ours = 'dsctl_gateway_responses_total{service="chat",node="a",code="%s"}'
    series = {ours % "200": "0+99x300", ours % "500": "0+1x300"}
    who = "Error budget burn, 1 h A"
    play(tmp_path, series, [(who, "70m", {"{}": 2})])
    theirs = 'http_requests_total{service="chat",node="b",handler="/v1/completions",status="%s"}'
    play(tmp_path, {theirs % "2xx": "0+98x300", theirs % "5xx": "0+2x300"}, [(who, "70m", {"{}": 4})])
