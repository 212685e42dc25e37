"""How far each node is from its own past and from its peers at the same time, in spreads of what is usual.

Called by the detector of bad nodes. Pure arithmetic on arrays of shape (nodes, times, signals), NaN where nothing is
known: an unknown sample is left out of every median and gives no evidence, it is never taken for zero. Imports numpy
at the top, so callers import this inside the functions that need it.

A node is suspect when one of its watched signals is far above both its own past and its peers. Either alone is not
enough: everybody rises in a surge, and a slower machine is always slower than its peers. The past that others are
compared with is gathered forward in time and leaves suspect samples out, so that trouble does not become normal while
it lasts.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlplane.domain import windows
from detectors import node_signals

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# A change of the smallest size worth acting on is this many units; a unit is never less than the usual spread. Five
# spreads lie beyond what an hour of five-second samples shows of normal noise (1 in 3.5 million).
MIN_DEVIATION = 5.0
MAX_DEVIATION = 100.0
# A median absolute deviation times this estimates the standard deviation of normal noise.
_MAD_TO_SIGMA = 1.4826
# Fewer samples than this are no past: the node is then judged by its peers alone, and has to deviate twice as far.
MIN_PAST_SAMPLES = 8
_WITHOUT_PAST = 0.5
# So many samples at the beginning of a window are taken for healthy: the middle of three is not moved by an odd one.
_FIRST_SAMPLES = 3
# A median over fifteen peers is as good as one over all, and keeps the cost linear in the size of the fleet.
_MAX_PEERS = 15
# A peer with less than half of the node's requests is no measure for what they cost.
_COMPARABLE_LOAD = 0.5
# Quantiles of fewer requests than this are single requests.
_MIN_REQUESTS = 5.0
# The alert rules ask the same: one failed request among two is no trend.
_MIN_FAILED_REQUESTS = 2.5
# A cache that hits this much less makes its node compute more: slower answers are then its work, not its illness.
_HIT_RATIO_DROP = 0.1
# Values beyond this are nonsense, and squares of them would overflow.
_MAX_VALUE = 1e15
# What is asked for other reasons than to be compared; any floor above zero will do.
_UNUSED = 1.0
# Samples further apart than this many steps have a hole between them: the node was away.
_GAP_STEPS = 2.5
# While the peers themselves have left their usual level, a node stands out by this many times as much as they moved.
_SHARED_TIMES = 2.0
# Not watched, but needed to judge what is.
_EXPLAINS = (node_signals.CACHE_HITS,)
# Samples left out of the past on either side of a suspect one.
_MARGIN_SAMPLES = 2
# The past is gathered in about this many blocks: more would cost time, fewer would judge with an older past.
_NUM_BLOCKS = 24


@dataclass(frozen=True, slots=True)
class Grid:
    """Samples on one grid: `values` is (nodes, times, signals) in the order of the names; `judged` is (nodes, times),
    true where the node was up, settled and in service.
    """

    nodes: tuple[str, ...]
    times: Floats
    signals: tuple[str, ...]
    values: Floats
    judged: Flags

    def of(self, signal: str) -> Floats:
        """Return one signal, (nodes, times); NaN everywhere when it was not asked for."""
        if signal not in self.signals:
            return np.full(self.judged.shape, np.nan)
        return self.values[:, :, self.signals.index(signal)]


@dataclass(frozen=True, slots=True)
class Usual:
    """What is usual per node and signal: the middle and the spread of a node's own past, and of its distance to its
    peers; `has_past` is false where there are too few samples. Each of shape (nodes, signals).
    """

    own: Floats
    own_spread: Floats
    apart: Floats
    apart_spread: Floats
    has_past: Flags


@dataclass(frozen=True, slots=True)
class Deviations:
    """The result: `own` and `peer` in units for every signal (nodes, times, signals); `evidence` for the watched ones
    (nodes, times, watches), NaN where it cannot be told; `peers` what the peers show; `reference` the samples that
    count as healthy past (nodes, times).
    """

    own: Floats
    peer: Floats
    evidence: Floats
    peers: Floats
    usual: Usual
    reference: Flags


def grid(window: windows.Window, *, settle_seconds: float) -> Grid:
    """Lay the node signals of a window on one grid; signals that no node has are left out."""
    nodes = tuple(sorted(window.nodes))
    found = [{name: _plausible(series) for name, series in window.nodes[node].items()} for node in nodes]
    known = {name for signals in found for name, series in signals.items() if series}
    signals = tuple(name for name in node_signals.SIGNALS if name in known)
    times = np.array(sorted({t for there in found for name in signals for t in there.get(name, ())}))
    values = np.full((len(nodes), len(times), len(signals)), np.nan)
    for n, there in enumerate(found):
        for s, name in enumerate(signals):
            series = there.get(name, {})
            values[n, np.searchsorted(times, list(series)), s] = list(series.values())
    present = np.asarray((~np.isnan(values)).any(axis=2), dtype=np.bool_)
    bare = Grid(nodes, times, signals, values, present)
    return Grid(nodes, times, signals, values, _judged(bare, window.step_seconds, settle_seconds))


def _plausible(series: windows.Series) -> dict[float, float]:
    """Return the samples by time, without those that are no number or beyond all reason."""
    return {t: v for t, v in zip(series.times, series.values, strict=True) if abs(v) <= _MAX_VALUE}


def measure(seen: Grid, *, border: float, rate_seconds: float) -> Deviations:
    """Return how far every sample is from what is usual before `border` (Unix seconds).

    `rate_seconds` is the range over which rates and quantiles were computed: it says how many requests are behind one.
    Cost: a few sorts of the samples per block, 10 to 40 ms for 10 nodes and 15 minutes at 5 s on one core.
    """
    with np.errstate(all="ignore"):
        peers = _peers(seen)
        reference = _reference(seen, peers, rate_seconds)
        reference &= (seen.times <= border)[np.newaxis, :]
        usual = _usual(seen, peers, reference)
        own, peer = _units(seen, peers, usual)
        evidence = _evidence(seen, own, peer, usual, rate_seconds)
        return Deviations(own, peer, evidence, peers, usual, reference)


def middle(values: Floats, axis: int) -> Floats:
    """Return medians that leave NaN out; NaN where nothing is known. Faster than numpy's own, and without warnings."""
    ordered = np.sort(values, axis=axis)  # NaN comes last
    count = np.expand_dims((~np.isnan(values)).sum(axis=axis), axis)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=axis)
    high = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[axis] - 1), axis=axis)
    return np.squeeze((low + high) / 2.0, axis=axis)


def _judged(bare: Grid, step_seconds: float, settle_seconds: float) -> Flags:
    """Return where a node can be judged: it is there, works, and has done so for `settle_seconds`.

    A node that has just started loads, compiles and fills caches; one that was drained or kept out has refused requests
    on purpose. What was there when the window began has been there before, as far as anybody knows.
    """
    is_out = (bare.of(node_signals.DRAINING) >= 1.0) | (bare.of(node_signals.IN_SERVICE) == 0.0)
    working = np.asarray(bare.judged & ~is_out & ~(bare.of(node_signals.RESTARTS) >= 1.0), dtype=np.bool_)
    judged = working.copy()
    for n, works in enumerate(working):
        begun = bare.times[works]
        if len(begun):
            gaps = np.diff(begun, prepend=bare.times[0]) > _GAP_STEPS * step_seconds
            for start in begun[gaps]:
                judged[n] &= ~((bare.times >= start) & (bare.times < start + settle_seconds))
    return judged


def _peers(seen: Grid) -> Floats:
    """Return the median of each node's peers, same shape as the values; NaN where there are none to compare with."""
    usable = np.where(seen.judged[:, :, np.newaxis], seen.values, np.nan)
    load = np.where(seen.judged, seen.of(node_signals.LOAD), np.nan)
    needs_load = np.array([_is_load(name) for name in seen.signals], dtype=bool)
    peers = np.full_like(usable, np.nan)
    count = len(seen.nodes)
    for n in range(count):
        others = [(n + step) % count for step in range(1, min(count, _MAX_PEERS + 1))]
        if not others:
            continue
        idle = load[others] < _COMPARABLE_LOAD * load[n]
        kept = np.where(idle[:, :, np.newaxis] & needs_load, np.nan, usable[others])
        peers[n] = middle(kept, axis=0)
    return peers


def _is_load(signal: str) -> bool:
    return any(watch.signal == signal and watch.is_load for watch in node_signals.WATCHES)


def _reference(seen: Grid, peers: Floats, rate_seconds: float) -> Flags:
    """Return which samples count as healthy past: those that were not suspect, judged by the past before them.

    It begins with the first few of a window: taking more of them unseen would let trouble that began early pass for
    what is usual.
    """
    needed = [s for s, name in enumerate(seen.signals) if _watch_number(name) is not None or name in _EXPLAINS]
    suspect = np.zeros_like(seen.judged)
    for block in _blocks(len(seen.times)):
        before = _cut(seen, slice(block.start), needed)
        healthy = before.judged & ~_widened(suspect)[:, : block.start]
        usual = _usual(before, peers[:, : block.start, needed], healthy)
        usual = _spread_over(usual, needed, len(seen.signals))
        here = _cut(seen, block, list(range(len(seen.signals))))
        own, peer = _units(here, peers[:, block], usual)
        suspect[:, block] = (_evidence(here, own, peer, usual, rate_seconds) >= MIN_DEVIATION).any(axis=2)
    return seen.judged & ~_widened(suspect)


def _cut(seen: Grid, times: slice, columns: list[int]) -> Grid:
    """Return some times and some signals."""
    names = tuple(seen.signals[s] for s in columns)
    return Grid(seen.nodes, seen.times[times], names, seen.values[:, times, columns], seen.judged[:, times])


def _blocks(length: int) -> Iterator[slice]:
    """Cut the times after the first few into blocks: short ones at first, where each sample adds much to the past."""
    size = max(2, -(-length // _NUM_BLOCKS))
    early = range(_FIRST_SAMPLES, MIN_PAST_SAMPLES, 2)
    starts = [start for start in (*early, *range(MIN_PAST_SAMPLES, length, size)) if start < length]
    return itertools.starmap(slice, itertools.pairwise((*starts, length)))


def _widened(suspect: Flags) -> Flags:
    """Take in the samples just before and after: trouble grows and fades within the range of a rate."""
    wide = suspect.copy()
    for step in range(1, _MARGIN_SAMPLES + 1):
        wide[:, step:] |= suspect[:, :-step]
        wide[:, :-step] |= suspect[:, step:]
    return wide


def _spread_over(usual: Usual, columns: list[int], count: int) -> Usual:
    """Return `usual` of some columns as one over all; the others are unknown."""

    def wide(narrow: Floats) -> Floats:
        full = np.full((narrow.shape[0], count), np.nan)
        full[:, columns] = narrow
        return full

    has_past = np.zeros((usual.has_past.shape[0], count), dtype=bool)
    has_past[:, columns] = usual.has_past
    return Usual(wide(usual.own), wide(usual.own_spread), wide(usual.apart), wide(usual.apart_spread), has_past)


def _usual(seen: Grid, peers: Floats, reference: Flags) -> Usual:
    past = np.where(reference[:, :, np.newaxis], seen.values, np.nan)
    apart = np.where(_has_measure(seen.judged, reference)[:, :, np.newaxis], past - peers, np.nan)
    own, between = middle(past, axis=1), middle(apart, axis=1)
    own_spread = _MAD_TO_SIGMA * middle(np.abs(past - own[:, np.newaxis]), axis=1)
    apart_spread = _MAD_TO_SIGMA * middle(np.abs(apart - between[:, np.newaxis]), axis=1)
    has_past = (~np.isnan(past)).sum(axis=1) >= MIN_PAST_SAMPLES
    # Without a past of its own a node may be expected to be like its peers, and as restless as they are.
    is_known = has_past & ~np.isnan(between)
    between = np.where(is_known, between, 0.0)
    apart_spread = np.where(is_known, apart_spread, middle(np.where(is_known, apart_spread, np.nan), axis=0))
    return Usual(own, own_spread, between, apart_spread, has_past)


def _has_measure(judged: Flags, reference: Flags) -> Flags:
    """Return where most of a node's peers are themselves part of the healthy past, so that their median is, too.

    Of two peers one alone moves the median: what lies between its neighbours and them is then its trouble, not theirs.
    """
    surplus = np.zeros(judged.shape)
    for step in range(1, min(len(judged), _MAX_PEERS + 1)):
        surplus += np.roll(2.0 * reference - judged, -step, axis=0)
    return surplus > 0


def _units(seen: Grid, peers: Floats, usual: Usual) -> tuple[Floats, Floats]:
    """Return the deviations from the own past and from the peers, in units, (nodes, times, signals)."""
    shift, ratio = _floors(seen.signals)
    past = usual.own[:, np.newaxis]
    own = _scaled(seen.values - past, usual.own_spread, np.maximum(shift, ratio * np.abs(past)))
    own = np.where(usual.has_past[:, np.newaxis], own, np.nan)
    # What everybody suffers from is spread unevenly: the node has to stand out from it.
    shared = _SHARED_TIMES * np.nan_to_num(np.abs(peers - (past - usual.apart[:, np.newaxis])))
    floor = np.maximum(np.maximum(shift, ratio * np.abs(peers)), shared)
    return own, _scaled(seen.values - peers - usual.apart[:, np.newaxis], usual.apart_spread, floor)


def _scaled(distance: Floats, spread: Floats, floor: Floats) -> Floats:
    """Return distances in units: at least the usual spread, and such that the floor is MIN_DEVIATION of them."""
    units = distance / np.fmax(spread[:, np.newaxis], floor / MIN_DEVIATION)
    return np.clip(units, -MAX_DEVIATION, MAX_DEVIATION)


def _floors(signals: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Return the smallest change worth noticing per signal, absolute and of what is expected."""
    rows = {one.signal: one for one in (*node_signals.WATCHES, *node_signals.CONTEXT)}
    shift = [rows[name].min_shift if name in rows else _UNUSED for name in signals]
    ratio = [rows[name].min_ratio if name in rows else _UNUSED for name in signals]
    return np.array(shift), np.array(ratio)


def _watch_number(signal: str) -> int | None:
    names = [watch.signal for watch in node_signals.WATCHES]
    return names.index(signal) if signal in names else None


def _evidence(seen: Grid, own: Floats, peer: Floats, usual: Usual, rate_seconds: float) -> Floats:
    """Return for each watch by how many units a node is above both its past and its peers, (nodes, times, watches)."""
    found = np.full((*seen.judged.shape, len(node_signals.WATCHES)), np.nan)
    for s, name in enumerate(seen.signals):
        number = _watch_number(name)
        if number is not None:
            both = np.minimum(own[:, :, s], peer[:, :, s])
            alone = _WITHOUT_PAST * peer[:, :, s]
            found[:, :, number] = np.where(usual.has_past[:, np.newaxis, s], both, alone)
            found[:, :, number][~_is_supported(seen, name, usual, rate_seconds)] = np.nan
    found[~seen.judged] = np.nan
    return found


def _is_supported(seen: Grid, signal: str, usual: Usual, rate_seconds: float) -> Flags:
    """False where too few requests are behind a number, or where an emptied cache explains it."""
    requests = seen.of(node_signals.LOAD) * rate_seconds
    if signal == node_signals.ERRORS:
        return ~(seen.of(signal) * requests < _MIN_FAILED_REQUESTS)
    if signal != node_signals.LATENCY:
        return np.ones(seen.judged.shape, dtype=bool)
    has_enough = ~(requests < _MIN_REQUESTS)
    if node_signals.CACHE_HITS not in seen.signals:
        return has_enough
    usual_hits = usual.own[:, seen.signals.index(node_signals.CACHE_HITS)]
    return has_enough & ~(seen.of(node_signals.CACHE_HITS) < usual_hits[:, np.newaxis] - _HIT_RATIO_DROP)
