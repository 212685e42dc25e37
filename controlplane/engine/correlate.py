"""Merges what detectors and alerts say into incidents, and lets incidents end when all of them are quiet.

Called by the tick. Level-based: it is given what is reported now, never events. An incident is keyed by
(service, fault class, node). It never closes an incident on missing data: a source that cannot speak, or a
signal that is unknown, holds the incident. Only a target that was taken away for good ends it. It never looks at runs (see `follow`). Pure functions.

Topology rule: trouble of one node explains trouble of its whole service. A service-wide incident about errors or
latency, or of the same fault class, names the node's incident as its probable cause and is not acted on while that
one is being handled; acting on both would do the same work twice. Overload is the exception: busy nodes do not explain
an overloaded service. It is the other way round: while a service is reported overloaded, waiting and slowness of one of
its nodes are load; restarting it would take capacity away where there is too little.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from controlplane import phrases
from controlplane.domain import findings as fnd
from controlplane.domain import incidents as inc
from controlplane.domain import signals as sig
from controlplane.domain import windows
from controlplane.engine import words

# What a user of the service feels; everything else is a cause of its own.
_SYMPTOMS = frozenset({fnd.FaultClass.ERRORS, fnd.FaultClass.LATENCY})
# What load explains on a node; errors and a halted engine are its own.
_LOAD_SIGNALS = frozenset({"queue_age", "queue_depth", "latency_p99", "ttft_p95", "inter_token_latency_p95"})
_HANDLED = frozenset({inc.IncidentState.OPEN, inc.IncidentState.ACTING, inc.IncidentState.VERIFYING})
# A node that crashed with its machine leaves the targets too, and comes back within minutes. One that is not back after
# an hour was taken away, and its incident would stay open, and people told of it, for ever.
GONE_SECONDS = 3600.0
# States in which quiet alone may end an incident; while a run acts or verifies, the run's end decides.
_ENDS_BY_ITSELF = frozenset({inc.IncidentState.OPEN, inc.IncidentState.ESCALATED})


class Voice(NamedTuple):
    """What a detector says of one node by one signal; an empty name stands for all of them."""

    service: str
    source: str
    node: str = ""
    signal: str = ""


@dataclass(frozen=True, slots=True)
class Level:
    """What is reported at this instant.

    `mute` names what could not be said, with the reason; `view` is None when nothing could be read at all.
    """

    now: datetime
    findings: Sequence[fnd.Finding]
    view: windows.FleetView | None
    mute: Mapping[Voice, str] = field(default_factory=dict[Voice, str])


@dataclass(frozen=True, slots=True)
class Change:
    """An incident as it stands now, with the note for its timeline; without a note there is nothing to save."""

    incident: inc.Incident
    note: str


@dataclass(frozen=True, slots=True)
class Correlated:
    """Every incident as it stands now, in the order of the ids; `changes` are those to save.

    `reported` are the ids some source reports now; `held` gives, for the others that go on, the sentence why.
    """

    incidents: tuple[inc.Incident, ...]
    changes: tuple[Change, ...]
    reported: frozenset[str]
    held: Mapping[str, str]


def correlate(
    level: Level,
    unclosed: Sequence[inc.Incident],
    *,
    quiet_seconds: float,
    new_id: Callable[[datetime], str],
) -> Correlated:
    """Return the incidents after this instant.

    `quiet_seconds` is how long all sources of an incident must stay quiet before it ends by itself.
    """
    pending = _by_key(level.findings)
    after: list[inc.Incident] = []
    changes: list[Change] = []
    reported: set[str] = set()
    held: dict[str, str] = {}
    for before in sorted(unclosed, key=lambda incident: incident.id):
        here = pending.pop(before.key, None)
        change = _quiet(level, before, quiet_seconds, held) if here is None else _report(level, before, here)
        after.append(change.incident)
        changes.extend([change] if change.note else [])
        reported.update([] if here is None else [before.id])
    for key in sorted(pending, key=str):
        change = _open(level, key, pending[key], new_id)
        after.append(change.incident)
        changes.append(change)
        reported.add(change.incident.id)
    return Correlated(tuple(after), tuple(changes), frozenset(reported), held)


def by_scope(incidents: Sequence[inc.Incident]) -> Mapping[tuple[str, bool], Sequence[inc.Incident]]:
    """Return incidents by service and whether they are about one of its nodes: each is explained by the other kind."""
    scopes: dict[tuple[str, bool], list[inc.Incident]] = {}
    for incident in incidents:
        scopes.setdefault((incident.key.service, bool(incident.key.node)), []).append(incident)
    return scopes


def cause_of(incident: inc.Incident, others: Sequence[inc.Incident]) -> inc.Incident | None:
    """Return the incident that probably explains this one, the worst, then the oldest: a node's explains its service's,
    and an overload of the service what its nodes seem to suffer from.
    """
    explains = _overloads if incident.key.node else _explains
    causes = [other for other in others if explains(other, incident)]
    return min(causes, key=lambda other: (-other.severity.rank, other.opened_at, other.id), default=None)


def _explains(cause: inc.Incident, symptom: inc.Incident) -> bool:
    if not cause.key.node or cause.key.service != symptom.key.service:
        return False
    if cause.state not in _HANDLED or cause.quiet_since is not None:
        return False
    if symptom.key.fault in _SYMPTOMS:
        return True
    # Under overload every node is busy: that is the service's trouble seen from within, not its cause.
    return symptom.key.fault is cause.key.fault and symptom.key.fault is not fnd.FaultClass.OVERLOAD


def _overloads(cause: inc.Incident, symptom: inc.Incident) -> bool:
    if cause.key.node or cause.key.service != symptom.key.service or cause.key.fault is not fnd.FaultClass.OVERLOAD:
        return False
    if cause.is_final or cause.quiet_since is not None:
        return False
    return symptom.key.fault is fnd.FaultClass.BAD_NODE and symptom.finding.signal in _LOAD_SIGNALS


def _by_key(findings: Sequence[fnd.Finding]) -> dict[inc.IncidentKey, list[fnd.Finding]]:
    grouped: dict[inc.IncidentKey, list[fnd.Finding]] = {}
    for finding in findings:
        grouped.setdefault(inc.IncidentKey(finding.service, finding.kind, finding.node), []).append(finding)
    return grouped


def _worst(findings: Sequence[fnd.Finding]) -> fnd.Finding:
    """Return the worst finding, of equals the newest; the source breaks a tie so that the answer is stable."""
    return max(findings, key=lambda finding: (finding.severity.rank, finding.at, finding.source))


def _open(
    level: Level, key: inc.IncidentKey, findings: Sequence[fnd.Finding], new_id: Callable[[datetime], str]
) -> Change:
    worst = _worst(findings)
    first = min(findings, key=lambda finding: (finding.at, finding.source))
    incident = inc.Incident(
        id=new_id(level.now),
        key=key,
        state=inc.IncidentState.OPEN,
        severity=worst.severity,
        opened_at=level.now,
        updated_at=level.now,
        opened_by=first.source,
        finding=worst,
        sources=_sources(findings),
        sentence=f"opened: {words.trouble(worst)}",
    )
    return Change(incident, f"opened by {first.source} ({worst.severity}): {words.trouble(worst)}")


def _report(level: Level, before: inc.Incident, findings: Sequence[fnd.Finding]) -> Change:
    """Merge what is said about an incident we know; new numbers alone are no news."""
    worst = _worst(findings)
    severity = max(before.severity, worst.severity, key=lambda one: one.rank)
    joined = sorted({finding.source for finding in findings} - set(before.sources))
    after = dataclasses.replace(
        before,
        severity=severity,
        finding=worst,
        sources=tuple(sorted({*before.sources, *joined})),
        quiet_since=None,
        gone_since=None,
        updated_at=level.now,
    )
    notes: list[str] = []
    if before.quiet_since is not None or before.gone_since is not None:
        notes.append(f"reported again by {', '.join(_sources(findings))}")
    if severity is not before.severity:
        notes.append(f"now {severity}: {words.trouble(worst)}")
    if joined:
        notes.append(f"also reported by {', '.join(joined)}")
    return Change(after, "; ".join(notes))


def _quiet(level: Level, before: inc.Incident, quiet_seconds: float, held: dict[str, str]) -> Change:
    """Treat an incident nobody reports now: note it, and end it when that lasted and is certain."""
    if gone := _gone(level, before):
        return _outlive(level, before, gone, held)
    if before.gone_since is not None:
        back = dataclasses.replace(before, gone_since=None, updated_at=level.now)
        held[before.id] = f"held: {words.target(before.key.service, before.key.node)} is back"
        return Change(back, held[before.id])
    if unknown := _unknown(level, before):
        held[before.id] = f"held: no source reports it, but {unknown}; unknown data never closes an incident"
        return _unquiet(level, before, unknown)
    if before.quiet_since is None:
        held[before.id] = f"quiet: no source reports it; ends by itself in {phrases.duration(quiet_seconds)}"
        quiet = dataclasses.replace(before, quiet_since=level.now, updated_at=level.now)
        return Change(quiet, f"quiet: no longer reported by {', '.join(before.sources)}")
    # A clock that stepped back makes this negative: then the incident stays a little longer, which is safe.
    lasted = max(0.0, (level.now - before.quiet_since).total_seconds())
    if before.state in _ENDS_BY_ITSELF and lasted >= quiet_seconds:
        return _end(level, before, lasted)
    left = phrases.duration(max(0.0, quiet_seconds - lasted))
    held[before.id] = f"quiet for {phrases.duration(lasted)}; ends by itself in {left}"
    return Change(before, "")


def _gone(level: Level, incident: inc.Incident) -> str:
    """Say what is not there any more, or nothing; while nobody is known to serve, a node may just not be seen."""
    if level.view is None:
        return ""
    view = level.view.services.get(incident.key.service)
    if view is None:
        return f"service {incident.key.service} is not managed any more"
    if not incident.key.node or incident.key.node in view.nodes or _nobody_up(view):
        return ""
    return f"{words.target(view.service, incident.key.node)} is not in the fleet any more"


def _outlive(level: Level, before: inc.Incident, gone: str, held: dict[str, str]) -> Change:
    """Hold the incident of a target that is gone, and end it when that has lasted."""
    since = before.gone_since or level.now
    lasted = max(0.0, (level.now - since).total_seconds())
    if lasted < GONE_SECONDS:
        held[before.id] = f"held: {gone}; ends when that has lasted {phrases.duration(GONE_SECONDS)}"
        after = dataclasses.replace(before, gone_since=since, quiet_since=None, updated_at=level.now)
        return Change(after, "" if before.gone_since else held[before.id])
    if before.state in _ENDS_BY_ITSELF:
        return _close(level, before, f"closed: {gone}, for {phrases.duration(lasted)}")
    # Its run is final or will be, and then quiet is what `follow` waits for.
    held[before.id] = f"quiet: {gone}, for {phrases.duration(lasted)}"
    if before.quiet_since is not None:
        return Change(before, "")
    return Change(dataclasses.replace(before, quiet_since=level.now, updated_at=level.now), held[before.id])


def _unquiet(level: Level, before: inc.Incident, unknown: str) -> Change:
    if before.quiet_since is None:
        return Change(before, "")
    after = dataclasses.replace(before, quiet_since=None, updated_at=level.now)
    return Change(after, f"held: {unknown}; the quiet time starts again when it is known")


def _end(level: Level, before: inc.Incident, lasted: float) -> Change:
    """Close an incident that nothing of ours ended; a verdict of an earlier run stays on it."""
    how = "ended by itself" if before.run_id is None else "ended"
    return _close(level, before, f"closed: {how}, quiet for {phrases.duration(lasted)}")


def _close(level: Level, before: inc.Incident, sentence: str) -> Change:
    after = dataclasses.replace(
        before, state=inc.IncidentState.CLOSED, closed_at=level.now, updated_at=level.now, sentence=sentence
    )
    return Change(after, sentence)


def _unknown(level: Level, incident: inc.Incident) -> str:
    """Return why silence proves nothing about this incident now, or nothing when it does."""
    for source in incident.sources:
        # What it cannot say of another node, such as one that has left the fleet, or of another signal, is no matter here.
        for node, signal in itertools.product(("", incident.key.node), ("", incident.finding.signal)):
            if reason := level.mute.get(Voice(incident.key.service, source, node, signal)):
                return f"{source} cannot speak: {reason}"
    if level.view is None:
        return "the fleet could not be read"
    view = level.view.services[incident.key.service]  # one that is not there any more is gone, not unknown
    if incident.key.node:
        return _node_unknown(view, incident)
    return _signal_unknown(incident.finding.signal, view.signals) or _nobody_up(view)


def _node_unknown(view: windows.ServiceView, incident: inc.Incident) -> str:
    node = view.nodes.get(incident.key.node)
    if node is None:
        return f"{words.target(view.service, incident.key.node)} is not in the fleet view"
    if isinstance(node.is_up, sig.Unknown):
        return f"whether {node.node} is up is unknown: {node.is_up}"
    if not node.is_serving:
        return f"{node.node} is down" if node.is_up.value == 0.0 else f"{node.node} is kept out by its gateway"
    return _signal_unknown(incident.finding.signal, node.signals)


def _nobody_up(view: windows.ServiceView) -> str:
    return (
        "" if any(node.is_serving for node in view.nodes.values()) else f"no node of {view.service} is known to be up"
    )


def _signal_unknown(signal: str, readings: Mapping[str, sig.Reading]) -> str:
    """Return why the incident's signal is unknown; one that the profile does not map cannot be asked for."""
    reading = readings.get(signal)
    if not isinstance(reading, sig.Unknown) or reading.reason is sig.UnknownReason.NOT_IN_PROFILE:
        return ""
    return f"{signal} is unknown: {reading}"


def _sources(findings: Sequence[fnd.Finding]) -> tuple[str, ...]:
    return tuple(sorted({finding.source for finding in findings}))
