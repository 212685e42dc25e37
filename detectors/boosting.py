"""Boosted trees for what a straight line cannot say, such as that bursts fall back and slopes go on. Small on purpose.

Called by the members of the forecast. Each tree asks the same few questions of every row (symmetric trees, as CatBoost
grows them), so a fitted model is three small arrays, crosses to another process as values, and answers in microseconds.
Errors far off count as moderate ones (Huber's loss), and leaves with few rows say little. The same every time: nothing
is drawn at random. Pure; imports numpy at the top.
"""

from dataclasses import dataclass

import numpy as np

from detectors import rates

_NUM_TREES = 60
_DEPTH = 3
_RATE = 0.1
_NUM_BINS = 24
# A leaf's mean is pulled to zero as by this many rows that say nothing.
_PULL = 30.0
# Errors above this quantile of the first ones count as if they were at it.
_CLIP_QUANTILE = 0.6
_FEWEST_ROWS = 200
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Trees:
    """`asked` and `borders` are (trees, depth): the feature and the value it is compared with. `leaves` are summed."""

    asked: rates.Numbers
    borders: rates.Floats
    leaves: rates.Floats

    def values(self, features: rates.Floats) -> rates.Floats:
        """Return the sum over the trees for `features` (rows, features)."""
        if not len(self.asked):
            return np.zeros(len(features))
        is_above = (features[:, self.asked] > self.borders).astype(np.int64)
        leaf = is_above @ (1 << np.arange(_DEPTH, dtype=np.int64))
        return self.leaves[np.arange(len(self.asked)), leaf].sum(axis=1)


NONE = Trees(np.empty((0, _DEPTH), dtype=np.int64), np.empty((0, _DEPTH)), np.empty((0, 2**_DEPTH)))


def grow(features: rates.Floats, wanted: rates.Floats) -> Trees:
    """Learn `wanted` (rows,) from `features` (rows, features), both fully known; no trees where there are too few rows."""
    if len(wanted) < _FEWEST_ROWS:
        return NONE
    borders = np.quantile(features, np.arange(1, _NUM_BINS) / _NUM_BINS, axis=0).T
    codes = np.zeros(features.T.shape, dtype=np.int64)
    for number, (cuts_of, column) in enumerate(zip(borders, features.T, strict=True)):
        codes[number] = np.searchsorted(cuts_of, column, side="left")
    clip = float(np.quantile(np.abs(wanted), _CLIP_QUANTILE)) + _TINY
    missing = wanted.copy()
    grown: list[tuple[list[int], list[float], rates.Floats]] = []
    for _ in range(_NUM_TREES):
        pull = np.clip(missing, -clip, clip)
        asked, cuts, leaf = _questions(codes, pull)
        counts = np.bincount(leaf, minlength=2**_DEPTH)
        leaves = _RATE * np.bincount(leaf, pull, minlength=2**_DEPTH) / (counts + _PULL)
        missing -= leaves[leaf]
        grown.append((asked, [float(borders[f, c]) for f, c in zip(asked, cuts, strict=True)], leaves))
    return Trees(*(np.array(one) for one in zip(*grown, strict=True)))


def _questions(codes: rates.Numbers, pull: rates.Floats) -> tuple[list[int], list[int], rates.Numbers]:
    """Return the features and cuts that part `pull` best, one after the other, and the leaf of each row."""
    num_features, num_rows = codes.shape
    leaf = np.zeros(num_rows, dtype=np.int64)
    asked: list[int] = []
    cuts: list[int] = []
    for depth in range(_DEPTH):
        size = 2**depth
        first = np.arange(num_features, dtype=np.int64)[:, np.newaxis] * size
        place: rates.Numbers = ((first + leaf) * _NUM_BINS + codes).ravel()
        shape = (num_features, size, _NUM_BINS)
        total = num_features * size * _NUM_BINS
        sums = np.bincount(place, np.tile(pull, num_features), total).reshape(shape).cumsum(axis=2)
        counts = np.bincount(place, minlength=total).reshape(shape).cumsum(axis=2)
        rest, others = sums[:, :, -1:] - sums, counts[:, :, -1:] - counts
        gain = (sums**2 / (counts + _PULL) + rest**2 / (others + _PULL)).sum(axis=1)[:, :-1]
        feature, cut = np.unravel_index(int(gain.argmax()), gain.shape)
        asked.append(int(feature))
        cuts.append(int(cut))
        leaf += (codes[feature] > cut) << depth
    return asked, cuts, leaf
