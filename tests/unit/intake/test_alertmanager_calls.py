"""What is sent to Alertmanager and read from it, and what happens when it does not answer."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import pytest

from alerts import alertmanager, notify, silences
from controlplane.domain import errors
from tests.support import prometheus
from tests.support.action_house import TLS
from tests.support.clock import START, FakeClock


@dataclass
class Stand:
    """A stand-in for Alertmanager: what it answers, and what it was asked."""

    url: str = ""
    status: int = 200
    content: bytes = b"[]"
    asked: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])


@pytest.fixture
async def stand() -> AsyncGenerator[Stand]:
    state = Stand()

    class Handler(prometheus.QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - the name http.server calls
            state.asked.append((self.path, None))
            self.answer(state.status, state.content, "application/json")

        def do_POST(self) -> None:  # noqa: N802 - the name http.server calls
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append((self.path, body))
            self.answer(state.status, state.content, "application/json")

    with prometheus.serving(Handler) as address:
        state.url = f"http://{address}"
        yield state


@pytest.fixture
async def server(stand: Stand) -> AsyncGenerator[alertmanager.Alertmanager]:
    async with httpx.AsyncClient(trust_env=False, verify=TLS) as http:
        yield alertmanager.Alertmanager(http, f"{stand.url}/")


def silence(**changes: Any) -> dict[str, Any]:
    return {
        "id": "s1",
        "status": {"state": "active"},
        "matchers": [{"name": "node", "value": "n1", "isRegex": False, "isEqual": True}],
        "startsAt": "2026-03-02T08:00:00Z",
        "endsAt": "2026-03-02T12:00:00Z",
        "createdBy": "ana",
        "comment": "maintenance",
        **changes,
    }


async def test_an_escalation_is_an_alert_of_ours(
    stand: Stand, server: alertmanager.Alertmanager, clock: FakeClock
) -> None:
    """It carries the label that intake drops, ends by itself, and leads back to the incident."""
    notifier = notify.AlertmanagerNotifier(server, clock, link="http://dsctl/")
    await notifier.escalate("inc_1", "chat", "", "oncall", "flushing did not help")
    ((path, (alert,)),) = stand.asked
    assert path == "/api/v2/alerts"
    assert alert["labels"] == {
        "alertname": "DsctlEscalation",
        "severity": "critical",
        "dsctl_origin": "dsctl",
        "service": "chat",
        "incident": "inc_1",
        "escalate_to": "oncall",
    }
    assert alert["annotations"]["summary"] == "flushing did not help"
    assert (alert["startsAt"], alert["endsAt"]) == ("2026-03-02T09:00:00+00:00", "2026-03-02T09:10:00+00:00")
    assert alert["generatorURL"] == "http://dsctl/api/v1/incidents/inc_1"


async def test_the_escalation_of_a_run_alone_lasts_for_a_shift(
    stand: Stand, server: alertmanager.Alertmanager, clock: FakeClock
) -> None:
    """Without an incident nobody repeats it."""
    await notify.AlertmanagerNotifier(server, clock).escalate("", "chat", "n1", "oncall", "look at n1")
    ((_, (alert,)),) = stand.asked
    assert alert["endsAt"] == "2026-03-02T13:00:00+00:00"


async def test_a_call_for_approval_is_an_alert_for_each_run(
    stand: Stand, server: alertmanager.Alertmanager, clock: FakeClock
) -> None:
    """It lasts as long as the question, leads to the run's page, and can be routed to who approves."""
    notifier = notify.AlertmanagerNotifier(server, clock, link="http://dsctl")
    await notifier.ask("run_1", "chat", "n1", "approvers", "approval wanted", START + timedelta(hours=1))
    ((_, (alert,)),) = stand.asked
    assert alert["labels"] == {
        "alertname": "DsctlApprovalWanted",
        "severity": "warning",
        "dsctl_origin": "dsctl",
        "service": "chat",
        "node": "n1",
        "run": "run_1",
        "escalate_to": "approvers",
    }
    assert (alert["endsAt"], alert["generatorURL"]) == ("2026-03-02T10:00:00+00:00", "http://dsctl/runs/run_1")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, errors.RetryLaterError), (429, errors.RetryLaterError), (400, errors.GiveUpError)],
)
async def test_an_escalation_that_is_not_taken_is_reported(
    stand: Stand, server: alertmanager.Alertmanager, clock: FakeClock, status: int, kind: type[errors.DsctlError]
) -> None:
    """Never a silent loss: the caller retries, or reads why it was refused."""
    stand.status, stand.content = status, b"bad \x1b[31mlabel"
    with pytest.raises(kind, match="answered POST /api/v2/alerts with") as caught:
        await notify.AlertmanagerNotifier(server, clock).escalate("inc_1", "chat", "n1", "oncall", "x")
    assert str(caught.value).isprintable()


async def test_an_alertmanager_that_is_down_can_be_tried_again(clock: FakeClock) -> None:
    """Sending the same alert twice does no harm."""
    async with httpx.AsyncClient(trust_env=False, verify=TLS) as http:
        notifier = notify.AlertmanagerNotifier(alertmanager.Alertmanager(http, "http://127.0.0.1:1"), clock)
        with pytest.raises(errors.RetryLaterError, match="did not answer"):
            await notifier.escalate("inc_1", "chat", "n1", "oncall", "x")


async def test_only_active_silences_are_read(stand: Stand, server: alertmanager.Alertmanager, clock: FakeClock) -> None:
    """Pending and expired ones hide nothing now."""
    old = {"name": "a", "value": "b.*", "isRegex": True}
    listed = [silence(), silence(id="s2", status={"state": "expired"}), silence(id="s3", matchers=[old])]
    stand.content = json.dumps(listed).encode()
    found = await silences.AlertmanagerSilences(server, clock).current()
    assert found is not None
    assert found.read_at == START
    assert [one.id for one in found.active] == ["s1", "s3"]
    assert found.active[0].matchers == (("node", "n1", False, True),)
    assert found.active[1].matchers == (("a", "b.*", True, True),)
    assert (found.active[0].created_by, found.active[0].comment) == ("ana", "maintenance")


async def test_a_reading_is_shared_for_five_seconds(
    stand: Stand, server: alertmanager.Alertmanager, clock: FakeClock
) -> None:
    """The gates of one tick ask once."""
    reader = silences.AlertmanagerSilences(server, clock)
    await reader.current()
    clock.move(4.9)
    await reader.current()
    assert len(stand.asked) == 1
    clock.move(0.2)
    await reader.current()
    assert len(stand.asked) == 2


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (500, b"[]"),
        (200, b"not json"),
        (200, b"[" * 100_000),
        (200, b"{}"),
        (200, b"[3]"),
        (200, b"[{}]"),
        (200, json.dumps([silence(matchers=None)]).encode()),
        (200, json.dumps([silence(matchers=[{"name": "a", "value": "b"}])]).encode()),
        (200, json.dumps([silence(endsAt="0001-01-01T00:00:00Z")]).encode()),
        (200, json.dumps([0] * 10_001).encode()),
        (200, b'"' + b"x" * alertmanager.MAX_ANSWER_BYTES + b'"'),
    ],
)
async def test_the_last_good_reading_stays(
    stand: Stand, server: alertmanager.Alertmanager, clock: FakeClock, status: int, content: bytes
) -> None:
    """Whatever comes back instead: nothing is raised, and the age of what is known shows."""
    reader = silences.AlertmanagerSilences(server, clock)
    stand.content = json.dumps([silence()]).encode()
    good = await reader.current()
    stand.status, stand.content = status, content
    clock.move(10)
    assert await reader.current() == good
    assert reader.problem
    await reader.current()
    assert len(stand.asked) == 2
    stand.status, stand.content = 200, b"[]"
    clock.move(10)
    again = await reader.current()
    assert again is not None
    assert (again.active, reader.problem) == ((), "")


async def test_never_read_is_none(clock: FakeClock) -> None:
    """That is not the same as no silences."""
    async with httpx.AsyncClient(trust_env=False, verify=TLS) as http:
        reader = silences.AlertmanagerSilences(alertmanager.Alertmanager(http, "http://127.0.0.1:1"), clock)
        assert await reader.current() is None
        assert "did not answer" in reader.problem
        broken = silences.AlertmanagerSilences(alertmanager.Alertmanager(http, "http://[bad"), clock)
        assert await broken.current() is None
