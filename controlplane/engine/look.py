"""The first rooms of a tick: reads the fleet, asks the detectors and the capacity plan, takes the alerts; gives back one
`Level`.

Called by the tick only. Whatever cannot be read is named: as a problem of the tick, and as a source that cannot speak,
so that its silence is not taken for good news. Concurrency: async; detectors are plain functions and work on the bench,
since some take longer than an event loop may stand still. The only memory are the last answers of detectors that look
hours back: what they see hardly changes from tick to tick, and reading it costs the store too much to do so each time.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controlplane.capacity import report
from controlplane.domain import capacity, ports, services, windows
from controlplane.domain import findings as fnd
from controlplane.domain import signals as sig
from controlplane.engine import correlate, provision, reports

# A slow metrics store takes six seconds for each window: one after the other they would take longer than a tick may.
_MAX_AT_ONCE = 16
# A detector is asked anew when this part of its window is new: one that looks back four hours once a minute.
_LOOKS_PER_WINDOW = 240

_Answers = Sequence[fnd.Finding | fnd.NotReady]


class Recent:
    """The last answers of each detector about each service, for as long as they are good for."""

    def __init__(self, clock: ports.Clock) -> None:
        self._clock = clock
        self._answers: dict[tuple[str, str], tuple[float, _Answers]] = {}

    def of(self, service: str, detector: ports.Detector) -> _Answers | None:
        """Return the last answers, or None when it is time to look again."""
        at, answers = self._answers.get((service, detector.name), (-float("inf"), ()))
        is_new = self._clock.monotonic() - at < detector.window_seconds / _LOOKS_PER_WINDOW
        return answers if is_new else None

    def keep(self, service: str, detector: ports.Detector, answers: _Answers) -> None:
        """Remember answers."""
        self._answers[service, detector.name] = (self._clock.monotonic(), answers)


@dataclass(frozen=True, slots=True)
class Looked:
    """What is reported now, the alerts of nobody's service, what went wrong while looking, and the capacity outlooks."""

    level: correlate.Level
    strays: tuple[reports.Stray, ...]
    problems: tuple[str, ...]
    outlooks: Mapping[str, capacity.Outlook]


@dataclass(frozen=True, slots=True)
class Eyes:
    """The ports the fleet is looked at through; without a provisioner no capacity is planned."""

    reader: ports.SignalReader
    alerts: ports.AlertStore
    detectors: Sequence[ports.Detector]
    services: Mapping[str, services.Service]
    bench: ports.Bench
    recent: Recent
    provisioner: provision.Provisioner | None = None


async def look(eyes: Eyes, now: datetime) -> Looked:
    """Look once at everything. Raises what the alert store raises: without alerts nothing can be told quiet."""
    problems: list[str] = []
    view = await see(eyes, problems)
    said, strays = reports.from_alerts(await eyes.alerts.active(), set(eyes.services))
    seen: list[fnd.Finding] = []
    mute: dict[correlate.Voice, str] = {}
    gate = asyncio.Semaphore(_MAX_AT_ONCE)

    async def ask(service: services.Service, detector: ports.Detector) -> None:
        async with gate:
            await _ask(eyes, detector, service, now, seen, mute, problems)

    async def plan() -> Mapping[str, capacity.Outlook]:
        return {} if eyes.provisioner is None else await eyes.provisioner.look(view, now, problems)

    asked = (ask(service, detector) for service in eyes.services.values() for detector in eyes.detectors)
    outlooks, _ = await asyncio.gather(plan(), asyncio.gather(*asked))
    for outlook in outlooks.values():
        _note(report.findings_of(outlook.plan), seen, mute)
    return Looked(correlate.Level(now, (*said, *seen), view, mute), strays, tuple(problems), outlooks)


def _note(answers: _Answers, seen: list[fnd.Finding], mute: dict[correlate.Voice, str]) -> None:
    """Sort what a source says into findings, and reasons why it cannot say anything."""
    for answer in answers:
        if isinstance(answer, fnd.Finding):
            seen.append(answer)
        else:
            said = f"{answer.reason.value} {answer.detail}".strip()
            mute[correlate.Voice(answer.service, answer.detector, answer.node, answer.signal)] = said


async def see(eyes: Eyes, problems: list[str]) -> windows.FleetView | None:
    """Return the newest view of the fleet, or None when it cannot be read; says in `problems` what went wrong."""
    try:
        view = await eyes.reader.read_now()
    except Exception as error:  # noqa: BLE001 - a tick goes on without a view: incidents then hold
        problems.append(f"observe: the fleet could not be read: {error!r}")
        return None
    if reason := _blindness(view):
        problems.append(f"observe: nothing could be read: {reason}; incidents hold until it can")
    return view


def _blindness(view: windows.FleetView) -> str:
    """Return why not one reading of the whole fleet could be had, or nothing when some could.

    The reader answers with unknowns rather than fail; a tick that saw nothing must not count as good all the same.
    """
    readings = [
        reading
        for one in view.services.values()
        for reading in (*one.signals.values(), *(node.is_up for node in one.nodes.values()))
    ]
    unreachable = [reading for reading in readings if _is_unreachable(reading)]
    return str(unreachable[0]) if unreachable and len(unreachable) == len(readings) else ""


def _is_unreachable(reading: sig.Reading) -> bool:
    return isinstance(reading, sig.Unknown) and reading.reason is sig.UnknownReason.SOURCE_UNREACHABLE


async def _ask(
    eyes: Eyes,
    detector: ports.Detector,
    service: services.Service,
    now: datetime,
    seen: list[fnd.Finding],
    mute: dict[correlate.Voice, str],
    problems: list[str],
) -> None:
    """Ask one detector about one service; what it cannot say makes it mute there, and only there."""
    if (known := eyes.recent.of(service.name, detector)) is not None:
        _note(known, seen, mute)
        return
    start = now - timedelta(seconds=detector.window_seconds)
    try:
        window = await eyes.reader.read_window(service.name, detector.signals, start, now)
        name = f"{detector.name} of {service.name}"
        answers = await eyes.bench.run(name, lambda: detector.detect(service, window))
    except Exception as error:  # noqa: BLE001 - one broken detector must not blind the others
        problems.append(f"detectors: {detector.name} failed on {service.name}: {error!r}")
        mute[correlate.Voice(service.name, detector.name)] = f"it failed: {error!r}"
        return
    eyes.recent.keep(service.name, detector, answers)
    _note(answers, seen, mute)
