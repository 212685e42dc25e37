"""Finds a bad node: slow, failing or backed up, against its own past and against its peers at the same time.

Called by the tick with a window of one service, off the event loop. Pure, the same every time. All nodes are judged in
one batch, in three questions, the cheapest first:

1. Has a watched signal been well above both the node's past and its peers, at every sample of the newest stretch?
2. How odd is the node as a whole? An isolation forest over the deviations of all its signals, fitted to the healthy
   past of all nodes, and the size of the largest deviation; both as rarities among that past.
3. Is that rarer than the alarms per day that people put up with?

Works badly: on one node alone (nobody to compare with: it says so); when most nodes fail at once (that is the service's
trouble, and rules see it); under light load, where quantiles are single requests (it then waits for more); on trouble
older than its window; on nodes that have just started, which it leaves alone until they have settled.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controlplane.domain import errors, findings, services, windows
from controlplane.domain import signals as sig
from detectors import node_signals

if TYPE_CHECKING:
    from detectors import deviations

NAME = "isolation_forest"
_DAY_SECONDS = 86_400.0
# Fewer healthy samples than this, of all nodes together, say nothing about what is rare.
_MIN_REFERENCE_SAMPLES = 16
_MIN_RECENT_SAMPLES = 2
# However few alarms are wanted, what one signal says with certainty (rarity 8, blended with a forest that has never seen
# the signal move, so 6.3) must be able to raise one.
_MAX_RARITY_ASKED = 6.0
# The least e-folding of the tails: half a unit of deviation, and a fiftieth of the forest's scale of 0 to 1.
_EVIDENCE_SCALE = 0.5
_FOREST_SCALE = 0.02
# This many times the smallest change worth acting on is critical even within the service's limits.
_CRITICAL_TIMES = 6.0
# How many signals a finding explains itself with.
_NUM_EXPLAINED = 3
_EXPLAINABLE_HOLES = frozenset({sig.UnknownReason.NOT_IN_PROFILE, sig.UnknownReason.NO_SERIES})


@dataclass(frozen=True, slots=True)
class Symptom:
    """One signal of a node that is out of line, in its base unit; `units` of deviation."""

    signal: str
    observed: float
    expected: float
    peers: float
    units: float

    def __str__(self) -> str:
        return f"{self.signal} is {self.observed:.3g}, expected {self.expected:.3g}, peers {self.peers:.3g}"


@dataclass(frozen=True, slots=True)
class IsolationForest:
    """Implements the `Detector` port.

    `false_alarms_per_day` is what people put up with per service. `rate_seconds` is the range over which rates and
    quantiles are computed; `recent_seconds`, the newest stretch that must be odd throughout, follows from it.
    """

    false_alarms_per_day: float = 0.2
    rate_seconds: float = 60.0
    window_seconds: float = 900.0
    settle_seconds: float = 30.0

    @property
    def name(self) -> str:
        """The name findings carry as their source."""
        return NAME

    @property
    def signals(self) -> tuple[str, ...]:
        """The canonical signals it asks for; it uses those that are there."""
        return node_signals.SIGNALS

    @property
    def recent_seconds(self) -> float:
        """How long trouble must last: half the range of rates, but at least ten seconds."""
        return max(10.0, self.rate_seconds / 2.0)

    def detect(
        self, service: services.Service, window: windows.Window
    ) -> Sequence[findings.Finding | findings.NotReady]:
        """Return a finding per bad node; NotReady where silence would not mean that all nodes are well."""
        return [*self._hidden(service, window), *self._judge(service, window)]

    def _hidden(self, service: services.Service, window: windows.Window) -> Iterator[findings.NotReady]:
        """Name watched signals that the store hides; one that an engine lacks, or that nothing counted, hides nothing."""
        for watch in node_signals.WATCHES:
            unknown = window.unknown.get(watch.signal)
            if unknown is not None and unknown.reason not in _EXPLAINABLE_HOLES:
                detail = f"{watch.signal}: {unknown}"
                yield findings.NotReady(NAME, service.name, findings.NotReadyReason.SIGNAL_UNKNOWN, detail)

    def _judge(
        self, service: services.Service, window: windows.Window
    ) -> Iterator[findings.Finding | findings.NotReady]:
        from detectors import deviations, tails

        tails.load()
        border = window.end.timestamp() - self.recent_seconds
        seen = deviations.grid(window, settle_seconds=self.settle_seconds)
        if not any(watch.signal in seen.signals for watch in node_signals.WATCHES):
            reasons = "; ".join(f"{name}: {why}" for name, why in sorted(window.unknown.items())[:_NUM_EXPLAINED])
            detail = reasons or "no node has samples"
            yield findings.NotReady(NAME, service.name, findings.NotReadyReason.SIGNAL_UNKNOWN, detail)
            return
        measured = deviations.measure(seen, border=border, rate_seconds=self.rate_seconds)
        declined = self._declines(service, seen, measured, border)
        if declined is not None:
            yield declined
            return
        suspects = _suspects(seen, measured, border)
        if suspects:
            yield from self._confirm(service, window, seen, measured, suspects, border)

    def _declines(
        self, service: services.Service, seen: "deviations.Grid", measured: "deviations.Deviations", border: float
    ) -> findings.NotReady | None:
        past = int(measured.reference.sum())
        if past < _MIN_REFERENCE_SAMPLES:
            detail = f"{past} samples of {len(seen.nodes)} nodes before the newest {self.recent_seconds:g} s"
            return findings.NotReady(NAME, service.name, findings.NotReadyReason.TOO_FEW_SAMPLES, detail)
        recent = seen.times > border
        # Evidence needs peers: where none of it is known, silence says nothing.
        if not (measured.evidence[:, recent] == measured.evidence[:, recent]).any():
            detail = f"no signal of two nodes at the same time within {self.recent_seconds:g} s"
            return findings.NotReady(NAME, service.name, findings.NotReadyReason.NO_PEERS, detail)
        return None

    def _confirm(
        self,
        service: services.Service,
        window: windows.Window,
        seen: "deviations.Grid",
        measured: "deviations.Deviations",
        suspects: dict[int, list[Symptom]],
        border: float,
    ) -> Iterator[findings.Finding]:
        rarities = _rarities(seen, measured, list(suspects), border)
        asked = self.rarity_asked(len(seen.nodes))
        for number, symptoms in suspects.items():
            if rarities[number] >= asked:
                yield _finding(service, window, seen.nodes[number], symptoms, rarities[number])

    def rarity_asked(self, num_nodes: int) -> float:
        """Return the rarity at which so many nodes, judged afresh every `recent_seconds`, alarm as often as wanted."""
        chances = num_nodes * _DAY_SECONDS / self.recent_seconds
        return max(0.0, min(_MAX_RARITY_ASKED, math.log10(chances / self.false_alarms_per_day)))


def _suspects(seen: "deviations.Grid", measured: "deviations.Deviations", border: float) -> dict[int, list[Symptom]]:
    """Return the nodes with a signal out of line at every recent sample that is known, by number, worst first."""
    import numpy as np

    from detectors import deviations

    recent = seen.times > border
    evidence = measured.evidence[:, recent]
    known = (~np.isnan(evidence)).sum(axis=1)
    enough = np.maximum(_MIN_RECENT_SAMPLES, -(-seen.judged[:, recent].sum(axis=1) // 2))
    lasts = ~(evidence < deviations.MIN_DEVIATION).any(axis=1) & (known >= enough[:, np.newaxis])
    return {
        n: sorted(
            (_symptom(seen, measured, n, w, recent) for w in np.flatnonzero(lasts[n]).tolist()),
            key=lambda symptom: (-symptom.units, symptom.signal),
        )
        for n in np.flatnonzero(lasts.any(axis=1)).tolist()
    }


def _symptom(
    seen: "deviations.Grid", measured: "deviations.Deviations", node: int, watch: int, recent: "deviations.Flags"
) -> Symptom:
    import numpy as np

    signal = node_signals.WATCHES[watch].signal
    column = seen.signals.index(signal)
    peers = float(np.nanmedian(measured.peers[node, recent, column]))
    own = float(measured.usual.own[node, column])
    return Symptom(
        signal=signal,
        observed=float(np.nanmedian(seen.values[node, recent, column])),
        expected=own if measured.usual.has_past[node, column] else peers,
        peers=peers,
        units=float(np.nanmedian(measured.evidence[node, recent, watch])),
    )


def _rarities(
    seen: "deviations.Grid", measured: "deviations.Deviations", nodes: list[int], border: float
) -> dict[int, float]:
    """Return for each of the nodes how rare its least odd recent sample is."""
    import numpy as np

    from detectors import tails

    features = np.concatenate([measured.own, measured.peer], axis=2)
    strongest = np.max(np.nan_to_num(measured.evidence, nan=0.0), axis=2)
    rows = [(n, t) for n in nodes for t in np.flatnonzero((seen.times > border) & seen.judged[n]).tolist()]
    where = tuple(np.array(rows).T)
    past_features, past_strongest = tails.thinned(features[measured.reference]), strongest[measured.reference]
    past_scores, scores = tails.forest_scores(past_features, features[where])
    odd = tails.blend(
        tails.rarity(past_scores, scores, min_scale=_FOREST_SCALE),
        tails.rarity(past_strongest, strongest[where], min_scale=_EVIDENCE_SCALE),
    )
    return {n: float(min(odd[i] for i, row in enumerate(rows) if row[0] == n)) for n in nodes}


def _finding(
    service: services.Service, window: windows.Window, node: str, symptoms: list[Symptom], rarity: float
) -> findings.Finding:
    worst, shown = symptoms[0], symptoms[:_NUM_EXPLAINED]
    return findings.Finding(
        kind=findings.FaultClass.BAD_NODE,
        service=service.name,
        node=node,
        signal=worst.signal,
        severity=_severity(service, symptoms),
        source=NAME,
        at=window.end,
        summary=f"{node} is out of line with its past and its peers: {'; '.join(map(str, shown))}",
        score=rarity,
        observed=worst.observed,
        expected=worst.expected,
        labels={
            one.signal: f"{one.observed:.6g} (expected {one.expected:.6g}, peers {one.peers:.6g})" for one in shown
        },
    )


def _severity(service: services.Service, symptoms: list[Symptom]) -> findings.Severity:
    """Critical when a limit of the service is broken, or when a deviation is far beyond what is worth acting on."""
    from detectors import deviations

    if any(_breaks_limit(service, one) for one in symptoms):
        return findings.Severity.CRITICAL
    is_large = symptoms[0].units >= _CRITICAL_TIMES * deviations.MIN_DEVIATION
    return findings.Severity.CRITICAL if is_large else findings.Severity.WARNING


def _breaks_limit(service: services.Service, symptom: Symptom) -> bool:
    try:
        return not service.limit(symptom.signal).is_kept_by(symptom.observed)
    except errors.InvalidInputError:
        return False  # no limit is stated for this signal
