"""Maintenance windows and owners in services.yaml: what is taken, and how a slip of the pen is told."""

from datetime import UTC, datetime

import pytest

from controlplane.domain import errors, maintenance
from controlplane.observe import service_file

_FILE = """
services:
  - name: chat
    profile: dsctl
    selector: {{service: chat}}
    pools: [{{name: hot, actuator: local, min: 1, max: 2, owner: KEDA}}]
    maintenance:
      - {window}
"""


def windows(window: str) -> tuple[maintenance.Window, ...]:
    (found,) = service_file.parse(_FILE.format(window=window), source="services.yaml")
    assert found.pools[0].owner == "KEDA"
    return found.maintenance


def test_a_window_once_says_its_time_zone() -> None:
    """In quotes or without, in any offset."""
    begins, ends = datetime(2026, 11, 1, 21, tzinfo=UTC), datetime(2026, 11, 2, 1, tzinfo=UTC)
    expected = (maintenance.Once("move", begins, ends),)
    assert windows('{name: move, starts: "2026-11-01T22:00+01:00", ends: "2026-11-02T01:00Z"}') == expected
    assert windows("{name: move, starts: 2026-11-01T22:00+01:00, ends: 2026-11-02T01:00Z}") == expected


def test_a_weekly_window_has_days_and_a_time_zone_that_may_be_left_out() -> None:
    """Every day in UTC is the default, as for events."""
    assert windows('{name: night, days: [sun, sat], from: "02:00", to: "04:00", timezone: Europe/Berlin}') == (
        maintenance.Weekly("night", (5, 6), 7200, 14400, "Europe/Berlin"),
    )
    assert windows('{name: night, from: "23:00", to: "01:00"}') == (
        maintenance.Weekly("night", tuple(range(7)), 82800, 3600, "UTC"),
    )


@pytest.mark.parametrize(
    ("window", "said"),
    [
        ("{name: a}", "needs starts and ends for once, or from and to"),
        ('{name: a, starts: "2026-11-01T22:00Z"}', "needs starts and ends for once"),
        ('{name: a, from: "02:00"}', "needs starts and ends for once"),
        ('{name: a, from: "02:00", to: "03:00", starts: "2026-11-01T22:00Z"}', "needs starts and ends for once"),
        ('{name: a, starts: "2026-11-01T22:00Z", ends: "2026-11-02T22:00Z", days: [sat]}', "needs starts and ends"),
        ('{name: a, starts: "2026-11-01T22:00", ends: "2026-11-02T22:00Z"}', "does not say in which time zone"),
        ('{name: a, starts: "2026-11-02T22:00Z", ends: "2026-11-02T22:00Z"}', "is not after starts"),
        ('{name: a, starts: noon, ends: "2026-11-02T22:00Z"}', "is no date and time"),
        ('{name: a, from: "2:00", to: "03:00"}', "is no time of day"),
        ('{name: a, from: "02:00", to: "03:00", days: [weekend]}', "is no day of the week"),
        ('{name: a, from: "02:00", to: "03:00", timezone: Berlin}', "is no time zone"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(window: str, said: str) -> None:
    """A window that never begins would let automation act in the middle of the work."""
    with pytest.raises(errors.InvalidInputError, match=said) as refused:
        windows(window)
    assert "services.yaml:8" in str(refused.value.place)
