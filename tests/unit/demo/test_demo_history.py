"""The past that is written into Prometheus: its shape, and that it is always the same."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from controlplane.demo import history

PEAK = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
PAST = history.Past(days=2, rate=10.0, peak_rate=40.0, peak_seconds=1200.0, peak_at=PEAK)


def rates(until: datetime) -> dict[float, float]:
    """Return the mean rate between two samples, by the time of the first."""
    rows = [line.split() for line in history.lines(PAST, until) if not line.startswith("#")]
    counts = [(float(at), float(count)) for _, count, at in rows]
    return {t: (b - a) / (u - t) for (t, a), (u, b) in itertools.pairwise(counts)}


def test_every_day_has_its_peak_at_the_same_minute_and_none_after_the_end():
    """The peak that is due has not begun: it is what a forecast must tell."""
    found = rates(PEAK - timedelta(seconds=60))
    yesterday = (PEAK - timedelta(days=1)).timestamp()
    assert min(rate for at, rate in found.items() if yesterday <= at < yesterday + 1200) > 25
    assert max(rate for at, rate in found.items() if yesterday - 3600 <= at < yesterday) < 16
    assert max(found) < PEAK.timestamp() - 60


def test_the_text_is_open_metrics_and_the_same_each_time():
    """A counter that only grows, ended as the format demands."""
    text = list(history.lines(PAST, PEAK))
    assert text == list(history.lines(PAST, PEAK))
    assert (text[0], text[-1]) == ("# TYPE dsctl_gateway_arrivals counter\n", "# EOF\n")
    assert all(rate >= 0 for rate in rates(PEAK).values())


@pytest.mark.parametrize(("second", "minute"), [(0, 30), (1, 31), (59, 31)])
def test_a_peak_is_due_at_a_full_minute(second: int, minute: int):
    """Calendars know no seconds."""
    assert history.next_minute(PEAK.replace(second=second)) == PEAK.replace(minute=minute)
