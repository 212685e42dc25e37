"""Scenario S1 on the whole product: more requests than the nodes can carry, as a surge and as a peak that is foretold."""

from pathlib import Path
from typing import Any

import pytest

from tests.support import demo

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(demo.seconds_for(len(demo.IDS)) + 30)]


def when(scenario: dict[str, Any], what: str) -> float:
    """Return when an expectation came true, in seconds from the first deed."""
    (found,) = [one["at_s"] for one in scenario["expected"] if what in one["what"]]
    return found


def test_a_surge_is_answered_by_more_nodes_which_go_again(auto: demo.Played):
    """The plan sees what arrives and asks for a node; it serves; after the surge it is drained and loses no request."""
    scenario = auto.scenarios["S1"]
    assert (scenario["verdict"], scenario["opened_by"]) == ("recovered", "capacity"), auto.shown
    assert 0 < when(scenario, "incident of surge") < when(scenario, "4 nodes in service"), auto.shown
    assert scenario["lost_to_scale_in"] == 0, auto.shown
    assert scenario["after"]["p99_s"] <= 1.5, auto.shown
    assert scenario["during"]["levels"]["premium"]["rejected_ratio"] < 0.1, auto.shown


def test_with_its_hands_tied_the_surge_is_seen_and_stays(observe: demo.Played):
    """The same incident, no node, and clients that wait or are refused."""
    scenario = observe.scenarios["S1"]
    assert (scenario["verdict"], scenario["acted_s"], scenario["runs"]) == ("not_recovered", None, []), observe.shown


def test_a_daily_peak_finds_its_nodes_ready(tmp_path: Path):
    """Prophet opens the incident before the minute of the peak, and the node serves before it: clients feel nothing."""
    played = demo.play(tmp_path, "S1-peak", mode="auto")
    scenario = played.scenarios["S1-peak"]
    assert played.status == 0, played.shown
    assert (scenario["verdict"], scenario["opened_by"]) == ("recovered", "prophet"), played.shown
    assert when(scenario, "incident of surge") < when(scenario, "4 nodes in service") <= 0, played.shown
    (first,) = scenario["held"]
    assert (first["is_kept"], first["rejected_ratio"]) == (True, 0.0), played.shown


def test_a_peak_that_is_only_watched_is_felt(tmp_path: Path):
    """In observe mode the same forecast is made, nothing is started, and the peak finds too few nodes."""
    played = demo.play(tmp_path, "S1-peak", mode="observe")
    scenario = played.scenarios["S1-peak"]
    assert played.status == 0, played.shown
    assert (scenario["verdict"], scenario["opened_by"]) == ("not_recovered", "prophet"), played.shown
    assert scenario["runs"] == [], played.shown
