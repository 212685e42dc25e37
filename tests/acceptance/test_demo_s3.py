"""Scenario S3 on the whole product: a node leaks memory; its limit is foretold, and it is restarted before it dies."""

from pathlib import Path

import pytest

from tests.support import demo

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(demo.seconds_for(1) + 30)]


def test_a_leaking_node_is_restarted_before_it_dies(tmp_path: Path):
    """The detector tells the time to the limit; the node is looked into, taken out, restarted and returned; nobody errs."""
    played = demo.play(tmp_path, "S3", mode="auto")
    scenario = played.scenarios["S3"]
    assert played.status == 0, played.shown
    assert (scenario["verdict"], scenario["opened_by"]) == ("recovered", "leak"), played.shown
    assert scenario["detected_s"] < scenario["acted_s"] < 60, played.shown
    assert scenario["during"]["error_ratio"] <= 0.01, played.shown
    assert scenario["after"]["error_ratio"] <= 0.01, played.shown


def test_with_its_hands_tied_the_node_dies_of_it(tmp_path: Path):
    """In observe mode the same incident is opened, nothing acts, and clients feel that a node is missing."""
    played = demo.play(tmp_path, "S3", mode="observe")
    scenario = played.scenarios["S3"]
    assert played.status == 0, played.shown
    assert (scenario["verdict"], scenario["opened_by"]) == ("not_recovered", "leak"), played.shown
    assert (scenario["acted_s"], scenario["runs"]) == (None, []), played.shown
