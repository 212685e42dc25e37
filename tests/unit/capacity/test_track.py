"""Keeping score of forecasts that were made: when a promise counts, against what, and how much is remembered."""

import pytest

from controlplane.capacity import track
from controlplane.domain import windows
from tests.support import foretold as samples

STEP = samples.STEP


def kept(
    *, count: int, foretold: float = 12.0, last: float = 15.0, yesterday: float | None = 20.0, arrived: float = 10.0
) -> track.Track:
    """As many promises, all of them come true with `arrived`."""
    score = track.Track()
    for number in range(count):
        one = track.Promise(number * STEP, 900.0, 8.0, foretold, 11.0, last, yesterday)
        score = score.promised(one)
        score = score.observed(windows.Series((number * STEP,), (arrived,)))
    return score


def skill(score: track.Track) -> track.LiveSkill:
    found = score.skill()
    assert found is not None
    return found


def test_a_promise_is_of_the_bin_that_ends_one_lead_ahead():
    """The lead is rounded up to whole steps, and ends with the horizon."""
    forecast = samples.forecast(p50=(1.0, 2.0, 3.0))
    found = [track.promise(forecast, lead, None) for lead in (1.0, STEP, STEP + 1, 99 * STEP)]
    assert [one.p50 for one in found] == [1.0, 1.0, 2.0, 3.0]
    assert [one.target - forecast.start for one in found] == [0.0, 0.0, STEP, 2 * STEP]
    assert [one.lead_seconds for one in found] == [STEP, STEP, 2 * STEP, 3 * STEP]


def test_one_promise_for_each_bin():
    """The tick is faster than the bins: the first promise of a bin counts, made the full lead ahead."""
    first = track.Promise(600.0, 900.0, 1.0, 2.0, 3.0, 2.0)
    second = track.Promise(600.0, 900.0, 7.0, 8.0, 9.0, 8.0)
    score = track.Track().promised(first).promised(second)
    assert score.pending == (first,)
    came = score.observed(windows.Series((600.0,), (2.0,)))
    assert came.promised(second).pending == ()


def test_nothing_is_said_before_enough_came_true():
    """One bin less than needed, and one more."""
    assert kept(count=track.MIN_SCORED - 1).skill() is None
    assert kept(count=track.MIN_SCORED).skill() is not None


def test_errors_are_compared_over_the_same_bins():
    """Of the forecast, of the last value when it was made, and of yesterday."""
    found = skill(kept(count=20))
    assert (found.wape, found.wape_last_value, found.wape_seasonal_naive) == pytest.approx((0.2, 0.5, 1.0))
    assert found.bias == pytest.approx(0.2)
    assert found.coverage == 1.0
    assert found.horizon_seconds == 900.0
    assert found.num_origins == 20


def test_an_unknown_yesterday_is_left_out_of_the_comparison():
    """A hole of yesterday costs its bin; before the second day there is nothing to compare with."""
    assert skill(kept(count=20, yesterday=None)).wape_seasonal_naive is None
    mixed = kept(count=30)
    hole = track.Scored(track.Promise(9999.0, 900.0, 8.0, 100.0, 11.0, 15.0, None), 10.0)
    found = skill(track.Track(scored=(*mixed.scored, hole)))
    assert found.num_origins == 30
    assert found.wape == pytest.approx(0.2)


def test_a_bin_that_stays_unknown_is_forgotten():
    """A hole is no zero: nobody can say who was right."""
    score = track.Track().promised(track.Promise(0.0, 900.0, 1.0, 2.0, 3.0, 2.0))
    waiting = score.observed(windows.Series((60.0, 3000.0), (1.0, 1.0)))
    assert len(waiting.pending) == 1
    assert waiting.observed(windows.Series((60.0, 3660.0), (1.0, 1.0))) == track.Track()


def test_memory_is_bounded():
    """Whatever is promised and whatever comes."""
    assert len(kept(count=track.MAX_SCORED + 50).scored) == track.MAX_SCORED
    score = track.Track()
    for number in range(track.MAX_PENDING + 50):
        score = score.promised(track.Promise(number * STEP, 900.0, 1.0, 2.0, 3.0, 2.0))
    assert len(score.pending) == track.MAX_PENDING


def test_no_arrivals_change_nothing():
    """An empty answer of the metrics store is no answer."""
    score = track.Track().promised(track.Promise(0.0, 900.0, 1.0, 2.0, 3.0, 2.0))
    assert score.observed(windows.Series((), ())) is score


def test_a_quiet_service_divides_by_nothing():
    """No requests foretold and none arrived is right."""
    found = skill(kept(count=20, foretold=0.0, arrived=0.0))
    assert found.wape == 0.0
    assert found.bias == 0.0
