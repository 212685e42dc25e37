"""The shape of a service's arrivals: trend, day, week, and what calendar events do, in logs. Fitted by Prophet.

Called by the forecast inside its worker process: a fit starts a child process and takes some tenths of a second. The
fitted shape is plain values, with no Prophet in them. It is never used alone: it knows nothing of the newest arrivals,
and repeating the last value is better than it on most services. It is corrected and weighed by the rooms around it.

The settings were measured on 14 series of requests (error over last value, 15 minutes ahead: 1.85 with Prophet's
defaults, 1.55 with these). Wall-clock time, so that a day is a day. Bins of five minutes, or longer ones for a longer
history, because a shape needs no more; around calendar events bins as short as the data has, so that a step at an exact
minute stays a step. Works badly on services that are switched on and off at random, and where a day has no pattern.
"""

import contextlib
import logging
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from controlplane.domain import services
from detectors import event_segments, rates

if TYPE_CHECKING:
    import pandas as pd

_NUM_CHANGEPOINTS = 10
_CHANGEPOINT_PRIOR = 0.02
_DAILY_ORDER = 12
_WEEKLY_ORDER = 3
_DAILY_AFTER_DAYS = 2.0
_WEEKLY_AFTER_DAYS = 14.0
# Twelve waves a day need no shorter bins than this, and a fit of this many rows takes 0.1 to 0.3 s.
_SHORTEST_BIN_SECONDS = 300.0
_NUM_ROWS = 2100
# An effect of an event is believed when it was seen this often.
_MIN_OCCURRENCES = 2
# As wide as the largest deviation of the history: wide enough to leave an effect as it is.
_EVENT_PRIOR = 1.0
_SEED = 1
# Stan's search ends well before its own limits change anything that can be seen (a hundredth of the shape's spread),
# and with the default ones it sometimes fails at the very end. The second try is coarser; Newton would take minutes.
_TRIES = ({"tol_rel_obj": 1e7, "history_size": 20}, {"tol_rel_obj": 1e9, "history_size": 5})


@dataclass(frozen=True, slots=True)
class Effect:
    """What an event adds to the log of the rate, in each of its segments."""

    parts: event_segments.Segments
    added: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """The smooth part is known at `start` + i * `step` (Unix seconds) and straight in between."""

    start: float
    step: float
    smooth: rates.Floats
    effects: tuple[Effect, ...] = ()

    @property
    def end(self) -> float:
        """Until when it is known."""
        return self.start + (len(self.smooth) - 1) * self.step

    def smooth_at(self, times: rates.Floats) -> rates.Floats:
        """Return the log of the rate at ascending `times`, without events."""
        return np.interp(times, self.start + np.arange(len(self.smooth)) * self.step, self.smooth)

    def events_at(self, times: rates.Floats) -> rates.Floats:
        """Return what events add to the log of the rate at ascending `times`."""
        added = np.zeros(len(times))
        for effect in self.effects:
            added += np.array([*effect.added, 0.0])[event_segments.places(effect.parts, times)]
        return added


@dataclass(frozen=True, slots=True)
class _Rows:
    """What Prophet is given: times (Unix seconds), logs of rates, and the segment of each event (rows, events)."""

    times: rates.Floats
    logs: rates.Floats
    places: rates.Numbers


def load() -> Any:
    """Import Prophet, which takes seconds, and keep it quiet: it reports its search on standard error."""
    for name in ("prophet", "cmdstanpy", "matplotlib"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("cmdstanpy").disabled = True
    with _quiet():
        import prophet

    return prophet.Prophet


def fit(seen: rates.Grid, offset: float, events: Sequence[services.CalendarEvent], until: float) -> Shape:
    """Return the shape of log(rate + `offset`), known from the grid's start to `until` (Unix seconds).

    Raises RuntimeError when Stan finds no solution. Blocks for some tenths of a second.
    """
    days = len(seen.values) * seen.step / rates.DAY_SECONDS
    per_bin = max(1, int(np.ceil(max(_SHORTEST_BIN_SECONDS, days * rates.DAY_SECONDS / _NUM_ROWS) / seen.step)))
    parts = [event_segments.cut(event, seen.step) for event in events]
    rows = _rows(seen, offset, parts, per_bin)
    middle = float(rows.logs.mean())
    columns = _columns(seen, parts, rows)
    model = _fitted(days, rows, middle, columns)
    step = per_bin * seen.step
    times = seen.start + np.arange(int(np.ceil((until - seen.start) / step)) + 1, dtype=np.float64) * step
    foretold = _foretold(model, times, columns) + middle
    smooth = foretold[: len(times)]
    added = dict(zip(columns, foretold[len(times) :] - smooth[-1], strict=True))
    effects = tuple(
        Effect(one, tuple(float(added.get((number, k), 0.0)) for k in range(one.count)))
        for number, one in enumerate(parts)
    )
    return Shape(seen.start, step, smooth, tuple(one for one in effects if any(one.added)))


def _rows(seen: rates.Grid, offset: float, parts: Sequence[event_segments.Segments], per_bin: int) -> _Rows:
    """Average `per_bin` bins into one row, except where events change within a row: there each bin is a row."""
    times = seen.middles()
    places = np.stack([event_segments.places(one, times) for one in parts], axis=1) if parts else _no_places(times)
    coarse = np.arange(len(times)) // per_bin
    first = np.minimum(coarse * per_bin, len(times) - 1)
    is_mixed = np.bincount(coarse, (places != places[first]).any(axis=1)) > 0
    row = np.unique(np.where(is_mixed[coarse], np.arange(len(times)), first), return_inverse=True)[1]
    known = ~np.isnan(seen.values)
    counts = np.bincount(row, known)
    kept = counts > 0
    sums, moments = np.bincount(row, np.where(known, seen.values, 0.0)), np.bincount(row, np.where(known, times, 0.0))
    begins = np.flatnonzero(np.diff(row, prepend=-1))
    number = np.maximum(counts, 1)
    return _Rows((moments / number)[kept], np.log((sums / number)[kept] + offset), places[begins][kept])


def _no_places(times: rates.Floats) -> rates.Numbers:
    return np.empty((len(times), 0), dtype=np.int64)


def _columns(seen: rates.Grid, parts: Sequence[event_segments.Segments], rows: _Rows) -> dict[tuple[int, int], str]:
    """Return a name for each (event, segment) that was seen often enough."""
    names: dict[tuple[int, int], str] = {}
    for number, one in enumerate(parts):
        begun = np.array(event_segments.beginnings(one.event, seen.start - one.borders[-1], seen.end))
        occurrence = np.searchsorted(begun, rows.times, side="right")
        for k in range(one.count):
            if len(np.unique(occurrence[rows.places[:, number] == k])) >= _MIN_OCCURRENCES:
                names[number, k] = f"event_{number}_{k}"
    return names


def _fitted(days: float, rows: _Rows, middle: float, columns: dict[tuple[int, int], str]) -> Any:
    for settings in _TRIES[:-1]:
        try:
            return _try(days, rows, middle, columns, settings)
        except RuntimeError:  # Stan's line search gave up close to the solution: a coarser end is reached before that
            continue
    return _try(days, rows, middle, columns, _TRIES[-1])


def _try(
    days: float, rows: _Rows, middle: float, columns: dict[tuple[int, int], str], settings: dict[str, float]
) -> Any:
    model = load()(
        n_changepoints=_NUM_CHANGEPOINTS,
        changepoint_prior_scale=_CHANGEPOINT_PRIOR,
        daily_seasonality=_DAILY_ORDER if days >= _DAILY_AFTER_DAYS else False,
        weekly_seasonality=_WEEKLY_ORDER if days >= _WEEKLY_AFTER_DAYS else False,
        yearly_seasonality=False,
        uncertainty_samples=0,
    )
    model.stan_backend.set_options(newton_fallback=False)
    for name in columns.values():
        model.add_regressor(name, prior_scale=_EVENT_PRIOR, standardize=False)
    frame = _frame(rows.times, {name: rows.places[:, event] == k for (event, k), name in columns.items()})
    frame["y"] = rows.logs - middle
    with _quiet():
        model.fit(frame, seed=_SEED, algorithm="LBFGS", **settings)
    return model


def _foretold(model: Any, times: rates.Floats, columns: dict[tuple[int, int], str]) -> rates.Floats:
    """Return the model's value at `times` without events, then at the last of them with each segment alone."""
    rows = np.concatenate([times, np.full(len(columns), times[-1])])
    alone = len(times) + np.arange(len(columns))
    where = np.arange(len(rows))
    frame = _frame(rows, {name: where == at for name, at in zip(columns.values(), alone, strict=True)})
    # Prophet sorts its rows by time and keeps the order of equal times, so the added rows stay last.
    with _quiet():
        answer = model.predict(frame)
    return np.asarray(answer["yhat"], dtype=np.float64)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Drop warnings: they are Prophet's, about how it calls pandas."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _frame(times: rates.Floats, flags: dict[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    stamps = np.round(times).astype("datetime64[s]")
    return pd.DataFrame({"ds": stamps, **{name: np.asarray(one, dtype=np.float64) for name, one in flags.items()}})
