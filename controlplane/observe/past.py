"""Puts range answers together into a window in which every sample can be trusted.

Called by the reader. Pure. Prometheus repeats a sample for up to five minutes when none follows, and a rate goes on
after its target died: so a sample stands only where the targets behind it were up and freshly scraped at that very
time, by the rule of `fleet`. Everything else is a hole, never a zero.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from controlplane import promql
from controlplane.domain import services, windows
from controlplane.domain import signals as sig
from controlplane.observe import asking, fleet, prometheus

Answer = Sequence[prometheus.Track] | sig.Unknown
_Points = dict[float, float]


class Span(NamedTuple):
    """First and last instant in whole Unix seconds, and the step between two points."""

    start: float
    end: float
    step: int


@dataclass(frozen=True, slots=True)
class Presence:
    """How the targets of a service were doing: as seen last (`seen`), and at each point in time (`then`)."""

    seen: fleet.Nodes
    then: Mapping[float, fleet.Nodes]

    def trusted(self, source: str, node: str | None, fresh_seconds: float) -> frozenset[float]:
        """Return the instants at which a number of `node` (None: the service) from `source` can be believed."""
        return frozenset(t for t, there in self.then.items() if _is_trusted(there, source, node, fresh_seconds))

    def is_up(self, node: str, time: float) -> bool:
        """Say whether a node was up at an instant."""
        there = self.then.get(time)
        return there is not None and node in there.nodes and there.nodes[node].is_up


def presence(
    service: services.Service,
    queries: promql.EngineQueries,
    up: Sequence[prometheus.Track],
    scraped: Sequence[prometheus.Track],
) -> Presence:
    """Join the answers to `up` and `timestamp(up)` over a span."""
    times = {frozenset(track.labels.items()): dict(track.points) for track in scraped}
    then: dict[float, list[fleet.Target]] = {}
    newest: list[fleet.Target] = []
    for track in up:
        at = times.get(frozenset(track.labels.items()), {})
        found = [
            (time, fleet.Target(track.labels, value == 1.0, at[time], time - at[time]))
            for time, value in track.points
            if time in at
        ]
        newest += [target for _, target in found[-1:]]
        for time, target in found:
            then.setdefault(time, []).append(target)
    return Presence(
        fleet.sort(service, queries, newest),
        {time: fleet.sort(service, queries, targets) for time, targets in sorted(then.items())},
    )


def _is_trusted(there: fleet.Nodes, source: str, node: str | None, fresh_seconds: float) -> bool:
    if not source and node is not None and node not in there.nodes:
        return False
    return fleet.is_trusted(there.behind(source, node), fresh_seconds)


def assemble(
    service: services.Service,
    span: Span,
    present: Presence,
    answers: Sequence[tuple[asking.Question, Answer]],
    unknown: Mapping[str, sig.Unknown],
) -> windows.Window:
    """Return the window: the trusted samples of each answer, and nodes added up where no query did."""
    missing = dict(unknown) | {q.signal.name: a for q, a in answers if isinstance(a, sig.Unknown)}
    nodes: dict[str, dict[str, _Points]] = {}
    whole: dict[str, _Points] = {}
    seen = {service.name: present.seen}
    trusted = _Trust(present)
    for question, answer in answers:
        name = question.signal.name
        if isinstance(answer, sig.Unknown) or name in missing:
            continue
        tracks = asking.placed(question, ((track.labels, track.points) for track in answer), seen)
        for (_, node), points in tracks:
            kept = trusted.keep(question, node, points)
            if kept:
                (nodes.setdefault(node, {}) if node else whole)[name] = kept
    _add_up(present, [q for q, _ in answers], nodes, whole)
    empty = {q.signal.name for q, _ in answers} - missing.keys() - whole.keys() - {n for v in nodes.values() for n in v}
    silent = dict.fromkeys(empty, sig.Unknown(sig.UnknownReason.NO_SERIES))
    return window(service.name, span, whole, nodes, missing | silent)


def window(
    service: str,
    span: Span,
    whole: Mapping[str, Mapping[float, float]],
    nodes: Mapping[str, Mapping[str, Mapping[float, float]]],
    unknown: Mapping[str, sig.Unknown],
) -> windows.Window:
    """Return a window out of plain points."""
    return windows.Window(
        service=service,
        start=datetime.fromtimestamp(span.start, tz=UTC),
        end=datetime.fromtimestamp(span.end, tz=UTC),
        step_seconds=float(span.step),
        service_signals=_series(whole),
        nodes={node: _series(signals) for node, signals in sorted(nodes.items())},
        unknown=unknown,
    )


class _Trust:
    """Remembers which instants can be believed: most signals share source and freshness."""

    def __init__(self, present: Presence) -> None:
        self._present = present
        self._times: dict[tuple[str, str, float], frozenset[float]] = {}

    def keep(self, question: asking.Question, node: str, points: Iterable[tuple[float, float]]) -> _Points:
        key = (question.source, node, question.signal.fresh_seconds)
        if key not in self._times:
            self._times[key] = self._present.trusted(question.source, node or None, question.signal.fresh_seconds)
        times = self._times[key]
        return {time: value for time, value in points if time in times and math.isfinite(value)}


def _add_up(
    present: Presence,
    asked: Sequence[asking.Question],
    nodes: Mapping[str, Mapping[str, _Points]],
    whole: dict[str, _Points],
) -> None:
    """Combine nodes where the profile has no query for the service; an instant counts when every node up has a value."""
    own = {q.signal.name for q in asked if q.scope is sig.Scope.SERVICE}
    for question in asked:
        row = question.signal
        if row.name in own or row.combine is sig.Combine.NONE:
            continue
        tracks = {node: signals[row.name] for node, signals in nodes.items() if row.name in signals}
        combined = _combined(row.combine, tracks, present.is_up, present.seen.nodes)
        if combined:
            whole[row.name] = combined


def _combined(
    how: sig.Combine,
    tracks: Mapping[str, _Points],
    is_up: Callable[[str, float], bool],
    known: Iterable[str],
) -> _Points:
    found: _Points = {}
    names = list(known)
    for time in sorted({time for points in tracks.values() for time in points}):
        values = [points[time] for points in tracks.values() if time in points]
        if all(time in tracks.get(node, {}) or not is_up(node, time) for node in names):
            found[time] = fleet.add_up(how, values)
    return found


def _series(signals: Mapping[str, Mapping[float, float]]) -> dict[str, windows.Series]:
    return {
        name: windows.Series(tuple(sorted(points)), tuple(points[time] for time in sorted(points)))
        for name, points in signals.items()
    }
