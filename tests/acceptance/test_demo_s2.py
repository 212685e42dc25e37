"""Scenario S2 on the whole product: more load than the fleet can carry; premium is held and the others give way."""

from pathlib import Path

import pytest

from tests.support import demo

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(demo.seconds_for(1) + 30)]


def test_premium_is_held_while_batch_and_then_standard_give_way(tmp_path: Path):
    """Batch is shed before standard is touched; premium keeps its promise; after the surge every level is served."""
    played = demo.play(tmp_path, "S2", mode="auto")
    scenario = played.scenarios["S2"]
    assert played.status == 0, played.shown
    assert scenario["verdict"] == "recovered", played.shown
    batch, standard = (one["at_s"] for one in scenario["expected"] if "rung" in one["what"])
    assert batch <= standard, played.shown
    (premium,) = scenario["held"]
    assert (premium["level"], premium["is_kept"]) == ("premium", True), played.shown
    assert premium["p99_s"] <= premium["limit"]["p99_s"], played.shown
    during = scenario["during"]["levels"]
    assert during["premium"]["rejected_ratio"] < 0.1 < during["standard"]["rejected_ratio"], played.shown
    assert during["batch"]["rejected_ratio"] > 0.1, played.shown
    assert set(scenario["after"]["levels"]) == {"premium", "standard", "batch"}, played.shown
    assert all(level["rejected_ratio"] <= 0.01 for level in scenario["after"]["levels"].values()), played.shown


def test_with_its_hands_tied_premium_suffers_with_the_others(tmp_path: Path):
    """In observe mode the surge breaks what premium was promised, and nothing stands on the ladder."""
    played = demo.play(tmp_path, "S2", mode="observe")
    scenario = played.scenarios["S2"]
    assert played.status == 0, played.shown
    assert (scenario["verdict"], scenario["acted_s"], scenario["runs"]) == ("not_recovered", None, []), played.shown
    (premium,) = scenario["held"]
    assert not premium["is_kept"], played.shown
