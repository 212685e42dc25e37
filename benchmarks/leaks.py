"""Benchmark `leaks`: false alarms on the memory of real pods, and how soon a leak added to it is found.

Reads the memory of the pods of a GPU service over a day (`pod_memory_util_anon.csv.gz`, a share of the container's limit,
and `pod_gpu_memory_used_bytes_anon.csv.gz`; the data's own README tells the columns). Each pod is looked at every five
minutes through the window that a control plane would have, once as it was, and once for each leak of 2 % of the limit an
hour that is added from a certain moment on. Compared with the naive rule: an hour's least squares slope with t above 4.
"""

import csv
import gzip
import math
import statistics
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks import runner
from controlplane.domain import findings, services, windows
from detectors import leak

LOOK_SECONDS = 300.0
# Looks that find the same within an hour are one episode, as for whoever is called.
EPISODE_SECONDS = 3600.0
LEAK_RATIO_PER_HOUR = 0.02
LEAK_SECONDS = 5 * 3600.0
# Between two onsets on one pod; the first comes when the longest window is full of the pod's own past.
ONSET_EVERY_SECONDS = 4 * 3600.0
_MIN_SAMPLES = 10
_NAIVE_SECONDS = 3600.0
_NAIVE_T = 4.0
_SERVICE = services.Service("pods", "dsctl", {})
_STEP_SECONDS = 57.0
# Times of the data count from zero; any instant will do.
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Memory:
    """One kind of memory: the file, its column, and the signals the detector knows it by."""

    key: str
    file: str
    column: str
    signal: str
    limit_signal: str = ""


HOST = Memory("host", "pod_memory_util_anon.csv.gz", "mem_util_pct", "host_memory_used", "host_memory_limit")
GPU = Memory("gpu", "pod_gpu_memory_used_bytes_anon.csv.gz", "gpu_mem_bytes", "gpu_memory_used_ratio")


@dataclass(frozen=True, slots=True)
class Track:
    """What one pod used, as shares of the limit, at ascending seconds."""

    times: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def days(self) -> float:
        """How long the pod was seen."""
        return (self.times[-1] - self.times[0]) / 86_400

    def looks(self, start: float = -math.inf, end: float = math.inf) -> Iterator[float]:
        """Yield when the pod is looked at: every five minutes of its life."""
        number = int((self.times[-1] - self.times[0]) / LOOK_SECONDS)
        return (at for n in range(1, number + 1) if start <= (at := self.times[0] + n * LOOK_SECONDS) <= end)

    def until(self, end: float, seconds: float) -> "Track":
        """Return the last `seconds` before `end`."""
        first, last = bisect_left(self.times, end - seconds), bisect_right(self.times, end)
        return Track(self.times[first:last], self.values[first:last])

    def leaking(self, onset: float) -> "Track":
        """Return it with a leak from `onset` on; what is full stays full."""
        added = (max(0.0, t - onset) / 3600 * LEAK_RATIO_PER_HOUR for t in self.times)
        return Track(self.times, tuple(min(max(1.0, v), v + more) for v, more in zip(self.values, added, strict=True)))


Judge = Callable[[Track, float], bool]
"""Says whether a pod leaks, from what was seen until an instant."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a judge said: false episodes, and the minutes until each leak was found (None: not in five hours)."""

    episodes: int
    minutes: tuple[float | None, ...]


def measure(context: runner.Context) -> dict[str, runner.Figure]:
    """Return the figures of the detector and of the naive rule, together and for either kind of memory."""
    folder = _folder(context)
    tracks = {each.key: read(folder, each) for each in (HOST, GPU)}
    figures: dict[str, runner.Figure] = {
        "pods": len({pod for known in tracks.values() for pod in known}),
        "pod_days": round(sum(track.days for track in tracks[HOST.key].values()), 1),
    }
    for prefix, judges in (("", {each.key: detector(each) for each in (HOST, GPU)}), ("naive_", {})):
        seen: dict[str, Seen] = {}
        for kind, known in tracks.items():
            context.say(f"{prefix or 'detector_'}{kind}: {len(known)} pods")
            seen[kind] = judge_all(known, judges.get(kind, naive))
        figures |= _figures(prefix, tracks, seen)
    return figures


def _folder(context: runner.Context) -> Path:
    """Return where the files are: in the folder given, or in its folder `gpu_pods`."""
    given = context.data or Path()
    return given / "gpu_pods" if (given / "gpu_pods").is_dir() else given


def read(folder: Path, memory: Memory) -> dict[str, Track]:
    """Return every pod long enough to be looked at; without a stated limit the most that any pod used is the limit."""
    rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with gzip.open(folder / memory.file, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row[memory.column] and row["pod"] != "all":
                rows[row["pod"]].append((float(row["second"]), float(row[memory.column])))
    limit = 1.0 if memory.limit_signal else max(value for each in rows.values() for _, value in each)
    ordered = {pod: sorted(each) for pod, each in sorted(rows.items()) if len(each) >= _MIN_SAMPLES}
    return {
        pod: Track(tuple(second for second, _ in each), tuple(value / limit for _, value in each))
        for pod, each in ordered.items()
    }


def detector(memory: Memory) -> Judge:
    """Return the shipped detector as a judge of one kind of memory."""
    made = leak.Leak()

    def leaks(track: Track, end: float) -> bool:
        part = track.until(end, made.window_seconds)
        series = {memory.signal: windows.Series(part.times, part.values)}
        if memory.limit_signal:
            series[memory.limit_signal] = windows.Series(part.times, (1.0,) * len(part.times))
        shifted = {
            name: windows.Series(tuple(_EPOCH.timestamp() + t for t in s.times), s.values) for name, s in series.items()
        }
        at = _EPOCH + timedelta(seconds=end)
        start = at - timedelta(seconds=made.window_seconds)
        window = windows.Window(_SERVICE.name, start, at, _STEP_SECONDS, {}, {"pod": shifted})
        return any(isinstance(said, findings.Finding) for said in made.detect(_SERVICE, window))

    return leaks


def naive(track: Track, end: float) -> bool:
    """Say whether an hour's least squares slope is above zero by more than four of its standard errors."""
    part = track.until(end, _NAIVE_SECONDS)
    number = len(part.times)
    if number < _MIN_SAMPLES:
        return False
    mean_t, mean_v = statistics.fmean(part.times), statistics.fmean(part.values)
    spread = sum((t - mean_t) ** 2 for t in part.times)
    slope = sum((t - mean_t) * (v - mean_v) for t, v in zip(part.times, part.values, strict=True)) / spread
    residual = sum((v - mean_v - slope * (t - mean_t)) ** 2 for t, v in zip(part.times, part.values, strict=True))
    error = math.sqrt(residual / (number - 2) / spread)
    return slope > 0 and slope > _NAIVE_T * error


def judge_all(tracks: dict[str, Track], leaks: Judge) -> Seen:
    """Look at every pod as it was, and at every leak that is added to it."""
    episodes, minutes = 0, list[float | None]()
    for track in tracks.values():
        hits = {at for at in track.looks() if leaks(track, at)}
        episodes += count_episodes(sorted(hits))
        for onset in onsets(track):
            # What is called a leak already would be found at once, and prove nothing.
            if not any(onset - EPISODE_SECONDS <= at <= onset for at in hits):
                minutes.append(_found_after(track, onset, leaks))
    return Seen(episodes, tuple(minutes))


def count_episodes(hits: Sequence[float]) -> int:
    """Return how often somebody is called: looks less than an hour apart are one call.

    >>> count_episodes([0.0, 300.0, 3900.0, 9000.0])
    2
    """
    return sum(1 for before, at in zip([-math.inf, *hits], hits, strict=False) if at - before > EPISODE_SECONDS)


def onsets(track: Track) -> Iterator[float]:
    """Yield the instants at which a leak begins, such that the past before it and the five hours after it are known."""
    onset = track.times[0] + LEAK_SECONDS
    while onset <= track.times[-1] - LEAK_SECONDS:
        yield onset
        onset += ONSET_EVERY_SECONDS


def _found_after(track: Track, onset: float, leaks: Judge) -> float | None:
    leaking = track.leaking(onset)
    found = (at for at in leaking.looks(onset, onset + LEAK_SECONDS) if leaks(leaking, at))
    first = next(found, None)
    return None if first is None else (first - onset) / 60


def _figures(prefix: str, tracks: dict[str, dict[str, Track]], seen: dict[str, Seen]) -> dict[str, runner.Figure]:
    """Return false episodes per pod-day (of both kinds of memory together), and how leaks were found."""
    minutes = [each for one in seen.values() for each in one.minutes]
    days = {kind: sum(track.days for track in known.values()) for kind, known in tracks.items()}
    figures: dict[str, runner.Figure] = {
        f"{prefix}false_per_pod_day": round(sum(one.episodes / days[kind] for kind, one in seen.items()), 3),
        **_found(prefix, minutes),
    }
    for kind, one in seen.items():
        figures[f"{prefix}{kind}_false_per_pod_day"] = round(one.episodes / days[kind], 3)
        figures |= _found(f"{prefix}{kind}_", list(one.minutes))
    return figures


def _found(prefix: str, minutes: Sequence[float | None]) -> dict[str, runner.Figure]:
    found = [each for each in minutes if each is not None]
    return {
        f"{prefix}leaks": len(minutes),
        f"{prefix}found_ratio": round(len(found) / len(minutes), 3) if minutes else None,
        f"{prefix}minutes_2pct": round(statistics.median(found), 1) if found else None,
    }
