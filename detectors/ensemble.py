"""How much each member of the forecast counts, and how wide the bounds are: both from what was foretold and came.

Called by the forecast. Members are weighed by the inverse fourth power of their error, for near and far leads apart,
and apart again where a calendar event is on (now or then): there the last value is hopeless and the shape is not. Bounds
are conformal: quantiles of past errors over sqrt(forecast x level), since errors grow with the rate but not as fast.

Arrays are (origins, leads), of members (members, origins, leads). Pure; imports numpy at the top.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.domain import forecasts
from detectors import rates

# Leads up to these many seconds are weighed and bounded together; the last group has no end.
_GROUP_ENDS = (300.0, 1_200.0, 3_600.0)
# 1 is the plain inverse error. On requests of language models and of the web each step up to 3 helped, 4 a little more.
_POWER = 4.0
_FEWEST_PAIRS = 8
_FEWEST_FOR_BOUNDS = 30
# Each half of the held-out origins is judged with what the other half taught, in this many alternating blocks.
_NUM_BLOCKS = 4
# A forecast of nothing still has bounds as wide as for this share of the usual level.
_FLOOR = 0.02
# The errors of one day vary less than those of the days after it: these quantiles hold four fifths of what comes later
# (measured: 80 %, and 75 to 83 % by series; the plain 0.1 and 0.9 hold 78 %).
_LOW, _HIGH = 0.09, 0.91
_TINY = 1e-12
# Regimes: no event on, or one on at the origin or at the target.
_NUM_REGIMES = 2


@dataclass(frozen=True, slots=True)
class Pairs:
    """What the members said and what came: `said` and the rest are aligned, `truth` NaN where nobody knows.

    `regimes` is 1 where an event is on. `held_out` marks the origins that the members had not seen.
    """

    names: tuple[str, ...]
    said: rates.Floats
    truth: rates.Floats
    regimes: rates.Numbers
    held_out: rates.Flags


@dataclass(frozen=True, slots=True)
class Tuning:
    """Weights (members, regimes, groups), and the quantiles of errors in scales (regimes, groups)."""

    names: tuple[str, ...]
    weights: rates.Floats
    low: rates.Floats
    high: rates.Floats
    offset: float
    level: float


def groups(num_leads: int, step: float) -> rates.Numbers:
    """Return the group of each lead.

    >>> groups(4, 600.0).tolist()
    [1, 1, 2, 2]
    """
    return np.searchsorted(np.array(_GROUP_ENDS), np.arange(1, num_leads + 1) * step, side="left")


def stack(said: Mapping[str, rates.Floats], names: Sequence[str]) -> rates.Floats:
    """Return the members' logs in the order of `names`; NaN for one that says nothing."""
    nothing = np.full(next(iter(said.values())).shape, np.nan)
    return np.stack([said.get(name, nothing) for name in names])


def tune(pairs: Pairs, lead_groups: rates.Numbers, offset: float, level: float) -> Tuning:
    """Return weights from all pairs, and bounds from errors that each half of them made with the other half's weights.

    Where the ensemble was no better than the last value, the last value alone is what counts.
    """
    weights, used = _weigh(pairs, lead_groups, offset), _crossed(pairs, lead_groups, offset)
    last = np.exp(pairs.said[-1]) - offset
    for regime in range(_NUM_REGIMES):
        for group in range(weights.shape[2]):
            here = (pairs.regimes == regime) & (lead_groups == group) & ~np.isnan(pairs.truth)
            if here.any() and not _is_better(pairs.truth[here], used[here], last[here]):
                weights[:, regime, group] = np.eye(len(pairs.names))[-1]
                used[here] = last[here]
    low, high = _quantiles(_errors(pairs.truth, used, level), pairs.regimes, lead_groups)
    return Tuning(pairs.names, weights, low, high, offset, level)


def _is_better(truth: rates.Floats, one: rates.Floats, other: rates.Floats) -> bool:
    return bool(np.abs(one - truth).sum() < np.abs(other - truth).sum())


def combine(
    said: rates.Floats, weights: rates.Floats, regimes: rates.Numbers, lead_groups: rates.Numbers, offset: float
) -> rates.Floats:
    """Return the weighted mean of the members in logs, as a rate: (origins, leads). Members that say nothing count 0."""
    counted = weights[:, regimes, np.broadcast_to(lead_groups, regimes.shape)] * ~np.isnan(said)
    total = np.maximum(counted.sum(axis=0), _TINY)
    logs = (np.nan_to_num(said) * counted).sum(axis=0) / total
    return np.maximum(np.exp(logs) - offset, 0.0)


def bounds(
    middle: rates.Floats, tuning: Tuning, regimes: rates.Numbers, lead_groups: rates.Numbers
) -> tuple[rates.Floats, rates.Floats]:
    """Return p10 and p90 around the forecast `middle`, never below zero and never on its wrong side."""
    where = (regimes, np.broadcast_to(lead_groups, regimes.shape))
    scale = _scale(middle, tuning.level)
    low, high = middle + tuning.low[where] * scale, middle + tuning.high[where] * scale
    return np.clip(low, 0.0, middle), np.maximum(high, middle)


def judge(
    pairs: Pairs, lead_groups: rates.Numbers, offset: float, level: float, *, lead: int, step: float, seasonal: str
) -> forecasts.Accuracy:
    """Say how the ensemble did `lead` bins ahead at the held-out origins, each half judged by the other half's weights.

    `seasonal` names the member that repeats yesterday, and `last_value` must be the last of the names.
    """
    crossed = _crossed(pairs, lead_groups, offset)
    covered = np.full(crossed.shape, np.nan)
    for half, other in _halves(pairs):
        errors = np.where(other[:, np.newaxis], _errors(pairs.truth, crossed, level), np.nan)
        low, high = _quantiles(errors, pairs.regimes, lead_groups)
        found = Tuning(pairs.names, np.empty(0), low, high, offset, level)
        below, above = bounds(crossed[half], found, pairs.regimes[half], lead_groups)
        covered[half] = (pairs.truth[half] >= below) & (pairs.truth[half] <= above)
    column = lead - 1
    kept = pairs.held_out & ~np.isnan(pairs.truth[:, column])
    truth, foretold = pairs.truth[kept, column], crossed[kept, column]
    naive = {name: np.exp(pairs.said[n, kept, column]) - offset for n, name in enumerate(pairs.names)}
    return forecasts.Accuracy(
        horizon_seconds=lead * step,
        num_origins=int(kept.sum()),
        wape=_wape(truth, foretold),
        bias=float((foretold - truth).mean() / max(truth.mean(), _TINY)),
        coverage=float(covered[kept, column].mean()),
        wape_last_value=_wape(truth, naive[pairs.names[-1]]),
        wape_seasonal_naive=_wape(truth, naive[seasonal]) if seasonal in naive else None,
    )


def _wape(truth: rates.Floats, foretold: rates.Floats) -> float:
    known = ~np.isnan(foretold)
    return float(np.abs(truth - foretold)[known].sum() / max(truth[known].sum(), _TINY))


def _halves(pairs: Pairs) -> list[tuple[rates.Flags, rates.Flags]]:
    """Return the origins of either half with those of the other one, in time's order by turns."""
    count = len(pairs.held_out)
    first = (np.arange(count) * _NUM_BLOCKS // max(count, 1)) % 2 == 0
    return [(first, ~first), (~first, first)]


def _crossed(pairs: Pairs, lead_groups: rates.Numbers, offset: float) -> rates.Floats:
    """Return what the ensemble would have said at each origin, with weights from the other half."""
    found = np.full(pairs.truth.shape, np.nan)
    for half, other in _halves(pairs):
        taught = Pairs(
            pairs.names, pairs.said[:, other], pairs.truth[other], pairs.regimes[other], pairs.held_out[other]
        )
        weights = _weigh(taught, lead_groups, offset)
        found[half] = combine(pairs.said[:, half], weights, pairs.regimes[half], lead_groups, offset)
    return found


def _weigh(pairs: Pairs, lead_groups: rates.Numbers, offset: float) -> rates.Floats:
    """Return weights (members, regimes, groups); a group with too few pairs takes those of the one before it."""
    wrong = np.abs(np.exp(pairs.said) - offset - pairs.truth)
    shared = ~np.isnan(wrong).any(axis=0)
    weights = np.full((len(pairs.names), _NUM_REGIMES, len(_GROUP_ENDS) + 1), 1.0 / len(pairs.names))
    for regime in range(_NUM_REGIMES):
        found = weights[:, 0, 0]
        for group in range(weights.shape[2]):
            here = shared & (pairs.regimes == regime) & (lead_groups == group)
            found = _inverse(wrong[:, here]) if here.sum() >= _FEWEST_PAIRS else found
            weights[:, regime, group] = found
    return weights


def _inverse(wrong: rates.Floats) -> rates.Floats:
    errors = np.maximum(wrong.mean(axis=1), _TINY)
    weights = (errors.min() / errors) ** _POWER
    return weights / weights.sum()


def _errors(truth: rates.Floats, foretold: rates.Floats, level: float) -> rates.Floats:
    return (truth - foretold) / _scale(foretold, level)


def _scale(foretold: rates.Floats, level: float) -> rates.Floats:
    return np.sqrt(np.maximum(foretold, _FLOOR * level) * level)


def _quantiles(
    errors: rates.Floats, regimes: rates.Numbers, lead_groups: rates.Numbers
) -> tuple[rates.Floats, rates.Floats]:
    """Return the low and the high quantile of errors for each regime and group, or those of the pool that has some."""
    known = ~np.isnan(errors)
    found = np.zeros((2, _NUM_REGIMES, len(_GROUP_ENDS) + 1))
    for regime in range(_NUM_REGIMES):
        for group in range(found.shape[2]):
            nearer = known & (lead_groups <= max(group, int(lead_groups.min())))
            pools = (nearer & (lead_groups == group) & (regimes == regime), nearer & (lead_groups == group), nearer)
            pool = next((one for one in pools if one.sum() >= _FEWEST_FOR_BOUNDS), known)
            found[:, regime, group] = np.quantile(errors[pool], (_LOW, _HIGH)) if pool.any() else 0.0
    return found[0], found[1]
