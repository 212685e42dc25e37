"""When calendar events are on, and how far they have got: each is cut into segments, short ones first.

Called by the shape of the forecast. Right after an event begins demand changes from one bin to the next, an hour later
it does not: the first segments are as long as a bin, later ones grow. An event is on from its minute of the day in its
own timezone, summer time included, on its weekdays, for as long as it says. Pure; imports numpy at the top.
"""

import math
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from controlplane.domain import services
from detectors import rates

# Ten bins at the resolution of the data, each one after that half as long again: 24 segments span a working day at one
# minute, and the effect of an hour is still told in bins of ten minutes.
_NUM_SHORT = 10
_GROWTH = 1.5
_NUM_MOST = 24
# Outside of the event.
OFF = -1


@dataclass(frozen=True, slots=True)
class Segments:
    """An event with the borders of its segments, in seconds after it begins: segment k lies between two of them."""

    event: services.CalendarEvent
    borders: tuple[float, ...]

    @property
    def count(self) -> int:
        """How many segments there are."""
        return len(self.borders) - 1


def cut(event: services.CalendarEvent, step: float) -> Segments:
    """Return the segments of `event` for bins of `step` seconds.

    >>> cut(services.CalendarEvent("sale", 0, 200.0), 60.0).borders
    (0.0, 60.0, 120.0, 200.0)
    """
    borders, width = [0.0], step
    while borders[-1] + 1.5 * width < event.duration_seconds and len(borders) < _NUM_MOST:
        borders.append(borders[-1] + width)
        width *= _GROWTH if len(borders) > _NUM_SHORT else 1.0
    return Segments(event, (*borders, float(event.duration_seconds)))


def beginnings(event: services.CalendarEvent, start: float, end: float) -> list[float]:
    """Return when the event begins between two instants (Unix seconds), in order."""
    zone = zoneinfo.ZoneInfo(event.timezone)
    day = datetime.fromtimestamp(start, zone).date() - timedelta(days=1)
    found: list[float] = []
    for number in range(math.ceil((end - start) / rates.DAY_SECONDS) + 3):
        date = day + timedelta(days=number)
        wall = datetime(date.year, date.month, date.day, tzinfo=zone) + timedelta(seconds=event.at_seconds)
        if date.weekday() in event.days and start <= wall.astimezone(UTC).timestamp() <= end:
            found.append(wall.timestamp())
    return found


def places(parts: Segments, times: rates.Floats) -> rates.Numbers:
    """Return for each of the ascending `times` (the middles of bins) the segment it lies in, or OFF."""
    if not len(times):
        return np.empty(0, dtype=np.int64)
    begun = np.array(beginnings(parts.event, float(times[0]) - parts.borders[-1], float(times[-1])))
    newest = np.searchsorted(begun, times, side="right") - 1
    since = np.where(newest >= 0, times - np.append(begun, np.inf)[newest], np.inf)
    segment = np.searchsorted(np.array(parts.borders), since, side="right") - 1
    return np.where((segment >= 0) & (segment < parts.count), segment, OFF)


def changes(events: Sequence[services.CalendarEvent], start: float, end: float) -> list[float]:
    """Return when any of the events begins or ends between two instants, in order."""
    found: set[float] = set()
    for event in events:
        begun = beginnings(event, start - event.duration_seconds, end)
        found |= {at for one in begun for at in (one, one + event.duration_seconds) if start <= at <= end}
    return sorted(found)
