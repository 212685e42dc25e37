"""Linear regression of what happens next on the newest lags, one for each lead, slow to believe and hard to mislead.

Called by the members of the forecast. What is foretold is the change from the newest value, so that a coefficient of
zero repeats the last value, and shrinking coefficients means changing one's mind late. Pure; imports numpy at the top.
"""

import numpy as np

from detectors import rates

# The penalty, in parts of a feature's variance: two thousand rows outweigh it, twenty do not.
_RIDGE = 0.05
_FEWEST_ROWS = 20
# Rows further off than half the median error count less, in two more rounds: bursts teach nothing about what comes next.
_NUM_ROUNDS = 3
_HUBER = 0.5
_TINY = 1e-9


def regress(features: rates.Floats, changes: rates.Floats) -> rates.Floats:
    """Return coefficients (features,) of `changes` (rows,) on `features` (rows, features); rows with NaN are left out.

    Without an intercept, on purpose: a service that has grown all week need not grow now. Zeros where there are too few
    rows.
    """
    known = ~(np.isnan(features).any(axis=1) | np.isnan(changes))
    rows, wanted = features[known], changes[known]
    if len(wanted) < _FEWEST_ROWS:
        return np.zeros(int(features.shape[1]), dtype=np.float64)
    scale = rows.std(axis=0) + _TINY
    unit = rows / scale
    weights = np.ones(len(wanted))
    found = np.zeros(features.shape[1])
    for _ in range(_NUM_ROUNDS):
        weighted = unit * weights[:, np.newaxis]
        square = weighted.T @ unit / weights.sum() + _RIDGE * np.eye(unit.shape[1])
        found = _solved(square, weighted.T @ wanted / weights.sum())
        error = np.abs(wanted - unit @ found)
        weights = np.minimum(1.0, (_HUBER * np.median(error) + _TINY) / np.maximum(error, _TINY))
    return np.asarray(found / scale, dtype=np.float64)


def _solved(square: rates.Floats, right: rates.Floats) -> rates.Floats:
    return np.asarray(np.linalg.solve(square, right), dtype=np.float64)
