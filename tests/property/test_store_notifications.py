"""For any order and repetition of notifications, the newest notice of an alert decides."""

import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain import alerting
from tests.support import store as stores
from tests.support.clock import START, FakeClock

Status = alerting.AlertStatus
# (episode, status): Alertmanager gives each episode its own start.
NOTICES = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(Status)), min_size=1, max_size=12)


def _notice(episode: int, status: Status) -> alerting.Notification:
    starts_at = START + timedelta(minutes=episode)
    ends_at = starts_at + timedelta(seconds=30) if status is Status.RESOLVED else None
    alert = alerting.Alert("f", status, {"alertname": "A"}, {}, starts_at, ends_at)
    return alerting.Notification("alertmanager", "dsctl", "g", status, (alert,), f"{episode}:{status}")


async def _store(folder: Path, notices: list[tuple[int, Status]]) -> None:
    with stores.opened(folder, FakeClock()) as store:
        seen: set[tuple[int, Status]] = set()
        for one in notices:
            assert await store.alerts.store(_notice(*one)) is (one not in seen)
            seen.add(one)
        newest = max(seen, key=lambda one: (one[0], one[1] is Status.RESOLVED))
        active = await store.alerts.active()
        if newest[1] is Status.RESOLVED:
            assert active == ()
        else:
            assert active == _notice(*newest).alerts


@settings(max_examples=20, deadline=None)
@given(NOTICES)
def test_newest_notice_decides_in_any_order(notices: list[tuple[int, Status]]) -> None:
    """Duplicates are told apart by their key and change nothing; late notices never win."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_store(Path(folder), notices))
