"""Forecasts fitted by the real Prophet: an event at an exact minute, noise, and fits that hang or die."""

import asyncio
import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import psutil
import pytest

from controlplane.capacity import gate
from controlplane.domain import errors, forecasts, services, windows
from controlplane.wiring import fits
from detectors import forecast
from tests.support import fits as bad_fits

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

STEP = 60
DAY = 86_400
# A Monday, midnight in UTC; New York opens at 9:30, which is 14:30 UTC before the clocks change there.
START = dt.datetime(2026, 2, 2, tzinfo=dt.UTC)
OPENING = services.CalendarEvent(
    "opening", at_seconds=9 * 3600 + 30 * 60, duration_seconds=1200, timezone="America/New_York"
)
OPENS = 14 * 3600 + 30 * 60
MARKET = (OPENING,)


def arrivals(days: float, rate: Callable[[np.ndarray], np.ndarray], seed: int = 1) -> windows.Series:
    """Poisson arrivals in bins of a minute; `rate` takes seconds since the start."""
    since = np.arange(0, round(days * DAY), STEP)
    counts = np.random.default_rng(seed).poisson(rate(since.astype(float)) * STEP)
    times = START.timestamp() + since
    return windows.Series(tuple(times.tolist()), tuple((counts / STEP).tolist()))


def opening_lifts(since: np.ndarray) -> np.ndarray:
    return np.where((since % DAY >= OPENS) & (since % DAY < OPENS + 1200), 40.0, 10.0)


def request(history: windows.Series, *, lead: float = 120.0, name: str = "chat", events=()) -> forecast.FitRequest:
    now = dt.datetime.fromtimestamp(history.times[-1] + STEP, dt.UTC)
    return forecast.FitRequest(name, history, STEP, 60, lead, now, events=events, refit_seconds=DAY)


def known_until(series: windows.Series, end: float) -> windows.Series:
    return series.between(end - 10_800, end)


def fit(asked: forecast.FitRequest) -> forecast.Fitted:
    fitted = forecast.fit(asked)
    assert isinstance(fitted, forecast.Fitted), fitted
    return fitted


def foretell(fitted: forecast.Fitted, newest: windows.Series, now: dt.datetime) -> forecasts.Forecast:
    made = forecast.forecast(fitted, newest, now)
    assert isinstance(made, forecasts.Forecast), made
    return made


def test_a_step_at_an_exact_minute_is_foretold_while_nothing_shows_it():
    """At 60 and at 120 s before the market opens its load is in the bounds, though the newest value is the quiet one."""
    five_days = arrivals(5, opening_lifts)
    midnight = START.timestamp() + 4 * DAY
    fitted = fit(request(five_days.between(0, midnight), events=MARKET))
    opens = midnight + OPENS
    for ahead in (60, 120):
        made = foretell(
            fitted, known_until(five_days, opens - ahead), dt.datetime.fromtimestamp(opens - ahead + 5, dt.UTC)
        )
        step = ahead // STEP
        assert made.start + step * STEP == opens
        assert made.last < 14
        assert made.p90[step] > 30
        assert made.p90[step - 1] < 20
        assert gate.gate(made, None).is_open, gate.gate(made, None)


def test_the_end_of_the_event_is_foretold_too():
    """One minute before it ends the load of the next minutes is the quiet one."""
    five_days = arrivals(5, opening_lifts)
    midnight = START.timestamp() + 4 * DAY
    fitted = fit(request(five_days.between(0, midnight), events=MARKET))
    ends = midnight + OPENS + 1200
    made = foretell(fitted, known_until(five_days, ends), dt.datetime.fromtimestamp(ends, dt.UTC))
    assert made.last > 30
    assert made.p50[1] < 15


def test_noise_around_a_constant_does_no_harm():
    """Nothing can be learned from noise but its level: the error is never more than 5 % above the last value's."""
    history = arrivals(4, lambda since: np.full(len(since), 10.0))
    fitted = fit(request(history, lead=900.0))
    made = foretell(fitted, known_until(history, history.times[-1] + 1), fitted.fitted_at)
    is_open = gate.gate(made, None).is_open
    assert not is_open or fitted.accuracy.wape <= 1.05 * fitted.accuracy.wape_last_value
    assert 9 < min(made.p50) <= max(made.p50) < 11
    assert max(made.p90) < 13


def test_a_random_walk_closes_the_gate_or_is_followed():
    """Where the next step is a coin's, the forecast stays with the last value."""
    steps = np.random.default_rng(3).normal(0, 0.03, 3 * 1440).cumsum()
    history = arrivals(3, lambda _: 50.0 * np.exp(steps - steps.mean()))
    fitted = fit(request(history, lead=900.0))
    assert fitted.accuracy.wape < 1.05 * fitted.accuracy.wape_last_value


def test_a_short_history_has_no_days():
    """Three hours are enough for a forecast, which then knows nothing of yesterday."""
    history = arrivals(0.125, lambda since: 10.0 + since / 3600)
    fitted = fit(request(history, lead=300.0))
    assert fitted.accuracy.wape_seasonal_naive is None
    made = foretell(fitted, history, fitted.fitted_at)
    assert 11 < made.p50[0] < 15


async def test_a_fit_comes_back_from_the_worker(others: set[psutil.Process]):
    """What was learned crosses the process border, and the next fit finds the worker warm."""
    pool = fits.FitPool()
    try:
        history = arrivals(1, lambda since: 10.0 + 5.0 * np.sin(since / DAY * 6.28))
        for _ in range(2):
            fitted = await pool.fit(request(history))
            assert isinstance(fitted, forecast.Fitted), fitted
            assert isinstance(forecast.forecast(fitted, history, fitted.fitted_at), forecasts.Forecast)
    finally:
        await pool.close()
    assert children() <= others


async def test_a_fit_that_hangs_is_killed_with_its_child(others: set[psutil.Process]):
    """The deadline ends the worker and what it started; the next fit is answered by a new worker."""
    pool, name = fits.FitPool(deadline_seconds=2.0, work=bad_fits.hang), f"hangs-{os.getpid()}"
    try:
        with pytest.raises(errors.RetryLaterError, match="within 2 s"):
            await pool.fit(nothing(name))
        assert left_behind(name) == []
        answer = await pool.fit(nothing("answers"))
        assert isinstance(answer, forecasts.NoForecast)
    finally:
        await pool.close()
    assert children() <= others


async def test_a_worker_that_dies_leaves_nothing_behind(others: set[psutil.Process]):
    """The kernel may kill the worker: the caller is told to come back, and the worker's child ends too."""
    pool, name = fits.FitPool(deadline_seconds=30.0, work=bad_fits.die), f"dies-{os.getpid()}"
    try:
        with pytest.raises(errors.RetryLaterError, match="died"):
            await pool.fit(nothing(name))
        assert left_behind(name) == []
    finally:
        await pool.close()
    assert children() <= others


async def test_closing_kills_a_fit_in_progress(others: set[psutil.Process]):
    """Stopping does not wait for the deadline."""
    pool, name = fits.FitPool(deadline_seconds=100.0, work=bad_fits.hang), f"stops-{os.getpid()}"
    fitting = asyncio.create_task(pool.fit(nothing(name)), name="fitting")
    async with asyncio.timeout(60):
        while not running(name):
            await asyncio.to_thread(psutil.cpu_percent, 0.05)
        await pool.close()
    with pytest.raises(errors.RetryLaterError):
        await fitting
    assert left_behind(name) == []
    assert children() <= others


@pytest.mark.timeout(90)
def test_a_fit_ends_with_the_service(others: set[psutil.Process]):
    """After kill -9 of the service neither its worker nor what that started goes on computing."""
    name = f"orphan-{os.getpid()}"
    with subprocess.Popen([sys.executable, "-m", "tests.support.fits", name]) as service:
        while not running(name):
            psutil.cpu_percent(0.05)
        worker = running(name)[0].parent()
        service.kill()
    assert left_behind(name) == []
    assert worker is not None
    assert psutil.wait_procs([worker], timeout=5)[1] == []
    assert children() <= others


async def test_a_closed_pool_fits_nothing():
    """Stopping is final, and may be asked for twice."""
    pool = fits.FitPool()
    await pool.close()
    await pool.close()
    with pytest.raises(errors.RetryLaterError, match="stopping"):
        await pool.fit(nothing("chat"))


def nothing(name: str) -> forecast.FitRequest:
    return request(windows.Series((0.0,), (1.0,)), name=name)


def children() -> set[psutil.Process]:
    """Return what this process has started and still runs, except multiprocessing's own keeper of semaphores."""
    found = psutil.Process().children(recursive=True)
    return {one for one in found if "resource_tracker" not in " ".join(one.cmdline())}


@pytest.fixture
def others() -> set[psutil.Process]:
    """What runs before the test: servers of other tests in this process."""
    return children()


def running(name: str) -> list[psutil.Process]:
    """Return the children of workers that carry the name, whoever their parent is by now."""
    return [one for one in psutil.process_iter(["cmdline"]) if f"# {name}" in " ".join(one.info["cmdline"] or ())]


def left_behind(name: str) -> list[psutil.Process]:
    """Return those that do not end by themselves at once."""
    return psutil.wait_procs(running(name), timeout=5)[1]
