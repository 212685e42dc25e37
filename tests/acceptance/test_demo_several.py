"""Several scenarios one after the other on one fleet: each starts from rest, whatever the one before has done."""

from pathlib import Path

import pytest

from tests.support import demo

IDS = ("S1", "S2", "S3", "S4", "S5")
pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(demo.seconds_for(len(IDS)) + 30)]


@pytest.mark.parametrize(("mode", "verdict"), [("auto", "recovered"), ("observe", "not_recovered")])
def test_all_end_as_they_should_on_one_fleet(tmp_path: Path, mode: str, verdict: str):
    """In auto mode all recover; in observe mode none does, and none hands its trouble on to the next."""
    played = demo.play(tmp_path, *IDS, mode=mode)
    assert played.status == 0, played.shown
    assert played.mode == mode, played.shown
    assert {name: one["verdict"] for name, one in played.scenarios.items()} == dict.fromkeys(IDS, verdict), played.shown
    assert played.scenarios["S5"]["opened_by"] == "isolation_forest", played.shown
    for scenario in played.scenarios.values():
        assert scenario["complaints"] == [], played.shown
        assert scenario["before"]["error_ratio"] == 0.0, played.shown
