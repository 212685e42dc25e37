"""The first rooms of a tick: reads the fleet, asks the detectors, takes the alerts; gives back one `Level`.

Called by the tick only. Whatever cannot be read is named: as a problem of the tick, and as a source that cannot speak,
so that its silence is not taken for good news. Concurrency: async, no memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controlplane.domain import findings as fnd
from controlplane.domain import ports, services, windows
from controlplane.engine import correlate, reports


@dataclass(frozen=True, slots=True)
class Looked:
    """What is reported now, the alerts of nobody's service, and what went wrong while looking."""

    level: correlate.Level
    strays: tuple[reports.Stray, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Eyes:
    """The ports the fleet is looked at through."""

    reader: ports.SignalReader
    alerts: ports.AlertStore
    detectors: Sequence[ports.Detector]
    services: Mapping[str, services.Service]


async def look(eyes: Eyes, now: datetime) -> Looked:
    """Look once at everything. Raises what the alert store raises: without alerts nothing can be told quiet."""
    problems: list[str] = []
    view = await _view(eyes, problems)
    said, strays = reports.from_alerts(await eyes.alerts.active(), set(eyes.services))
    seen: list[fnd.Finding] = []
    mute: dict[tuple[str, str], str] = {}
    for service in eyes.services.values():
        for detector in eyes.detectors:
            await _ask(eyes, detector, service, now, seen, mute, problems)
    return Looked(correlate.Level(now, (*said, *seen), view, mute), strays, tuple(problems))


async def _view(eyes: Eyes, problems: list[str]) -> windows.FleetView | None:
    try:
        return await eyes.reader.read_now()
    except Exception as error:  # noqa: BLE001 - a tick goes on without a view: incidents then hold
        problems.append(f"observe: the fleet could not be read: {error!r}")
        return None


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
        answers = detector.detect(service, window)
    except Exception as error:  # noqa: BLE001 - one broken detector must not blind the others
        problems.append(f"detectors: {detector.name} failed on {service.name}: {error!r}")
        mute[service.name, detector.name] = f"it failed: {error!r}"
        return
    for answer in answers:
        if isinstance(answer, fnd.Finding):
            seen.append(answer)
        else:
            mute[service.name, detector.name] = f"{answer.reason.value} {answer.detail}".strip()
