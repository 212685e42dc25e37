"""The forecast without Prophet: its shape is given as values, so that what is around it can be tested in no time."""

import dataclasses
import datetime as dt
import math
import pickle
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain import forecasts, services, windows
from detectors import event_segments, forecast, members, prophet_shape, rates

STEP = 300
DAY = 86_400
START = dt.datetime(2026, 3, 2, tzinfo=dt.UTC).timestamp()


def series(values: Sequence[float | None], step: int = STEP) -> windows.Series:
    """Bins from START on; None is a hole."""
    known = [(START + n * step, float(value)) for n, value in enumerate(values) if value is not None]
    return windows.Series(tuple(at for at, _ in known), tuple(value for _, value in known))


def asked(history: windows.Series, **changes) -> forecast.FitRequest:
    end = (history.times[-1] if history.times else START) + STEP
    request = forecast.FitRequest(
        "chat", history, STEP, horizon_steps=12, lead_seconds=900.0, now=dt.datetime.fromtimestamp(end, dt.UTC)
    )
    return dataclasses.replace(request, **changes)


def shape(log_rate: Callable[[np.ndarray], np.ndarray], days: float = 5.0) -> prophet_shape.Shape:
    times = START + np.arange(0, days * DAY, STEP)
    return prophet_shape.Shape(START, STEP, log_rate(times))


def flat(times: np.ndarray) -> np.ndarray:
    return np.full(len(times), math.log(10.0))


def waves(times: np.ndarray) -> np.ndarray:
    return np.log(20.0 + 15.0 * np.sin(2 * np.pi * times / DAY))


def learned(request: forecast.FitRequest, log_rate=flat) -> forecast.Fitted:
    parted = forecast.split(request)
    assert isinstance(parted, forecast.Split), parted
    fitted = forecast.learn(request, parted, shape(log_rate), shape(log_rate))
    assert isinstance(fitted, forecast.Fitted), fitted
    return fitted


def made(fitted: forecast.Fitted, newest: windows.Series, now: dt.datetime | None = None) -> forecasts.Forecast:
    answer = forecast.forecast(fitted, newest, now or fitted.fitted_at)
    assert isinstance(answer, forecasts.Forecast), answer
    return answer


def poisson(rate: np.ndarray, seed: int = 1) -> list[float]:
    return (np.random.default_rng(seed).poisson(rate * STEP) / STEP).tolist()


@pytest.fixture(scope="module")
def wavy() -> tuple[forecast.Fitted, windows.Series]:
    """Three days that follow their shape, with the noise of single requests."""
    times = START + np.arange(0, 3 * DAY, STEP)
    history = series(poisson(np.exp(waves(times))))
    return learned(asked(history), waves), history


def test_a_known_shape_is_foretold_better_than_by_repeating(wavy):
    """Half of the day the rate climbs and falls; the shape knows, the last value does not."""
    fitted, _ = wavy
    assert fitted.accuracy.wape < 0.5 * fitted.accuracy.wape_last_value
    assert fitted.accuracy.wape < fitted.accuracy.wape_seasonal_naive
    assert 0.65 <= fitted.accuracy.coverage <= 0.92
    assert abs(fitted.accuracy.bias) < 0.05


def test_the_level_is_corrected_by_the_newest_arrivals(wavy):
    """Twice as much as the shape says for an hour, and the next hour is foretold twice as high, not as usual."""
    fitted, history = wavy
    end = history.times[-1] + STEP
    surge = np.exp(waves(end + np.arange(12) * STEP)) * 2.0
    newest = windows.Series(tuple((end + np.arange(12) * STEP).tolist()), tuple(surge.tolist()))
    later = dt.datetime.fromtimestamp(end + 12 * STEP, dt.UTC)
    usual = np.exp(waves(end + 12.5 * STEP + np.zeros(1)))[0]
    answer = made(fitted, newest, later)
    assert 1.6 * usual < answer.p50[0] < 2.4 * usual
    assert answer.start == end + 12 * STEP


def test_the_last_value_is_always_a_member(wavy):
    """Its weight is told with the others', which add up to one."""
    fitted, history = wavy
    weights = made(fitted, history).weights
    assert weights[members.LAST] > 0
    assert sum(weights.values()) == pytest.approx(1.0)
    assert set(weights) == {
        members.SHAPE, members.CHANGE, members.SMOOTHER, members.TREES, members.NEIGHBOURS, members.SEASONAL,
        members.LAST,
    }  # fmt: skip


def test_yesterday_is_no_member_before_the_second_day_is_over():
    """With a day and a half, same time yesterday cannot be judged, and its error is not known."""
    fitted = learned(asked(series(poisson(np.full(432, 10.0)))))
    assert fitted.accuracy.wape_seasonal_naive is None
    assert members.SEASONAL not in made(fitted, series([])).weights
    assert forecast.same_time_yesterday(fitted, series([]), fitted.fitted_at.timestamp()) is None


def test_yesterday_is_told_to_whoever_keeps_score(wavy):
    """The bin a day before, and None where it lies in a hole or has not been."""
    fitted, history = wavy
    target = history.times[-1] + 3 * STEP
    expected = history.values[history.times.index(target - DAY)]
    assert forecast.same_time_yesterday(fitted, series([]), target) == expected
    assert forecast.same_time_yesterday(fitted, series([]), target + 2 * DAY) is None


def test_noise_around_a_constant_is_no_reason_to_move():
    """The forecast stays near the mean, and its error near what noise costs."""
    history = series(poisson(np.full(576, 10.0)))
    fitted = learned(asked(history))
    answer = made(fitted, history)
    assert all(abs(value - 10.0) < 0.5 for value in answer.p50)
    assert fitted.accuracy.wape < 1.05 * fitted.accuracy.wape_last_value


def test_holes_are_unknown_not_zero():
    """A hole of an hour each day leaves the forecast where it was."""
    values: list[float | None] = [
        None if n % 288 < 12 else value for n, value in enumerate(poisson(np.full(576, 10.0)))
    ]
    history = series(values)
    answer = made(learned(asked(history)), history)
    assert all(9.0 < value < 11.0 for value in answer.p50)
    assert min(answer.p10) > 8.0


def test_the_newest_bins_may_be_holes():
    """The forecast begins after the newest bin that is known, and says so."""
    values = poisson(np.full(300, 10.0))
    history = series([*values, None, None])
    fitted = learned(asked(series(values)))
    answer = made(fitted, history, fitted.fitted_at + dt.timedelta(seconds=2 * STEP))
    assert answer.start == START + 300 * STEP
    assert answer.last == values[-1]


def test_a_bin_that_is_not_over_is_left_out():
    """Half a bin has half of its requests: it must not look like a fall."""
    values = poisson(np.full(300, 10.0))
    fitted = learned(asked(series(values)))
    halfway = fitted.fitted_at + dt.timedelta(seconds=STEP / 2)
    assert made(fitted, series([*values, 0.5]), halfway).last == values[-1]
    assert made(fitted, series([*values, 0.5]), halfway + dt.timedelta(seconds=STEP / 2)).last == 0.5


@pytest.mark.parametrize(("late_steps", "is_stale"), [(3, False), (3.01, True)])
def test_old_arrivals_foretell_nothing(late_steps, is_stale):
    """Three bins late are allowed, more are not."""
    history = series(poisson(np.full(300, 10.0)))
    fitted = learned(asked(history))
    answer = forecast.forecast(fitted, history, fitted.fitted_at + dt.timedelta(seconds=late_steps * STEP))
    assert isinstance(answer, forecasts.NoForecast) is is_stale
    if isinstance(answer, forecasts.NoForecast):
        assert answer.reason is forecasts.NoForecastReason.STALE
        assert "903 s old, at most 900 s help" in answer.detail


def test_a_shape_that_has_ended_foretells_nothing():
    """A fit serves until its shape ends; then somebody must have failed to refit."""
    values = poisson(np.full(288, 10.0))
    fitted = learned(asked(series(values)))
    ended = dataclasses.replace(fitted, shape=shape(flat, days=1.0))
    answer = forecast.forecast(ended, series(values), fitted.fitted_at)
    assert isinstance(answer, forecasts.NoForecast)
    assert answer.reason is forecasts.NoForecastReason.NOT_FITTED


@pytest.mark.parametrize(
    ("history", "reason", "says"),
    [
        (series([]), forecasts.NoForecastReason.TOO_SHORT, "0 h of arrivals"),
        (series([1.0] * 23), forecasts.NoForecastReason.TOO_SHORT, "1.92 h of arrivals are known, at least 2 h"),
        (series([1.0] * 24), forecasts.NoForecastReason.TOO_SHORT, "8 bins can be held out, 11 are needed"),
        (series([1.0, *[None] * 98, 1.0]), forecasts.NoForecastReason.TOO_MANY_HOLES, "98% of the bins"),
        (series([*[1.0] * 95, *[None] * 30, 1.0]), forecasts.NoForecastReason.TOO_MANY_HOLES, "of the bins"),
    ],
)
def test_too_little_history_is_said(history, reason, says):
    """With what is missing."""
    answer = forecast.split(asked(history))
    assert isinstance(answer, forecasts.NoForecast)
    assert answer.reason is reason
    assert says in answer.detail


def test_a_service_without_requests_is_foretold_none():
    """Zero is a value; nothing divides by it."""
    history = series([0.0] * 288)
    answer = made(learned(asked(history), lambda times: np.full(len(times), math.log(1e-9))), history)
    assert max(answer.p90) < 1e-6


def test_a_fit_crosses_to_another_process(wavy):
    """Plain values only, and the copy foretells the same."""
    fitted, history = wavy
    copy = pickle.loads(pickle.dumps(fitted))  # noqa: S301  # our own
    assert made(copy, history) == made(fitted, history)


def test_where_an_event_is_on_the_last_value_counts_little():
    """Members are weighed apart where an event begins or ends before the target: there the shape is right."""
    event = services.CalendarEvent("sale", at_seconds=12 * 3600, duration_seconds=1800)
    parts = event_segments.cut(event, STEP)
    known = dataclasses.replace(shape(flat), effects=(prophet_shape.Effect(parts, (math.log(4.0),) * parts.count),))
    times = START + (np.arange(4 * 288, dtype=np.float64) + 0.5) * STEP
    rate = 10.0 * np.exp(known.events_at(times))
    history = series(poisson(rate)[: 3 * 288 + 144])
    request = asked(history, events=(event,), lead_seconds=300.0)
    parted = forecast.split(request)
    assert isinstance(parted, forecast.Split)
    fitted = forecast.learn(request, parted, known, known)
    assert isinstance(fitted, forecast.Fitted)
    answer = made(fitted, history)
    assert answer.last < 15
    assert all(value > 32 for value in answer.p90[:6])
    assert all(35 < value < 45 for value in answer.p50[:6])
    assert all(value < 15 for value in answer.p50[7:])
    assert answer.weights[members.LAST] < 0.1


@given(
    values=st.lists(
        st.one_of(st.none(), st.floats(0, 1e6), st.just(0.0), st.integers(0, 5).map(float)), min_size=40, max_size=90
    ),
    level=st.floats(-5, 10),
)
@settings(max_examples=20)
def test_bounds_are_in_order_finite_and_never_below_zero(values, level):
    """For any history that is accepted at all, whatever its shape."""
    request = asked(series([1.0, *values]))
    parted = forecast.split(request)
    if isinstance(parted, forecasts.NoForecast):
        return
    given_shape = shape(lambda times: np.full(len(times), level))
    fitted = forecast.learn(request, parted, given_shape, given_shape)
    if isinstance(fitted, forecasts.NoForecast):
        return
    answer = made(fitted, request.history)
    assert len(answer.p10) == len(answer.p50) == len(answer.p90) == 12
    for low, middle, high in zip(answer.p10, answer.p50, answer.p90, strict=True):
        assert 0.0 <= low <= middle <= high < math.inf
    assert answer.start == request.history.times[-1] + STEP


def test_the_lead_is_the_step_that_ends_no_sooner():
    """A cold start of 900 s is three bins of five minutes, 901 s are four; the horizon is the limit."""
    leads = [asked(series([1.0]), lead_seconds=one).lead_steps for one in (1, 300, 900, 901, 99_999)]
    assert leads == [1, 1, 3, 4, 12]


def test_a_long_history_is_cut():
    """Five weeks are not better than four."""
    step = 3600
    parted = forecast.split(asked(series([1.0] * 24 * 35, step=step), step_seconds=float(step)))
    assert isinstance(parted, forecast.Split)
    assert len(parted.seen.values) == 28 * 24
    assert parted.seen.end == START + 35 * DAY
    assert parted.num_held == 24
    assert isinstance(parted.before, rates.Grid)
