"""What the forecast is made of: grids with holes, events on the calendar, regressions, trees, weights and bounds."""

import datetime as dt

import numpy as np
import pytest

from controlplane.domain import services, windows
from detectors import boosting, ensemble, event_segments, prophet_shape, rates, residuals

NAN = float("nan")
MARKET = services.CalendarEvent(
    "open", at_seconds=9 * 3600 + 1800, duration_seconds=600.0, days=(0, 1, 2, 3, 4), timezone="America/New_York"
)


def unix(*when: int) -> float:
    return dt.datetime(*when, tzinfo=dt.UTC).timestamp()  # type: ignore[arg-type]


def test_a_grid_keeps_holes():
    """Absent bins are unknown, and so is what no rate can be."""
    known = rates.grid(windows.Series((600.0, 660.0, 780.0, 840.0), (1.0, -2.0, 3.0, float("inf"))), 60.0)
    assert known.start == 600.0
    assert known.end == 900.0
    np.testing.assert_array_equal(known.values, [1.0, NAN, NAN, 3.0, NAN])
    np.testing.assert_array_equal(known.middles(1), [630.0, 690.0, 750.0, 810.0, 870.0, 930.0])


def test_newer_bins_are_put_in_their_places():
    """They replace what was known, leave holes between, and nothing goes before the start."""
    known = rates.Grid(600.0, 60.0, np.array([1.0, 2.0]))
    longer = known.extended(windows.Series((540.0, 660.0, 780.0), (9.0, 5.0, 7.0)))
    np.testing.assert_array_equal(longer.values, [1.0, 5.0, NAN, 7.0])
    np.testing.assert_array_equal(longer.last(120.0).values, [NAN, 7.0])
    assert longer.last(120.0).start == 720.0


def test_means_leave_holes_out():
    """A mean over known and unknown bins is the mean of the known ones."""
    values = np.array([NAN, 1.0, NAN, 3.0])
    np.testing.assert_array_equal(rates.trailing_mean(values, 3), [NAN, 1.0, 1.0, 2.0])
    np.testing.assert_allclose(rates.smoothed(values, 0.5, np.array([0, 1, 2, 3])), [NAN, 1.0, 1.0, (3 + 0.25) / 1.25])


def test_an_event_begins_by_its_own_clock():
    """9:30 in New York is 14:30 UTC in winter and 13:30 UTC in summer, and Saturday is no trading day."""
    winter = event_segments.beginnings(MARKET, unix(2026, 3, 5), unix(2026, 3, 8))
    summer = event_segments.beginnings(MARKET, unix(2026, 3, 9), unix(2026, 3, 10))
    assert winter == [unix(2026, 3, 5, 14, 30), unix(2026, 3, 6, 14, 30)]
    assert summer == [unix(2026, 3, 9, 13, 30)]


def test_segments_are_short_at_first():
    """Ten at the resolution of the data, then longer ones; together they are the event."""
    long = services.CalendarEvent("day", 0, 8 * 3600.0)
    borders = np.array(event_segments.cut(long, 60.0).borders)
    widths = np.diff(borders)
    assert (widths[:10] == 60.0).all()
    assert (widths[10:-1] > widths[9:-2]).all()
    assert borders[-1] == 8 * 3600.0
    assert len(widths) <= 24


def test_places_tell_how_far_an_event_has_got():
    """From its beginning on, until it ends."""
    parts = event_segments.cut(services.CalendarEvent("noon", 12 * 3600, 150.0), 60.0)
    noon = unix(2026, 3, 5, 12)
    times = noon + np.array([-30.0, 30.0, 90.0, 140.0, 160.0])
    assert event_segments.places(parts, times).tolist() == [-1, 0, 1, 1, -1]
    assert event_segments.changes((parts.event,), noon - 10, noon + 10) == [noon]


def test_a_shape_adds_events_where_they_are():
    """And is straight between its points."""
    parts = event_segments.cut(services.CalendarEvent("noon", 12 * 3600, 120.0), 60.0)
    noon = unix(2026, 3, 5, 12)
    known = prophet_shape.Shape(noon - 300, 600.0, np.array([1.0, 2.0]), (prophet_shape.Effect(parts, (0.5, 0.25)),))
    times = noon + np.array([-150.0, 30.0, 90.0])
    np.testing.assert_allclose(known.smooth_at(times), [1.25, 1.55, 1.65])
    np.testing.assert_allclose(known.events_at(times), [0.0, 0.5, 0.25])
    assert known.end == noon + 300


def test_a_regression_is_not_misled_by_bursts():
    """One row in twenty is a burst of a hundred times the noise."""
    chance = np.random.default_rng(1)
    rows = chance.normal(size=(1000, 2))
    wanted = rows @ [0.5, -0.2] + chance.normal(0, 0.05, 1000)
    wanted[::20] += 5.0
    wanted[7] = NAN
    np.testing.assert_allclose(residuals.regress(rows, wanted), [0.5, -0.2], atol=0.05)


def test_too_few_rows_teach_nothing():
    """Then the last value is repeated."""
    assert residuals.regress(np.ones((10, 3)), np.ones(10)).tolist() == [0.0, 0.0, 0.0]
    assert boosting.grow(np.ones((10, 3)), np.ones(10)).values(np.ones((4, 3))).tolist() == [0.0] * 4


def test_trees_learn_what_lines_cannot():
    """A product of two features, the same every time."""
    chance = np.random.default_rng(1)
    rows = chance.normal(size=(1500, 4))
    wanted = np.sign(rows[:, 0]) * np.sign(rows[:, 1]) + chance.normal(0, 0.1, 1500)
    grown = boosting.grow(rows[:1000], wanted[:1000])
    assert np.abs(wanted - grown.values(rows))[1000:].mean() < 0.5 * np.abs(wanted[1000:]).mean()
    again = boosting.grow(rows[:1000], wanted[:1000])
    assert (again.values(rows) == grown.values(rows)).all()


def pairs(said: np.ndarray, truth: np.ndarray, regimes: np.ndarray | None = None) -> ensemble.Pairs:
    names = tuple(f"member_{n}" for n in range(len(said) - 1))
    flags = np.zeros(truth.shape, dtype=np.int64) if regimes is None else regimes
    return ensemble.Pairs((*names, "last_value"), np.log(said), truth, flags, np.ones(len(truth), dtype=bool))


def test_the_better_member_counts_more():
    """By the fourth power of its error: half as wrong is sixteen times the weight."""
    truth = np.full((50, 2), 10.0)
    found = ensemble.tune(pairs(np.stack([truth + 1, truth + 2]), truth), ensemble.groups(2, 300.0), 0.0, 10.0)
    np.testing.assert_allclose(found.weights[:, 0, 0], [16 / 17, 1 / 17])


def test_what_is_no_better_than_the_last_value_gives_way_to_it():
    """Members that were lucky in one half and wrong in the other are not mixed in at all."""
    truth = np.full((80, 2), 10.0)
    turns = (np.arange(80) // 20 % 2 == 0)[:, np.newaxis]
    lucky = np.where(turns, 10.0, 20.0) * np.ones((80, 2))
    found = ensemble.tune(pairs(np.stack([lucky, truth + 1.0]), truth), ensemble.groups(2, 300.0), 0.0, 10.0)
    assert found.weights[:, 0, 0].tolist() == [0.0, 1.0]


def test_a_member_that_says_nothing_is_passed_over():
    """The others then carry its weight."""
    said = np.log(np.array([[[NAN, 4.0]], [[2.0, 1.0]]]))
    weights = np.full((2, 2, 4), 0.5)
    answer = ensemble.combine(said, weights, np.zeros((1, 2), dtype=np.int64), ensemble.groups(2, 300.0), 0.0)
    np.testing.assert_allclose(answer, [[2.0, 2.0]])


def test_bounds_hold_what_they_promise():
    """Of new values of the same kind four fifths lie inside, at a low rate and at a high one."""
    chance = np.random.default_rng(1)
    rate = np.repeat([[5.0], [50.0]], 200, axis=0) * np.ones((400, 3))
    truth, later = (chance.poisson(rate).astype(float) for _ in range(2))
    lead_groups = ensemble.groups(3, 300.0)
    found = ensemble.tune(pairs(np.stack([rate, rate]), truth), lead_groups, 0.0, 20.0)
    low, high = ensemble.bounds(rate, found, np.zeros(rate.shape, dtype=np.int64), lead_groups)
    inside = (later >= low) & (later <= high)
    assert 0.75 < inside[:200].mean() < 0.9
    assert 0.75 < inside[200:].mean() < 0.9


def test_accuracy_is_judged_at_the_lead_with_weights_of_the_other_half():
    """A member that is right in one half only cannot be chosen with hindsight."""
    truth = np.full((80, 2), 10.0)
    turns = (np.arange(80) // 20 % 2 == 0)[:, np.newaxis]
    lucky = np.where(turns, 10.0, 20.0) * np.ones((80, 2))
    judged = ensemble.judge(
        pairs(np.stack([lucky, truth + 1.0]), truth), ensemble.groups(2, 300.0), 0.0, 10.0,
        lead=2, step=300.0, seasonal="seasonal_naive",
    )  # fmt: skip
    assert judged.horizon_seconds == 600.0
    assert judged.num_origins == 80
    assert judged.wape_last_value == pytest.approx(0.1)
    assert judged.wape > 0.3
    assert judged.wape_seasonal_naive is None
