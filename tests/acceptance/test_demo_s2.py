"""Scenario S2 on the whole product: more load than the fleet can carry; premium is held and the others give way."""

import pytest

from tests.support import demo

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(demo.seconds_for(len(demo.IDS)) + 30)]


def test_premium_is_held_while_batch_and_then_standard_give_way(auto: demo.Played):
    """Batch is shed before standard is touched; premium keeps its promise; after the surge every level is served."""
    scenario = auto.scenarios["S2"]
    assert scenario["verdict"] == "recovered", auto.shown
    batch, standard = (one["at_s"] for one in scenario["expected"] if "rung" in one["what"])
    assert batch <= standard, auto.shown
    (premium,) = scenario["held"]
    assert (premium["level"], premium["is_kept"]) == ("premium", True), auto.shown
    assert premium["p99_s"] <= premium["limit"]["p99_s"], auto.shown
    during = scenario["during"]["levels"]
    assert during["premium"]["rejected_ratio"] < 0.1 < during["standard"]["rejected_ratio"], auto.shown
    assert during["batch"]["rejected_ratio"] > 0.1, auto.shown
    assert set(scenario["after"]["levels"]) == {"premium", "standard", "batch"}, auto.shown
    assert all(level["rejected_ratio"] <= 0.01 for level in scenario["after"]["levels"].values()), auto.shown


def test_with_its_hands_tied_premium_suffers_with_the_others(observe: demo.Played):
    """In observe mode the surge breaks what premium was promised, and nothing stands on the ladder."""
    scenario = observe.scenarios["S2"]
    assert (scenario["verdict"], scenario["acted_s"], scenario["runs"]) == ("not_recovered", None, []), observe.shown
    (premium,) = scenario["held"]
    assert not premium["is_kept"], observe.shown
