"""Scenario S3 on the whole product: a node leaks memory; its limit is foretold, and it is restarted before it dies."""

import pytest

from tests.support import demo

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(demo.seconds_for(len(demo.IDS)) + 30)]


def test_a_leaking_node_is_restarted_before_it_dies(auto: demo.Played):
    """The detector tells the time to the limit; the node is looked into, taken out, restarted and returned; nobody errs."""
    scenario = auto.scenarios["S3"]
    assert (scenario["verdict"], scenario["opened_by"]) == ("recovered", "leak"), auto.shown
    assert scenario["detected_s"] < scenario["acted_s"] < 60, auto.shown
    assert scenario["during"]["error_ratio"] <= 0.01, auto.shown
    assert scenario["after"]["error_ratio"] <= 0.01, auto.shown


def test_with_its_hands_tied_the_node_dies_of_it(observe: demo.Played):
    """In observe mode the same incident is opened, nothing acts, and clients feel that a node is missing."""
    scenario = observe.scenarios["S3"]
    assert (scenario["verdict"], scenario["opened_by"]) == ("not_recovered", "leak"), observe.shown
    assert (scenario["acted_s"], scenario["runs"]) == (None, []), observe.shown
