"""All scenarios one after the other on one fleet: each starts from rest, whatever the one before has done."""

import pytest

from tests.support import demo

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(demo.seconds_for(len(demo.IDS)) + 30)]
# From the first request of a client to the last look at the fleet; installing packages comes on top of it.
TEN_MINUTES = 600.0


@pytest.mark.parametrize(("mode", "verdict"), [("auto", "recovered"), ("observe", "not_recovered")])
def test_all_end_as_they_should_on_one_fleet(request: pytest.FixtureRequest, mode: str, verdict: str):
    """In auto mode all recover; in observe mode none does, and none hands its trouble on to the next."""
    played: demo.Played = request.getfixturevalue(mode)
    assert played.status == 0, played.shown
    assert played.mode == mode, played.shown
    assert {name: one["verdict"] for name, one in played.scenarios.items()} == dict.fromkeys(demo.IDS, verdict), (
        played.shown
    )
    for scenario in played.scenarios.values():
        assert scenario["complaints"] == [], played.shown
        assert scenario["before"]["error_ratio"] == 0.0, played.shown


def test_the_main_job_takes_less_than_ten_minutes(auto: demo.Played):
    """Whoever tries the product waits no longer than that for all of it."""
    assert auto.seconds < TEN_MINUTES, auto.shown
