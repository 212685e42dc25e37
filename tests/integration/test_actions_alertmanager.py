"""Escalations and silences with the real Alertmanager, and the webhook it really sends."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from alerts import alertmanager, intake, notify, silences
from controlplane import clock as clocks
from controlplane.domain import alerting
from tests.support import prometheus
from tests.support.clock import FakeClock

pytestmark = pytest.mark.integration

CONFIG = """\
route: {{receiver: dsctl, group_wait: 0s, group_interval: 1s, group_by: [alertname]}}
receivers: [{{name: dsctl, webhook_configs: [{{url: "{url}"}}]}}]
"""


@pytest.fixture
async def http() -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


async def soon(look: Callable[[], Awaitable[Any]], seconds: float = 20.0) -> Any:
    """Poll until `look` gives something."""
    end = time.perf_counter() + seconds
    while not (seen := await look()):
        assert time.perf_counter() < end, f"not within {seconds} s; last seen {seen!r}"
        await asyncio.to_thread(time.sleep, 0.05)  # noqa: TID251 - a real server needs real time
    return seen


async def test_alertmanager_sends_what_intake_reads(tmp_path: Path, http: httpx.AsyncClient) -> None:
    """A firing alert arrives with its fingerprint, which is the one we compute; our own escalation is dropped."""
    with prometheus.receiving() as inbox:
        server = prometheus.start_alertmanager(tmp_path, CONFIG.format(url=inbox.url))
        try:
            real = alertmanager.Alertmanager(http, server.url)
            labels = {"alertname": "CacheWrong", "service": "chat", "odd": "a\nb \"c\" <d> 'e'"}
            await real.post("/api/v2/alerts", [{"labels": labels}])
            await notify.AlertmanagerNotifier(real, clocks.SystemClock()).escalate("inc_1", "chat", "n1", "oncall", "x")

            async def both() -> list[alerting.Notification] | None:
                found = [intake.parse(json.dumps(body).encode(), source="am") for body in list(inbox.bodies)]
                return found if len(found) >= 2 else None

            notifications: list[alerting.Notification] = await soon(both)
        finally:
            server.stop()
    (alert,) = [one for notification in notifications for one in notification.alerts]
    assert alert.name == "CacheWrong"
    assert alert.fingerprint == intake.fingerprint(labels)
    assert alert.ends_at is None


async def test_silences_of_the_real_alertmanager_are_read(tmp_path: Path, http: httpx.AsyncClient) -> None:
    """Set one, read it; end it, and it is gone; stop the server, and the last reading stays with its age."""
    server = prometheus.start_alertmanager(tmp_path, CONFIG.format(url="http://127.0.0.1:1"))
    clock = clocks.SystemClock()
    real = alertmanager.Alertmanager(http, server.url)
    try:
        assert (await _read(real)).active == ()
        now = clock.now()
        wanted = {
            "matchers": [{"name": "node", "value": "n[12]", "isRegex": True, "isEqual": False}],
            "startsAt": now.isoformat(),
            "endsAt": (now + timedelta(hours=1)).isoformat(),
            "createdBy": "ana",
            "comment": "two\nlines",
        }
        answer = await http.post(f"{server.url}/api/v2/silences", json=wanted)
        identity = answer.json()["silenceID"]

        async def active() -> tuple[alerting.Silence, ...]:
            return (await _read(real)).active

        (silence,) = await soon(active)
        assert (silence.id, silence.created_by, silence.comment) == (identity, "ana", "two\nlines")
        assert silence.matchers == (("node", "n[12]", True, False),)
        await http.delete(f"{server.url}/api/v2/silence/{identity}")
        await soon(lambda: _is_empty(real))
        later = FakeClock(now)
        kept = silences.AlertmanagerSilences(real, later)
        before = await kept.current()
    finally:
        server.stop()
    later.move(silences.CACHE_SECONDS)
    assert await kept.current() == before
    assert "did not answer" in kept.problem


async def _read(real: alertmanager.Alertmanager) -> alerting.Silences:
    reader = silences.AlertmanagerSilences(real, clocks.SystemClock())
    found = await reader.current()
    assert found is not None, reader.problem
    return found


async def _is_empty(real: alertmanager.Alertmanager) -> bool:
    return not (await _read(real)).active
