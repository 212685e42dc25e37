"""Keeps score of forecasts that were really made: what was foretold for a bin, and what then arrived in it.

Held by the room of capacity for each service, one small value passed in and handed back: losing it at a restart only
means that score is kept anew. Pure; times are Unix seconds. One promise is kept for each bin, the first that was made
one lead ahead of it, so that ticking faster does not count a bin twice. A bin that never becomes known is forgotten.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from controlplane.domain import forecasts, windows

# Before this many bins have come true, score is luck.
MIN_SCORED = 20
# The window that rolls: four hours of minutes, most of a day of five minutes. Long enough to be sure, short enough to
# close the gate on the day on which a forecast goes bad.
MAX_SCORED = 240
# Promises that wait for their bin; one lead holds fewer bins than this.
MAX_PENDING = 240
# A bin that is still unknown when others this much later are known will not become known.
_FORGET_SECONDS = 3_600.0
_TINY = 1e-12

# How real forecasts did lately; the same figures as of the held-out history, over the bins that came true.
LiveSkill = forecasts.Accuracy


@dataclass(frozen=True, slots=True)
class Promise:
    """What was foretold for the bin that begins at `target`, `lead_seconds` ahead of its end."""

    target: float
    lead_seconds: float
    p10: float
    p50: float
    p90: float
    last: float
    yesterday: float | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A promise whose time has come."""

    promise: Promise
    arrived: float


@dataclass(frozen=True, slots=True)
class Track:
    """Promises by the beginning of their bin, oldest first, and the newest that came true."""

    pending: tuple[Promise, ...] = ()
    scored: tuple[Scored, ...] = ()

    def promised(self, promise: Promise) -> "Track":
        """Keep a promise, unless there is one for its bin already or the bin's time has come."""
        known = [*(one.target for one in self.pending), *(one.promise.target for one in self.scored[-1:])]
        if known and promise.target <= max(known):
            return self
        return replace(self, pending=(*self.pending, promise)[-MAX_PENDING:])

    def observed(self, arrivals: windows.Series) -> "Track":
        """Score the promises whose bins are complete in `arrivals`, and forget those that never will be."""
        if not arrivals.times or not self.pending:
            return self
        known = {round(at): value for at, value in zip(arrivals.times, arrivals.values, strict=True)}
        came = [Scored(one, known[round(one.target)]) for one in self.pending if round(one.target) in known]
        newest = arrivals.times[-1]
        waiting = (one for one in self.pending if round(one.target) not in known)
        kept = tuple(one for one in waiting if one.target > newest - _FORGET_SECONDS)
        return Track(kept, (*self.scored, *came)[-MAX_SCORED:])

    def skill(self, min_scored: int = MIN_SCORED) -> LiveSkill | None:
        """Return how forecasts did lately, or None before enough of them came true.

        All are compared over the same bins: those whose yesterday is known, where they are enough.
        """
        dated = tuple(one for one in self.scored if one.promise.yesterday is not None)
        if len(dated) >= min_scored:
            return _skill(dated, _wape((one.promise.yesterday or 0.0, one.arrived) for one in dated))
        return None if len(self.scored) < min_scored else _skill(self.scored, None)


def promise(forecast: forecasts.Forecast, lead_seconds: float, yesterday: float | None) -> Promise:
    """Return what `forecast` says of the bin that ends one lead after the newest complete one.

    `yesterday` is the rate of the same bin a day before, None where nobody knows.
    """
    number = place(forecast, lead_seconds)
    return Promise(
        target=forecast.start + number * forecast.step_seconds,
        lead_seconds=(number + 1) * forecast.step_seconds,
        p10=forecast.p10[number],
        p50=forecast.p50[number],
        p90=forecast.p90[number],
        last=forecast.last,
        yesterday=yesterday,
    )


def place(forecast: forecasts.Forecast, lead_seconds: float) -> int:
    """Return the number of the step that ends one lead ahead or just after; the last one where the horizon is shorter."""
    number = -(-lead_seconds // forecast.step_seconds) - 1
    return max(0, min(len(forecast.p50) - 1, int(number)))


def _skill(scored: Sequence[Scored], wape_yesterday: float | None) -> LiveSkill:
    total = sum(one.arrived for one in scored)
    return LiveSkill(
        horizon_seconds=scored[-1].promise.lead_seconds,
        num_origins=len(scored),
        wape=_wape((one.promise.p50, one.arrived) for one in scored),
        bias=sum(one.promise.p50 - one.arrived for one in scored) / max(total, _TINY),
        coverage=sum(one.promise.p10 <= one.arrived <= one.promise.p90 for one in scored) / len(scored),
        wape_last_value=_wape((one.promise.last, one.arrived) for one in scored),
        wape_seasonal_naive=wape_yesterday,
    )


def _wape(pairs: Iterable[tuple[float, float]]) -> float:
    """Return the sum of absolute errors over the sum of what arrived."""
    wrong = came = 0.0
    for foretold, arrived in pairs:
        wrong += abs(foretold - arrived)
        came += arrived
    return wrong / max(came, _TINY)
