"""Maintenance of a service: windows of time in which automation leaves it alone, once or every week. Pure.

Weekly windows go by the clock on the wall of their time zone. Where that clock is set forward over a window's edge, the
edge is the moment of the change; where it is set back, a window begins with the first reading of its edge and ends with
the last one.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

# As they are written in services.yaml; Monday is 0.
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_SECONDS = 86_400
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Once:
    """One window between two instants."""

    name: str
    starts: datetime
    ends: datetime

    def span(self, now: datetime) -> tuple[datetime, datetime] | None:
        """Return where the window that is in force begins and ends, or None when it is not."""
        return (self.starts, self.ends) if self.starts <= now < self.ends else None


@dataclass(frozen=True, slots=True)
class Weekly:
    """A window that returns on weekdays `days` (Monday is 0), between two times of day in seconds after midnight.

    One that ends no later than it begins ends on the following day; `days` are those on which it begins.
    """

    name: str
    days: tuple[int, ...]
    from_seconds: int
    to_seconds: int
    timezone: str = "UTC"

    def span(self, now: datetime) -> tuple[datetime, datetime] | None:
        """Return where the window that is in force begins and ends, in UTC, or None when it is not."""
        zone = ZoneInfo(self.timezone)
        today = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        # One over midnight began yesterday; a clock that was set back may show yesterday's date again.
        for midnight in (today - timedelta(days=1), today):
            if midnight.weekday() not in self.days:
                continue
            begins, ends = self._edges(midnight, zone)
            if begins <= now < ends:
                return begins, ends
        return None

    def _edges(self, midnight: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
        over = self.to_seconds <= self.from_seconds
        begins = midnight + timedelta(seconds=self.from_seconds)
        ends = midnight + timedelta(seconds=self.to_seconds + (_DAY_SECONDS if over else 0))
        return _instant(begins, zone, is_last=False), _instant(ends, zone, is_last=True)


Window = Once | Weekly


def _instant(wall: datetime, zone: ZoneInfo, *, is_last: bool) -> datetime:
    """Return when the clock on the wall shows `wall`, or passes it by; of two such moments the first or the last one."""
    both = [wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
    early, late = min(both), max(both)
    if early == late or _shows(early, zone) == wall:
        return late if is_last else early
    while _shows(early, zone) < wall:  # the clock skips it: find the moment of the change, at most hours away
        early += _MINUTE
    return early


def _shows(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None)


def in_force(windows: tuple[Window, ...], now: datetime) -> tuple[Window, datetime] | None:
    """Return the window in force that lasts longest, and its end.

    >>> night = Weekly("night", (5,), 2 * 3600, 4 * 3600, "Europe/Berlin")
    >>> in_force((night,), datetime(2026, 7, 4, 1, 0, tzinfo=UTC))[1].isoformat()
    '2026-07-04T02:00:00+00:00'
    """
    found = [(one, span[1]) for one in windows if (span := one.span(now)) is not None]
    return max(found, key=lambda pair: (pair[1], pair[0].name), default=None)


def spoken(one: Window) -> str:
    """Return a window in words.

    >>> spoken(Weekly("night", (5, 6), 7200, 14400, "Europe/Berlin"))
    'night (sat, sun 02:00 to 04:00 Europe/Berlin)'
    """
    if isinstance(one, Once):
        return f"{one.name} ({one.starts:%Y-%m-%d %H:%M} to {one.ends:%Y-%m-%d %H:%M} UTC)"
    days = ", ".join(DAYS[day] for day in one.days)
    return f"{one.name} ({days} {_clock(one.from_seconds)} to {_clock(one.to_seconds)} {one.timezone})"


def _clock(seconds: int) -> str:
    return f"{time(seconds // 3600, seconds // 60 % 60):%H:%M}"
