"""The first rooms of a tick: reads the fleet, asks the detectors and the capacity plan, takes the alerts; gives back one
`Level`.

Called by the tick only. Whatever cannot be read is named: as a problem of the tick, and as a source that cannot speak,
so that its silence is not taken for good news. Concurrency: async, no memory; detectors are plain functions and work on
the bench, since some take longer than an event loop may stand still.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controlplane.domain import capacity, ports, services, windows
from controlplane.domain import findings as fnd
from controlplane.domain import signals as sig
from controlplane.engine import correlate, reports

# A slow metrics store takes six seconds for each window: one after the other they would take longer than a tick may.
_MAX_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Looked:
    """What is reported now, the alerts of nobody's service, what went wrong while looking, and the capacity outlooks."""

    level: correlate.Level
    strays: tuple[reports.Stray, ...]
    problems: tuple[str, ...]
    outlooks: Mapping[str, capacity.Outlook]


@dataclass(frozen=True, slots=True)
class Eyes:
    """The ports the fleet is looked at through."""

    reader: ports.SignalReader
    alerts: ports.AlertStore
    detectors: Sequence[ports.Detector]
    services: Mapping[str, services.Service]
    bench: ports.Bench


async def look(eyes: Eyes, now: datetime) -> Looked:
    """Look once at everything. Raises what the alert store raises: without alerts nothing can be told quiet."""
    problems: list[str] = []
    view = await see(eyes, problems)
    said, strays = reports.from_alerts(await eyes.alerts.active(), set(eyes.services))
    seen: list[fnd.Finding] = []
    mute: dict[tuple[str, str], str] = {}
    gate = asyncio.Semaphore(_MAX_AT_ONCE)

    async def ask(service: services.Service, detector: ports.Detector) -> None:
        async with gate:
            await _ask(eyes, detector, service, now, seen, mute, problems)

    asked = (ask(service, detector) for service in eyes.services.values() for detector in eyes.detectors)
    await asyncio.gather(*asked)
    outlooks: dict[str, capacity.Outlook] = {}
    return Looked(correlate.Level(now, (*said, *seen), view, mute), strays, tuple(problems), outlooks)


def _note(
    answers: Sequence[fnd.Finding | fnd.NotReady], seen: list[fnd.Finding], mute: dict[tuple[str, str], str]
) -> None:
    """Sort what a source says into findings, and reasons why it cannot say anything."""
    for answer in answers:
        if isinstance(answer, fnd.Finding):
            seen.append(answer)
        else:
            mute[answer.service, answer.detector] = f"{answer.reason.value} {answer.detail}".strip()


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
    mute: dict[tuple[str, str], str],
    problems: list[str],
) -> None:
    """Ask one detector about one service; what it cannot say makes it mute there, and only there."""
    start = now - timedelta(seconds=detector.window_seconds)
    try:
        window = await eyes.reader.read_window(service.name, detector.signals, start, now)
        name = f"{detector.name} of {service.name}"
        answers = await eyes.bench.run(name, lambda: detector.detect(service, window))
    except Exception as error:  # noqa: BLE001 - one broken detector must not blind the others
        problems.append(f"detectors: {detector.name} failed on {service.name}: {error!r}")
        mute[service.name, detector.name] = f"it failed: {error!r}"
        return
    _note(answers, seen, mute)
