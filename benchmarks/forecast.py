"""Benchmark `forecast`: the error of forecasts over rolling origins, against the last value and plain Prophet.

Reads request rates wherever they lie below the folder, known by their columns (the data's own README tells them). Each
series is cut at 48 instants of its last week; the product's fit sees at most 14 days before one, and foretells two hours
from there, and from 20 and 40 minutes later, since a fit serves for an hour. Series shorter than four days are left out.
Judged are the rates in bins of five minutes, or of the data's own length where that is longer: 15 minutes ahead (one
bin, the first that ends no sooner), and all bins of the two hours. Prophet as it comes is fitted at every sixth cut and
compared with the last value there. CPU is that of this process and its children.
"""

import csv
import gzip
import itertools
import math
import resource
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import runner
from controlplane.capacity import gate
from controlplane.domain import forecasts, windows
from detectors import forecast, prophet_shape

Floats = npt.NDArray[np.float64]

DAY_SECONDS = 86_400
HISTORY_SECONDS = 14 * DAY_SECONDS
ORIGINS_SECONDS = 7 * DAY_SECONDS
NUM_FITS = 48
# Half of it is history for the first forecast, and a day is learned from two.
SHORTEST_SECONDS = 4 * DAY_SECONDS
# After each fit: as the product forecasts with a fit that is up to an hour old.
FORECASTS_SECONDS = (0, 1_200, 2_400)
HORIZON_SECONDS = 7_200
LEAD_SECONDS = 900.0
SHORTEST_BIN = 300
# Plain Prophet takes longer than everything else together.
PROPHET_EVERY = 6
# Of the clients of a service, the largest ones that are nearly always there; others are switches, not rates.
_NUM_CLIENTS = 3
_MAX_ZEROS = 0.05
# Below this share of the median a total is a hole in collection (the data's README).
_HOLE_RATIO = 0.02
_NUM_TIMINGS = 3
_HALF = 0.5
_EPOCH = 1_700_006_400  # midnight UTC, for data whose time begins at zero


@dataclass(frozen=True, slots=True)
class Rates:
    """One series: requests per second in bins of `step` seconds from `start` on, NaN where unknown."""

    name: str
    start: int
    step: int
    values: Floats


@dataclass
class Scores:
    """What was foretold for one series and what came: rows are origins."""

    lead: int
    truth: list[Floats] = field(default_factory=list[Floats])
    last: list[float] = field(default_factory=list[float])
    p10: list[Floats] = field(default_factory=list[Floats])
    p50: list[Floats] = field(default_factory=list[Floats])
    p90: list[Floats] = field(default_factory=list[Floats])
    prophet: dict[int, Floats] = field(default_factory=dict[int, Floats])  # by row
    is_open: list[bool] = field(default_factory=list[bool])
    declined: int = 0


def measure(context: runner.Context) -> dict[str, runner.Figure]:
    """Return the figures of all series below the folder, and those of each."""
    assert context.data is not None  # noqa: S101  # the runner asks for it
    prophet_shape.load()
    series = list(_read(context.data, context.say))
    details: dict[str, runner.Figure] = {}
    for one in series:
        scores = _score(one)
        if scores.truth:
            details[one.name] = _figures(scores)
            context.say(f"{one.name}: {details[one.name]}")
    return {**_summary(details), "cpu_s": _cpu(series), "details": details}


def _summary(details: Mapping[str, runner.Figure]) -> dict[str, runner.Figure]:
    rows = [one for one in details.values() if isinstance(one, dict)]

    def all_of(key: str) -> list[float]:
        return [value for row in rows if isinstance(value := row[key], int | float)]

    coverage = all_of("coverage")
    return {
        "series": len(rows),
        "ratio_15m": statistics.fmean(all_of("ratio_15m")),
        "ratio_2h": statistics.fmean(all_of("ratio_2h")),
        "prophet_ratio_15m": statistics.fmean(all_of("prophet_ratio_15m")),
        "prophet_ratio_2h": statistics.fmean(all_of("prophet_ratio_2h")),
        "coverage": statistics.fmean(coverage),
        "coverage_min": min(coverage),
        "coverage_max": max(coverage),
        # Rates of a few requests an hour would rule a mean.
        "pinball90": statistics.median(all_of("pinball90")),
        "pinball90_mean": statistics.fmean(all_of("pinball90")),
        "gate_closed": [name for name, row in sorted(details.items()) if _is_mostly_closed(row)],
    }


def _is_mostly_closed(row: runner.Figure) -> bool:
    return isinstance(row, dict) and isinstance(ratio := row["gate_open_ratio"], float) and ratio < _HALF


# -- forecasts over rolling origins


def _score(series: Rates) -> Scores:
    horizon = HORIZON_SECONDS // series.step
    scores = Scores(lead=min(horizon, math.ceil(LEAD_SECONDS / series.step)))
    for number, fitted_at in enumerate(_origins(series, horizon)):
        history = _known(series, fitted_at)
        request = forecast.FitRequest(
            series.name, history, float(series.step), horizon, LEAD_SECONDS, _end(series, fitted_at)
        )
        fitted = forecast.fit(request)
        if isinstance(fitted, forecasts.NoForecast):
            scores.declined += 1
            continue
        for later in FORECASTS_SECONDS:
            _foretell(scores, series, fitted, fitted_at + later // series.step)
        if number % PROPHET_EVERY == 0:
            foretold = _plain_prophet(history, series.step, horizon)
            scores.prophet[len(scores.truth) - len(FORECASTS_SECONDS)] = foretold
    return scores


def _foretell(scores: Scores, series: Rates, fitted: forecast.Fitted, origin: int) -> None:
    """Score the forecast that is made when bin `origin` is over; as the last value counts the newest known one."""
    made = forecast.forecast(fitted, _known(series, origin), _end(series, origin))
    if isinstance(made, forecasts.NoForecast):
        raise AssertionError(f"{series.name}: {made}")  # noqa: TRY004  # the data, not its type
    scores.truth.append(series.values[origin + 1 : origin + 1 + len(made.p50)])
    scores.last.append(made.last)
    scores.p10.append(np.array(made.p10))
    scores.p50.append(np.array(made.p50))
    scores.p90.append(np.array(made.p90))
    scores.is_open.append(gate.gate(made, None).is_open)


def _origins(series: Rates, horizon: int) -> list[int]:
    """Return the newest bins at the fits: of the last week, and never of the first half; all known that forecasts need."""
    laters = [later // series.step for later in FORECASTS_SECONDS]
    last = len(series.values) - 1 - horizon - max(laters)
    first = max(len(series.values) // 2, last - ORIGINS_SECONDS // series.step)
    spread = sorted({int(one) for one in np.linspace(first, last, NUM_FITS)})
    return [one for one in spread if not np.isnan(series.values[[one + later for later in laters]]).any()]


def _known(series: Rates, origin: int) -> windows.Series:
    """Return the bins up to `origin`, of the last 14 days."""
    first = max(0, origin + 1 - HISTORY_SECONDS // series.step)
    seen = series.values[first : origin + 1]
    known = np.flatnonzero(~np.isnan(seen))
    times = series.start + (first + known) * series.step
    return windows.Series(tuple(times.astype(np.float64).tolist()), tuple(seen[known].tolist()))


def _end(series: Rates, origin: int) -> datetime:
    return datetime.fromtimestamp(series.start + (origin + 1) * series.step, UTC)


def _plain_prophet(history: windows.Series, step: int, horizon: int) -> Floats:
    import pandas as pd

    model: Any = prophet_shape.load()()
    stamps = np.array(history.times).astype("datetime64[s]")
    model.fit(pd.DataFrame({"ds": stamps, "y": history.values}), seed=1)  # noqa: PD011  # not of pandas
    ahead = (history.times[-1] + step * np.arange(1, horizon + 1)).astype("datetime64[s]")
    return np.asarray(model.predict(pd.DataFrame({"ds": ahead}))["yhat"], dtype=np.float64)


# -- figures


def _figures(scores: Scores) -> dict[str, runner.Figure]:
    truth, p10, p50, p90 = (np.stack(one) for one in (scores.truth, scores.p10, scores.p50, scores.p90))
    last = np.repeat(np.array(scores.last)[:, np.newaxis], truth.shape[1], axis=1)
    plain, prophet = list(scores.prophet), np.stack(list(scores.prophet.values()))
    known, column = ~np.isnan(truth), slice(scores.lead - 1, scores.lead)
    over = (truth - p90)[known]
    return {
        "origins": len(truth),
        "declined": scores.declined,
        "ratio_15m": _ratio(truth[:, column], p50[:, column], last[:, column]),
        "ratio_2h": _ratio(truth, p50, last),
        "ratio_2h_end": _ratio(truth[:, -1:], p50[:, -1:], last[:, -1:]),
        "prophet_ratio_15m": _ratio(truth[plain, column], prophet[:, column], last[plain, column]),
        "prophet_ratio_2h": _ratio(truth[plain], prophet, last[plain]),
        "coverage": float(np.mean(((truth >= p10) & (truth <= p90))[known])),
        "pinball90": float(np.mean(np.maximum(0.9 * over, -0.1 * over)) / max(float(truth[known].mean()), 1e-9)),
        "gate_open_ratio": float(np.mean(scores.is_open)),
    }


def _ratio(truth: Floats, foretold: Floats, naive: Floats) -> float:
    """Return the sum of errors over the sum of the naive ones."""
    return float(np.nansum(np.abs(truth - foretold)) / max(float(np.nansum(np.abs(truth - naive))), 1e-9))


def _cpu(series: Sequence[Rates]) -> float:
    """Return the CPU seconds of a fit and a forecast over seven days of minutes: the median of some."""
    history = _minutes(series)
    now = datetime.fromtimestamp(history.times[-1] + 60, UTC)
    taken: list[float] = []
    for _ in range(_NUM_TIMINGS):
        before = _cpu_seconds()
        fitted = forecast.fit(forecast.FitRequest("minutes", history, 60.0, HORIZON_SECONDS // 60, LEAD_SECONDS, now))
        if isinstance(fitted, forecast.Fitted):
            forecast.forecast(fitted, history.since(now.timestamp() - 10_800), now)
        taken.append(_cpu_seconds() - before)
    return statistics.median(taken)


def _minutes(series: Sequence[Rates]) -> windows.Series:
    """Return a week of minutes, as arrivals at random around the last week of the first series would be."""
    chance = np.random.default_rng(1)
    known = np.nan_to_num(series[0].values[-7 * DAY_SECONDS // series[0].step :])  # noqa: PD011  # not of pandas
    known = known.repeat(series[0].step // 60)
    times = series[0].start + 60 * np.arange(len(known))
    arrived = chance.poisson(known * 60).astype(np.float64) / 60
    return windows.Series(tuple(times.astype(float).tolist()), tuple(arrived.tolist()))


def _cpu_seconds() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


# -- reading


def _read(folder: Path, say: Callable[[str], None]) -> Iterator[Rates]:
    for path in sorted(folder.rglob("*.csv.gz")):
        with gzip.open(path, "rt") as file:
            columns = next(csv.reader(file), list[str]())
        reader = next((read for known, read in _READERS if known <= set(columns) and _is_requests(path)), None)
        if reader is None:
            continue
        for one in reader(path):
            if len(one.values) * one.step < SHORTEST_SECONDS or not np.nansum(one.values):
                say(f"{one.name}: left out, {len(one.values) * one.step / DAY_SECONDS:.2g} days are too short")
                continue
            yield one


def _is_requests(path: Path) -> bool:
    """Of the benchmark of anomalies only the counts of requests are."""
    is_other = "nab" in path.parts or path.parent.name.startswith(("real", "art"))
    return not is_other or path.name.startswith(("Twitter_volume", "elb_request", "nyc_taxi"))


def _name(path: Path) -> str:
    return path.name.removesuffix(".csv.gz")


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt") as file:
        yield from csv.DictReader(file)


def _of_servegen(path: Path) -> Iterator[Rates]:
    rows = list(_rows(path))
    step = int(float(rows[1]["second"]) - float(rows[0]["second"]))
    clients = [one for one in rows[0] if one.startswith("client_")]
    read = {one: np.array([float(row[one] or 0) for row in rows]) for one in ("total_rps", *clients)}
    is_hole = read["total_rps"] < _HOLE_RATIO * np.median(read["total_rps"])
    steady = [one for one in clients if np.mean(read[one][~is_hole] == 0) < _MAX_ZEROS]
    for one in ("total_rps", *steady[:_NUM_CLIENTS]):
        yield Rates(f"{_name(path)}/{one.removesuffix('_rps')}", _EPOCH, step, np.where(is_hole, np.nan, read[one]))


def _of_minutes(path: Path) -> Iterator[Rates]:
    yield _binned(_name(path), [(_seconds(row["timestamp"]), float(row["requests"])) for row in _rows(path)])


def _of_counts(path: Path) -> Iterator[Rates]:
    yield _binned(_name(path), [(_seconds(row["timestamp"]), float(row["value"])) for row in _rows(path)])


def _of_requests(path: Path) -> Iterator[Rates]:
    yield _binned(_name(path), [(_seconds(row["gmt_create"]), 1.0) for row in _rows(path)], is_sparse=True)


def _of_offsets(column: str, per_second: float) -> Callable[[Path], Iterator[Rates]]:
    def read(path: Path) -> Iterator[Rates]:
        at = [(_EPOCH + int(float(row[column]) / per_second), 1.0) for row in _rows(path)]
        yield _binned(_name(path), at, is_sparse=True)

    return read


def _binned(name: str, counts: Sequence[tuple[int, float]], *, is_sparse: bool = False) -> Rates:
    """Return rates of counted requests. Where each row is a request, a bin without rows had none; else it is unknown."""
    ordered = sorted(counts)
    gaps = Counter(b - a for (a, _), (b, _) in itertools.pairwise(ordered))
    step = SHORTEST_BIN if is_sparse else max(SHORTEST_BIN, gaps.most_common(1)[0][0])
    start = ordered[0][0] // step * step
    places = np.array([(at - start) // step for at, _ in ordered])
    sums = np.bincount(places, [count for _, count in ordered])
    rows = np.bincount(places)
    values = sums / step
    return Rates(name, start, step, values if is_sparse else np.where(rows > 0, values, np.nan))


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


_READERS: Sequence[tuple[set[str], Callable[[Path], Iterator[Rates]]]] = (
    ({"second", "total_rps"}, _of_servegen),
    ({"timestamp", "requests"}, _of_minutes),
    ({"gmt_create", "predict_status"}, _of_requests),
    ({"second", "ContextTokens"}, _of_offsets("second", 1.0)),
    ({"timestamp", "input_length"}, _of_offsets("timestamp", 1000.0)),
    ({"timestamp", "value"}, _of_counts),
)
