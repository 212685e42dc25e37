"""Foretells how many requests per second will arrive at a service: 10 %, 50 % and 90 % for each step of a horizon.

`fit` learns from the history, for seconds, in a worker process (`controlplane.wiring.fits`). `forecast` corrects what
was learned by the newest arrivals, in milliseconds, at every tick. Both are pure: no clock, no I/O, nothing kept. What
they hand over is plain values, so that a fit can cross to another process.

A fit holds the end of the history out: the shape and the members learn on the part before it, and what they would have
said at its origins decides how the members are weighed, how wide the bounds are, and what is reported as accuracy. Then
all of them learn again on everything. Nothing that reports accuracy has seen what it is judged on, except that the
held-out shape is up to a day older than the one in use, which makes the reported accuracy a little worse than the real.

Works badly: on random walks (it says so: its skill over the last value is then near zero, and the gate stays closed);
on events that no calendar names; in the first hours of a new level; on fewer than two days of history, where nothing is
known of days.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from controlplane.domain import forecasts, services, windows

if TYPE_CHECKING:
    from detectors import ensemble, members, prophet_shape, rates

# The least that anything can be learned from.
MIN_HISTORY_SECONDS = 7_200.0
MIN_HISTORY_BINS = 24
# More than half of the bins unknown, of all or of the held-out ones, is no history.
MAX_HOLES_RATIO = 0.5
# Older than this is no help: four weeks hold every pattern that is looked for.
MAX_HISTORY_SECONDS = 28 * 86_400.0
# Accuracy over fewer origins than this is an anecdote.
MIN_ORIGINS = 8
# The newest bin may be this many steps old.
MAX_AGE_STEPS = 3.0
# How far back `forecast` looks for lags: a week and the smoothers' reach.
_KEPT_SECONDS = 8 * 86_400.0
_HELD_OUT_SECONDS = 86_400.0
# Of a short history more is held out, since a quarter of two hours would judge nothing.
_SHORT_SECONDS = 2 * 86_400.0
_HELD_OUT_RATIO, _HELD_OUT_RATIO_SHORT = 0.25, 1.0 / 3.0
_NUM_ORIGINS = 144
# Events are too rare to be met by evenly spread origins: these are put beside their beginnings and ends, of a week.
_EVENT_SECONDS = 7 * 86_400.0
_NUM_EVENT_ORIGINS = 60
# Added to every rate before its log is taken, as a share of the mean: a bin without requests is then 3 below the usual.
_OFFSET_RATIO = 0.05
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class FitRequest:
    """What a fit needs. `history` holds mean requests per second in bins that begin at its times (Unix seconds).

    A hole is absent: unknown, never zero. `lead_seconds` is the cold start, where accuracy is judged. The fit must
    serve until the next one, `refit_seconds` later, and once more when that one fails.
    """

    service: str
    history: windows.Series
    step_seconds: float
    horizon_steps: int
    lead_seconds: float
    now: datetime
    events: tuple[services.CalendarEvent, ...] = ()
    refit_seconds: float = 3_600.0

    @property
    def lead_steps(self) -> int:
        """The step that ends one lead ahead, or just after; counted from 1."""
        return min(self.horizon_steps, max(1, math.ceil(self.lead_seconds / self.step_seconds - _TINY)))


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a fit has learned: values only, some hundred kilobytes. `seen` is the newest part of the history."""

    service: str
    fitted_at: datetime
    horizon_steps: int
    seen: "rates.Grid"
    shape: "prophet_shape.Shape"
    learned: "members.Learned"
    tuning: "ensemble.Tuning"
    accuracy: forecasts.Accuracy


@dataclass(frozen=True, slots=True)
class Split:
    """A history with what is held out of it: the last `num_held` bins. `until` is how far shapes have to reach."""

    seen: "rates.Grid"
    num_held: int
    offset: float
    until: float

    @property
    def before(self) -> "rates.Grid":
        """The part that may be learned from before the judging."""
        return self.seen.until(len(self.seen.values) - self.num_held)


def fit(request: FitRequest) -> Fitted | forecasts.NoForecast:
    """Learn from the history, for about half a second of CPU; starts a child process (Stan). See the module."""
    from detectors import prophet_shape

    parted = split(request)
    if isinstance(parted, forecasts.NoForecast):
        return parted
    try:
        before = prophet_shape.fit(parted.before, parted.offset, request.events, parted.until)
        whole = prophet_shape.fit(parted.seen, parted.offset, request.events, parted.until)
    except RuntimeError as error:
        return _declined(request, forecasts.NoForecastReason.FAILED, f"Prophet found no solution: {error}")
    return learn(request, parted, before, whole)


def split(request: FitRequest) -> Split | forecasts.NoForecast:
    """Put the history on its grid and hold the end out, or say why it is no history."""
    import numpy as np

    from detectors import rates

    step, series = request.step_seconds, request.history
    seconds = series.times[-1] - series.times[0] + step if series.times else 0.0
    if seconds < MIN_HISTORY_SECONDS or seconds < MIN_HISTORY_BINS * step:
        needed = max(MIN_HISTORY_SECONDS, MIN_HISTORY_BINS * step)
        return _too_short(
            request, f"{seconds / 3600:.3g} h of arrivals are known, at least {needed / 3600:.3g} h needed"
        )
    seen = rates.grid(series, step).last(MAX_HISTORY_SECONDS)
    ratio = _HELD_OUT_RATIO_SHORT if seconds < _SHORT_SECONDS else _HELD_OUT_RATIO
    num_held = int(min(_HELD_OUT_SECONDS, seconds * ratio) / step)
    if num_held < request.lead_steps + MIN_ORIGINS:
        detail = (
            f"{num_held} bins can be held out, {request.lead_steps + MIN_ORIGINS} are needed to judge one lead ahead"
        )
        return _too_short(request, detail)
    holes = max(float(np.isnan(part).mean()) for part in (seen.values, seen.values[-num_held:]))
    if holes > MAX_HOLES_RATIO:
        detail = f"{holes:.0%} of the bins are unknown"
        return _declined(request, forecasts.NoForecastReason.TOO_MANY_HOLES, detail)
    offset = max(_TINY, _OFFSET_RATIO * float(np.nanmean(seen.values)))
    until = seen.end + 2.0 * request.refit_seconds + (request.horizon_steps + 1) * step
    return Split(seen, num_held, offset, until)


def learn(
    request: FitRequest, parted: Split, before: "prophet_shape.Shape", whole: "prophet_shape.Shape"
) -> Fitted | forecasts.NoForecast:
    """Judge the members on what was held out, with the shape fitted `before` it; then learn on the `whole` history."""
    import numpy as np

    from detectors import ensemble, members

    num_leads, step = request.horizon_steps, request.step_seconds
    pairs = _pairs(request, parted, before)
    lead_groups, level = ensemble.groups(num_leads, step), max(_TINY, float(np.nanmean(parted.seen.values)))
    if int((pairs.held_out & ~np.isnan(pairs.truth[:, request.lead_steps - 1])).sum()) < MIN_ORIGINS:
        detail = f"fewer than {MIN_ORIGINS} forecasts {request.lead_seconds:g} s ahead can be judged"
        return _declined(request, forecasts.NoForecastReason.TOO_MANY_HOLES, detail)
    accuracy = ensemble.judge(
        pairs, lead_groups, parted.offset, level, lead=request.lead_steps, step=step, seasonal=members.SEASONAL
    )
    return Fitted(
        service=request.service,
        fitted_at=request.now,
        horizon_steps=num_leads,
        seen=parted.seen.last(_KEPT_SECONDS),
        shape=whole,
        learned=members.learn(members.past(parted.seen, whole, parted.offset, num_leads), num_leads),
        tuning=ensemble.tune(pairs, lead_groups, parted.offset, level),
        accuracy=accuracy,
    )


def _pairs(request: FitRequest, parted: Split, before: "prophet_shape.Shape") -> "ensemble.Pairs":
    """Return what the members, taught by the part before, say at the held-out origins and beside events."""
    import numpy as np

    from detectors import ensemble, members, rates

    num_leads, count = request.horizon_steps, len(parted.seen.values)
    first = count - parted.num_held - 1
    taught = members.learn(members.past(parted.before, before, parted.offset, num_leads), num_leads)
    known = members.past(parted.seen, before, parted.offset, num_leads)
    spread = np.linspace(first, count - 1 - request.lead_steps, _NUM_ORIGINS).astype(np.int64)
    even = np.unique(spread)
    origins = np.unique(np.concatenate([even, _beside_events(request, parted.seen)]))
    origins = origins[~np.isnan(known.raw[origins])]
    said = members.foretell(known, taught, origins, num_leads)
    names = (*(name for name in said if name != members.LAST), members.LAST)
    truth = rates.taken(parted.seen.values, origins[:, np.newaxis] + np.arange(1, num_leads + 1))
    return ensemble.Pairs(
        names, ensemble.stack(said, names), truth, _regimes(known, origins, num_leads), np.isin(origins, even)
    )


def _beside_events(request: FitRequest, seen: "rates.Grid") -> "rates.Numbers":
    """Return origins from which an event's beginning or end lies ahead, up to the lead, or has just passed."""
    import numpy as np

    from detectors import event_segments

    begin = max(seen.start, seen.end - _EVENT_SECONDS)
    changes = event_segments.changes(request.events, begin, seen.end)
    lead = request.lead_steps
    ahead = np.unique([-1, 1, max(1, lead // 2), lead])
    at = np.round((np.array(changes) - seen.start) / seen.step).astype(np.int64)
    origins = np.unique((at[:, np.newaxis] - ahead).ravel())
    origins = origins[(origins >= 1) & (origins < len(seen.values) - lead)]
    return origins[:: max(1, -(-len(origins) // _NUM_EVENT_ORIGINS))]


def _regimes(known: "members.Past", origins: "rates.Numbers", num_leads: int) -> "rates.Numbers":
    """Return 1 where an event is on at the origin or at the target, (origins, leads)."""
    import numpy as np

    is_on = known.added != 0.0
    targets = origins[:, np.newaxis] + np.arange(1, num_leads + 1)
    return (is_on[targets] | is_on[origins, np.newaxis]).astype(np.int64)


def forecast(fitted: Fitted, newest: windows.Series, now: datetime) -> forecasts.Forecast | forecasts.NoForecast:
    """Foretell from the newest complete bin on; `newest` holds the bins since the fit, or the last three hours.

    A few milliseconds. Bins that end after `now` are not complete and are left out.
    """
    import numpy as np

    from detectors import ensemble, members

    seen = _seen(fitted, newest, now)
    declined = _unusable(fitted, seen, now)
    if declined is not None:
        return declined
    num_leads = fitted.horizon_steps
    known = members.past(seen, fitted.shape, fitted.tuning.offset, num_leads)
    origin = np.array([len(seen.values) - 1])
    said = ensemble.stack(members.foretell(known, fitted.learned, origin, num_leads), fitted.tuning.names)
    regimes, lead_groups = _regimes(known, origin, num_leads), ensemble.groups(num_leads, seen.step)
    p50 = ensemble.combine(said, fitted.tuning.weights, regimes, lead_groups, fitted.tuning.offset)
    p10, p90 = ensemble.bounds(p50, fitted.tuning, regimes, lead_groups)
    return forecasts.Forecast(
        service=fitted.service,
        made_at=now,
        fitted_at=fitted.fitted_at,
        start=seen.end,
        step_seconds=seen.step,
        p10=tuple(p10[0].tolist()),
        p50=tuple(p50[0].tolist()),
        p90=tuple(p90[0].tolist()),
        last=float(seen.values[-1]),
        accuracy=fitted.accuracy,
        weights=_weights(fitted, regimes, lead_groups),
    )


def _seen(fitted: Fitted, newest: windows.Series, now: datetime) -> "rates.Grid":
    """Return the history with the newest complete bins, up to the newest known one."""
    import numpy as np

    complete = newest.between(fitted.seen.start, math.nextafter(now.timestamp() - fitted.seen.step, math.inf))
    seen = fitted.seen.extended(complete)
    newest_known = int(np.flatnonzero(~np.isnan(seen.values))[-1])
    return seen.until(newest_known + 1).last(_KEPT_SECONDS)


def _unusable(fitted: Fitted, seen: "rates.Grid", now: datetime) -> forecasts.NoForecast | None:
    age = now.timestamp() - seen.end
    if age > MAX_AGE_STEPS * seen.step:
        detail = f"the newest are {age:.0f} s old, at most {MAX_AGE_STEPS * seen.step:.0f} s help"
        return forecasts.NoForecast(fitted.service, forecasts.NoForecastReason.STALE, detail)
    if seen.end + fitted.horizon_steps * seen.step > fitted.shape.end:
        until = datetime.fromtimestamp(fitted.shape.end, UTC)
        detail = f"the fit of {fitted.fitted_at:%Y-%m-%d %H:%M} reaches until {until:%Y-%m-%d %H:%M} UTC"
        return forecasts.NoForecast(fitted.service, forecasts.NoForecastReason.NOT_FITTED, detail)
    return None


def _weights(fitted: Fitted, regimes: "rates.Numbers", lead_groups: "rates.Numbers") -> dict[str, float]:
    """Return how much each member counts at the lead where accuracy is judged."""
    lead = round(fitted.accuracy.horizon_seconds / fitted.seen.step) - 1
    weights = fitted.tuning.weights[:, regimes[0, lead], lead_groups[lead]].tolist()
    return dict(zip(fitted.tuning.names, weights, strict=True))


def same_time_yesterday(fitted: Fitted, newest: windows.Series, time: float) -> float | None:
    """Return the rate of the bin a day before `time` (Unix seconds), or None where nobody knows it.

    For whoever keeps score of forecasts that were made; only once the seasonal naive forecast is a member.
    """
    import numpy as np

    from detectors import rates

    if not fitted.learned.has_season:
        return None
    seen = fitted.seen.extended(newest.since(fitted.seen.start))
    place = math.floor((time - rates.DAY_SECONDS - seen.start) / seen.step + _TINY)
    value = float(rates.taken(seen.values, np.array([place]))[0])
    return None if math.isnan(value) else value


def _too_short(request: FitRequest, detail: str) -> forecasts.NoForecast:
    return _declined(request, forecasts.NoForecastReason.TOO_SHORT, detail)


def _declined(request: FitRequest, reason: forecasts.NoForecastReason, detail: str) -> forecasts.NoForecast:
    return forecasts.NoForecast(request.service, reason, detail)
