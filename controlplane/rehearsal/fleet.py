"""A fleet that a file describes: its signals as steps over time, behind the ports that the real rooms read.

Built by `play` for one case. Values hold until the next one of the same signal; what was never given is unknown, as it
is when nobody measures it. Asks the clock and nothing else. Async where the ports are.
"""

import bisect
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from controlplane.domain import errors, ports, windows
from controlplane.domain import signals as sig
from controlplane.rehearsal import files

# As the reader of Prometheus does: that is what runbooks are verified with later.
STEP_SECONDS = 5.0
_NOT_GIVEN = sig.Unknown(sig.UnknownReason.NO_SERIES, "the test gives it no value")
_SAID_UNKNOWN = sig.Unknown(sig.UnknownReason.STALE, "the test says that it is unknown")


class _Track:
    """One signal of one node, or of the service: values by the time from which they hold."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._values: list[float | None] = []

    def add(self, at: float, value: float | None) -> None:
        """Note a value; of two for the same moment the later one counts."""
        place = bisect.bisect_right(self._times, at)
        self._times.insert(place, at)
        self._values.insert(place, value)

    def next_after(self, at: float) -> float | None:
        """Return when the next value begins to hold."""
        place = bisect.bisect_right(self._times, at)
        return self._times[place] if place < len(self._times) else None

    def reading(self, at: float, now: datetime) -> sig.Reading:
        """Return what is known at a moment."""
        place = bisect.bisect_right(self._times, at)
        if not place:
            return _NOT_GIVEN
        value = self._values[place - 1]
        return _SAID_UNKNOWN if value is None else sig.Value(value, now)


class Fleet:
    """The nodes and signals of one case. `began` is the moment from which the test counts."""

    def __init__(self, case: files.Case, clock: ports.Clock) -> None:
        self._case = case
        self._clock = clock
        self._began = clock.now()
        self._tracks: dict[tuple[str, str], _Track] = {}
        for one in case.samples:
            if not one.after:
                self._add(one, one.seconds)

    def _add(self, one: files.Sample, at: float) -> None:
        self._tracks.setdefault((one.node, one.signal), _Track()).add(at, one.value)

    def took_effect(self, step: str) -> None:
        """Let the signals change that change after a step."""
        now = (self._clock.now() - self._began).total_seconds()
        for one in self._case.samples:
            if one.after == step:
                self._add(one, now + one.seconds)

    def changes_after(self, moment: datetime) -> datetime | None:
        """Return when a signal changes next, as far as that is known; None when none will."""
        passed = (moment - self._began).total_seconds()
        nexts = [at for at in (track.next_after(passed) for track in self._tracks.values()) if at is not None]
        return self._began + timedelta(seconds=min(nexts)) if nexts else None

    def nodes(self, service: str) -> Sequence[str]:
        """Return the nodes of the service: the directory that planning asks."""
        return sorted(self._case.nodes) if service == self._case.service.name else ()

    def node_url(self, service: str, node: str) -> str:
        """Refuse: a rehearsal has no addresses."""
        raise errors.NotFoundError(f"node {service}/{node} is rehearsed and has no address")

    def gateway_url(self, service: str) -> str:
        """Refuse: a rehearsal has no addresses."""
        raise errors.NotFoundError(f"the gateway of {service} is rehearsed and has no address")

    async def read_now(self) -> windows.FleetView:
        """Return the newest reading of every signal."""
        now = self._clock.now()
        name = self._case.service.name
        nodes = {node: self._node(node, now) for node in self._case.nodes}
        return windows.FleetView(now, {name: windows.ServiceView(name, self._readings("", now), nodes)})

    def _node(self, node: str, now: datetime) -> windows.NodeView:
        readings = self._readings(node, now)
        is_up = readings.pop(files.UP, sig.Value(1.0, now))
        return windows.NodeView(node, self._case.service.name, "", is_up, readings)

    def _readings(self, node: str, now: datetime) -> dict[str, sig.Reading]:
        at = (now - self._began).total_seconds()
        return {signal: track.reading(at, now) for (of, signal), track in self._tracks.items() if of == node}

    async def read_window(self, service: str, signals: Sequence[str], start: datetime, end: datetime) -> windows.Window:
        """Return the named signals between two instants; what is unknown is a hole."""
        del service
        length = max(0.0, (end - start).total_seconds())
        moments = [end.timestamp() - step * STEP_SECONDS for step in range(int(length // STEP_SECONDS), -1, -1)]
        nodes = {node: self._series(node, signals, moments) for node in self._case.nodes}
        of_service = self._series("", signals, moments)
        return windows.Window(self._case.service.name, start, end, STEP_SECONDS, of_service, nodes)

    def _series(self, node: str, signals: Sequence[str], moments: Sequence[float]) -> Mapping[str, windows.Series]:
        tracks = {name: self._tracks[node, name] for name in signals if (node, name) in self._tracks}
        return {name: self._sampled(track, moments) for name, track in tracks.items()}

    def _sampled(self, track: _Track, moments: Sequence[float]) -> windows.Series:
        began, now = self._began.timestamp(), self._clock.now()
        read = [(at, track.reading(at - began, now)) for at in moments]
        known = [(at, one.value) for at, one in read if isinstance(one, sig.Value)]
        return windows.Series(tuple(at for at, _ in known), tuple(value for _, value in known))
