"""The members of the forecast's ensemble: seven ways to say what arrives next, none of them good alone everywhere.

Called by the forecast, to learn on a history and to foretell from some of its bins. All work in logs of the rate, and
all but the two naive ones on arrivals freed of what calendar events do, which is added again where it is due:

- `shape_and_lags`: the fitted shape, corrected by its newest residuals, one regression for each lead;
- `change`: a regression of the change from now on the newest changes, on yesterday's and last week's, and on the shape's;
- `smoother`: an exponentially smoothed level, as slow as was best for the lead; good where the newest value is noise;
- `trees`: boosted trees on the same features as both regressions, the lead, and the time of day;
- `neighbours`: what happened next after the moments of the past that looked most like now;
- `seasonal_naive`: the same time yesterday; only once two days are known;
- `last_value`: the newest value. Always a member, so that the ensemble is not much worse where nothing can be learned.

Arrays are (origins, leads); an origin is the number of the newest known bin. Pure; imports numpy at the top.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from detectors import boosting, prophet_shape, rates, residuals

SHAPE, CHANGE, SMOOTHER = "shape_and_lags", "change", "smoother"
TREES, NEIGHBOURS = "trees", "neighbours"
SEASONAL, LAST = "seasonal_naive", "last_value"

# Seasonal naive needs a day to repeat and another to be judged on.
SEASONAL_AFTER_SECONDS = 2.0 * rates.DAY_SECONDS
_WEEK_SECONDS = 7.0 * rates.DAY_SECONDS
# What the newest value is compared with: means over these many seconds.
_MEANS_SECONDS = (900.0, 3_600.0, 10_800.0, rates.DAY_SECONDS)
# Coefficients are learned for this many leads, evenly spread in their logs, and are straight in between.
_NUM_LEADS = 8
_NUM_LEARNED_ROWS = 1500
_SHARES = (0.1, 0.2, 0.35, 0.55, 0.8)
_NUM_NEIGHBOURS = 30
_NUM_TREE_ORIGINS = 750
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Past:
    """A history in logs: `raw` as it was, `calm` without events, both with holes and (filled) without.

    `smooth` and `added` (what events add) go on for the leads after the history.
    """

    start: float
    step: float
    raw: rates.Floats
    calm: rates.Floats
    filled: rates.Floats
    smooth: rates.Floats
    added: rates.Floats

    def bins(self, seconds: float) -> int:
        """Return how many bins `seconds` are."""
        return rates.steps(seconds, self.step)

    @property
    def rests(self) -> rates.Floats:
        """What the smooth shape leaves over."""
        return self.calm - self.smooth[: len(self.calm)]


@dataclass(frozen=True, slots=True)
class Learned:
    """What the members know: coefficients for each of `leads` (in bins), and the moments neighbours are sought among."""

    leads: rates.Numbers
    rests: rates.Floats
    changes: rates.Floats
    shares: rates.Floats
    looks: rates.Floats
    look_scale: rates.Floats
    afterwards: rates.Floats
    trees: boosting.Trees
    has_season: bool


def past(seen: rates.Grid, shape: prophet_shape.Shape, offset: float, num_leads: int) -> Past:
    """Return the history of `seen` in logs of rate + `offset`, with the shape `num_leads` bins further."""
    times = seen.middles(num_leads)
    added, smooth = shape.events_at(times), shape.smooth_at(times)
    raw = np.log(seen.values + offset)
    calm = raw - added[: len(raw)]
    return Past(seen.start, seen.step, raw, calm, rates.filled(calm), smooth, added)


def learn(known: Past, num_leads: int) -> Learned:
    """Learn from the whole of `known` to foretell up to `num_leads` bins."""
    leads = np.unique(np.round(np.geomspace(1, num_leads, _NUM_LEADS)).astype(np.int64))
    count = len(known.calm)
    first = min(known.bins(rates.DAY_SECONDS), count // 3)
    origins = np.arange(first, count, max(1, -(-(count - first) // _NUM_LEARNED_ROWS)))
    sure = origins[~np.isnan(known.calm[origins])]
    targets = sure[:, np.newaxis] + leads
    changes = rates.taken(known.calm, targets) - known.filled[sure, np.newaxis]
    bent = changes - (rates.taken(known.smooth[:count], targets) - known.smooth[sure, np.newaxis])
    by_rest, by_change = _rest_features(known, sure), _change_features(known, sure, leads)
    looks = _looks(known, sure, num_leads)
    complete = ~np.isnan(changes).all(axis=1)
    return Learned(
        leads,
        rests=np.stack([residuals.regress(by_rest, bent[:, k]) for k in range(len(leads))]),
        changes=np.stack([residuals.regress(by_change[:, k], changes[:, k]) for k in range(len(leads))]),
        shares=_best_shares(known, leads, origins),
        looks=looks[complete],
        look_scale=np.nanstd(looks, axis=0) + _TINY,
        afterwards=changes[complete],
        trees=_trees(known, sure, leads, by_rest, by_change, changes),
        has_season=count * known.step >= SEASONAL_AFTER_SECONDS,
    )


def foretell(known: Past, learned: Learned, origins: rates.Numbers, num_leads: int) -> Mapping[str, rates.Floats]:
    """Return each member's logs of rate + offset, (origins, leads) for leads 1 to `num_leads`; NaN where it cannot say.

    The origins are the newest bins known: nothing after them is looked at, except the shape.
    """
    ahead = np.arange(1, num_leads + 1)
    targets = origins[:, np.newaxis] + ahead
    smooth, added, now = known.smooth[targets], known.added[targets], known.filled[origins, np.newaxis]
    between = _between(learned.leads, num_leads)
    rests, changes = _rest_features(known, origins), _change_features(known, origins, learned.leads)
    by_rest, by_change = rests @ learned.rests.T, np.einsum("olf,lf->ol", changes, learned.changes)
    by_trees = learned.trees.values(_tree_features(known, origins, learned.leads, rests, changes))
    levels = np.stack([_level_at(known, share, origins) for share in learned.shares], axis=1)
    last = rates.filled(known.raw)[origins, np.newaxis]
    said = {
        SHAPE: now - known.smooth[origins, np.newaxis] + smooth + by_rest @ between + added,
        CHANGE: now + by_change @ between + added,
        SMOOTHER: levels @ between + added,
        TREES: now + by_trees.reshape(by_change.shape) @ between + added,
        NEIGHBOURS: now + _after_neighbours(known, learned, origins, num_leads) @ between + added,
        LAST: np.broadcast_to(last, targets.shape),
    }
    if learned.has_season:
        said[SEASONAL] = rates.taken(known.raw, targets - known.bins(rates.DAY_SECONDS))
    return said


def _between(leads: rates.Numbers, num_leads: int) -> rates.Floats:
    """Return the matrix that spreads values at `leads` over all leads, straight in between."""
    ahead = np.arange(1, num_leads + 1)
    return np.stack([np.interp(ahead, leads, unit) for unit in np.eye(len(leads))])


def _rest_features(known: Past, origins: rates.Numbers) -> rates.Floats:
    """(origins, features): the newest residual, its distance to its means, and yesterday's."""
    rests, newest = known.rests, rates.filled(known.rests)
    now = newest[origins]
    means = [_mean_at(rests, known.bins(seconds), origins) for seconds in _MEANS_SECONDS]
    yesterday = rates.taken(newest, origins - known.bins(rates.DAY_SECONDS))
    return np.stack([now, *(now - mean for mean in means), _or_zero(yesterday - now)], axis=1)


def _change_features(known: Past, origins: rates.Numbers, leads: rates.Numbers) -> rates.Floats:
    """(origins, leads, features): recent changes, what followed a day and a week ago, and what the shape does."""
    now = known.filled[origins]
    recent = [now - _mean_at(known.calm, known.bins(seconds), origins) for seconds in _MEANS_SECONDS[:3]]
    targets = origins[:, np.newaxis] + leads
    ago: list[rates.Floats] = []
    for seconds in (rates.DAY_SECONDS, _WEEK_SECONDS):
        back = known.bins(seconds)
        then, after = rates.taken(known.filled, origins - back), rates.taken(known.filled, targets - back)
        ago += [_or_zero(after - now[:, np.newaxis]), _or_zero(after - then[:, np.newaxis])]
    # Learning looks at targets beyond the shape too; their changes are unknown, so those rows are left out.
    smooth = rates.taken(known.smooth, targets)
    shaped = [smooth - known.smooth[origins, np.newaxis], smooth - now[:, np.newaxis]]
    return np.stack([*(np.broadcast_to(one[:, np.newaxis], targets.shape) for one in recent), *ago, *shaped], axis=2)


def _trees(
    known: Past,
    origins: rates.Numbers,
    leads: rates.Numbers,
    by_rest: rates.Floats,
    by_change: rates.Floats,
    changes: rates.Floats,
) -> boosting.Trees:
    """Grow trees for all leads together, on every other lead and no more rows than that takes a tenth of a second."""
    thin, few = slice(None, None, max(1, -(-len(origins) // _NUM_TREE_ORIGINS))), slice(None, None, 2)
    rows = _tree_features(known, origins[thin], leads[few], by_rest[thin], by_change[thin, few])
    wanted = changes[thin, few].ravel()
    complete = ~(np.isnan(rows).any(axis=1) | np.isnan(wanted))
    return boosting.grow(rows[complete], wanted[complete])


def _tree_features(
    known: Past, origins: rates.Numbers, leads: rates.Numbers, by_rest: rates.Floats, by_change: rates.Floats
) -> rates.Floats:
    """(origins x leads, features): those of both regressions, the lead, and the time of day."""
    shape = (len(origins), len(leads))
    angle = 2.0 * np.pi * ((known.start + origins * known.step) % rates.DAY_SECONDS) / rates.DAY_SECONDS
    clock = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    spread = np.concatenate([by_rest, clock], axis=1)[:, np.newaxis]
    wide = np.broadcast_to(spread, (*shape, spread.shape[2]))
    lead = np.broadcast_to(leads[:, np.newaxis].astype(np.float64), (*shape, 1))
    return np.concatenate([by_change, wide, lead], axis=2).reshape(shape[0] * shape[1], -1)


def _looks(known: Past, origins: rates.Numbers, num_leads: int) -> rates.Floats:
    """(origins, features): how a moment looks to whoever seeks its like."""
    now = known.filled[origins]
    recent = [now - _mean_at(known.calm, known.bins(seconds), origins) for seconds in _MEANS_SECONDS[:3]]
    smooth, end = known.smooth, len(known.smooth) - 1
    shaped = [
        smooth[np.minimum(origins + ahead, end)] - smooth[origins] for ahead in (max(1, num_leads // 2), num_leads)
    ]
    return _or_zero(np.stack([*recent, *shaped, rates.filled(known.rests)[origins]], axis=1))


def _after_neighbours(known: Past, learned: Learned, origins: rates.Numbers, num_leads: int) -> rates.Floats:
    """Return the median change after the moments that looked most alike, (origins, learned leads)."""
    if len(learned.looks) == 0:
        return np.zeros((len(origins), len(learned.leads)))
    looks = _looks(known, origins, num_leads) / learned.look_scale
    among = learned.looks / learned.look_scale
    distance = (among**2).sum(axis=1) - 2.0 * looks @ among.T
    count = min(_NUM_NEIGHBOURS, len(among))
    nearest = np.argpartition(distance, count - 1, axis=1)[:, :count]
    after = learned.afterwards[nearest]
    return _or_zero(_median(after))


def _median(values: rates.Floats) -> rates.Floats:
    """Return the median of what is known along the middle axis, NaN where nothing is; numpy's own takes far longer."""
    ordered = np.sort(values, axis=1)  # NaN last
    count = (~np.isnan(values)).sum(axis=1, keepdims=True)
    low = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0), axis=1)
    high = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[1] - 1), axis=1)
    return np.where(count > 0, (low + high) / 2.0, np.nan)[:, 0]


def _best_shares(known: Past, leads: rates.Numbers, origins: rates.Numbers) -> rates.Floats:
    """Return for each lead the share of the smoother that was least wrong."""
    errors: list[list[float]] = []
    for share in _SHARES:
        level = rates.smoothed(known.calm, share, origins)
        wrong = np.abs(rates.taken(known.calm, origins[:, np.newaxis] + leads) - level[:, np.newaxis])
        errors.append(np.nan_to_num(_mean(wrong), nan=np.inf).tolist())
    return np.array(_SHARES)[np.argmin(np.array(errors), axis=0)]


def _mean(values: rates.Floats) -> rates.Floats:
    count = (~np.isnan(values)).sum(axis=0)
    return np.where(count > 0, np.nansum(values, axis=0) / np.maximum(count, 1), np.nan)


def _mean_at(values: rates.Floats, count: int, origins: rates.Numbers) -> rates.Floats:
    """Return the trailing mean at the origins; where nothing is known, the newest value."""
    means = rates.trailing_mean(values, count)[origins]
    return np.where(np.isnan(means), rates.filled(values)[origins], means)


def _level_at(known: Past, share: float, origins: rates.Numbers) -> rates.Floats:
    level = rates.smoothed(known.calm, float(share), origins)
    return np.where(np.isnan(level), known.filled[origins], level)


def _or_zero(values: rates.Floats) -> rates.Floats:
    return np.where(np.isnan(values), 0.0, values)
