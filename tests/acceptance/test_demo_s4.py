"""Scenario S4 on the whole product: a poisoned cache, with the control plane allowed to act and with its hands tied."""

from pathlib import Path

import pytest

from tests.support import demo

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(demo.seconds_for(1) + 30)]
# From when the condition can be scraped; two scrapes and the wait for a first audit come before that.
ACTED_WITHIN_SECONDS = 20.0


def test_a_poisoned_cache_is_noticed_flushed_and_verified(tmp_path: Path):
    """At 0 s the cache of node-1 is poisoned; by 15 s an incident; by 20 s a flush; then right answers and a verdict."""
    played = demo.play(tmp_path, "S4", mode="auto")
    scenario = played.scenarios["S4"]
    assert played.status == 0, played.shown
    assert (played.mode, scenario["verdict"]) == ("auto", "recovered"), played.shown
    assert scenario["opened_by"] == "alert:CacheAnswersWrong", played.shown
    assert scenario["detected_s"] < scenario["acted_s"] <= ACTED_WITHIN_SECONDS, played.shown
    assert scenario["before"]["error_ratio"] == 0.0, played.shown
    assert scenario["during"]["error_ratio"] > 0.2, played.shown
    assert scenario["after"]["error_ratio"] <= 0.005, played.shown
    assert len(scenario["runs"]) == 1, played.shown


@pytest.mark.slow
@pytest.mark.timeout(demo.seconds_for(len(demo.IDS)) + 30)
def test_with_its_hands_tied_it_notices_and_the_trouble_stays(observe: demo.Played):
    """In observe mode the incident is opened, nothing acts, and wrong answers go on until the end of the window."""
    scenario = observe.scenarios["S4"]
    assert (scenario["verdict"], scenario["acted_s"]) == ("not_recovered", None), observe.shown
    assert scenario["opened_by"] == "alert:CacheAnswersWrong", observe.shown
    assert scenario["after"]["error_ratio"] > 0.2, observe.shown
    assert scenario["runs"] == [], observe.shown
