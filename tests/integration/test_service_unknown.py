"""The service while Prometheus or Alertmanager is away: unknown holds, nothing is lost, and the loop goes on by itself."""

import threading
from pathlib import Path

import pytest

from tests.support import fake_node, service
from tests.support import prometheus as real
from tests.support import service_files as files

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_without_prometheus_nothing_is_done_and_with_it_the_loop_goes_on(tmp_path: Path) -> None:
    """Prometheus dies with an incident open: it is held as unknown, no action, no good tick; back again, it is cured."""
    with service.installed(tmp_path) as rig:
        rig.server.call("POST", "/api/v1/automation/pause", {"reason": "until Prometheus is gone"})
        node = rig.poison("n1")
        rig.incident(lambda one: "paused" in one["sentence"], "the kill switch holds the incident")
        # The first ticks may wait for libraries to load.
        real.until(
            lambda: rig.server.metric("dsctl_seconds_since_good_tick") < 3,
            "ticks are good while Prometheus is there",
            seconds=60,
        )
        assert rig.prometheus is not None
        rig.prometheus.kill()
        rig.server.call("POST", "/api/v1/automation/resume", {})
        held = rig.incident(
            lambda one: one["sentence"].startswith("held: ") and "is unknown" in one["sentence"],
            "the incident is held as unknown",
        )
        assert held["state"] == "open", rig.story()

        real.until(
            lambda: rig.server.metric("dsctl_seconds_since_good_tick") > 5,
            "ticks that see nothing are not good",
            pause_seconds=service.LOOK_SECONDS,
        )
        ready = rig.server.http.get(f"{rig.server.url}/readyz")
        assert ready.status_code == 200, "the API serves on: runs and incidents can be looked at"
        assert ready.json()["checks"]["prometheus"] is False
        checks = {one["name"]: one for one in rig.server.get("/checks")["items"]}
        assert not checks["prometheus"]["is_ok"]
        assert "prometheus" in checks["tick"]["detail"].lower(), checks["tick"]
        # One run may have been on its way; the guard looks anew before each effect.
        assert [run["state"] for run in rig.runs()] in ([], ["cancelled"]), rig.story()
        assert node.effects == [], rig.story()

        rig.start_prometheus()
        incident = rig.closed()
        assert incident["verdict"] == "recovered", rig.story()
        assert node.effects == ["POST /admin/v1/cache/flush"], rig.story()
        real.until(lambda: rig.server.metric("dsctl_seconds_since_good_tick") < 3, "ticks are good again", seconds=60)
        assert any("is unknown" in note for note in rig.timeline(incident)), rig.story()


def test_an_escalation_waits_for_alertmanager(tmp_path: Path) -> None:
    """Alertmanager is away and silences unknown: a flush destroys nothing and goes on; who is to be told is told later."""
    with service.installed(tmp_path, has_alertmanager=False) as rig:
        node = rig.poison("n1")
        node.trouble, node.is_lasting = fake_node.Trouble.REDIRECT, True
        rig.until_scraped()
        assert rig.tell(files.wrong_answers("n1")).status_code == 202
        incident = rig.incident(lambda one: one["state"] == "escalated", "every attempt was refused by the node")
        allowed = [one for one in rig.decisions() if one["outcome"] == "allowed"]
        assert len(allowed) == incident["attempts"] == 3, rig.story()
        [silence] = [one for one in allowed[0]["answers"] if one["gate"] == "silence"]
        assert silence["is_passed"], silence
        assert "never read" in silence["sentence"], silence
        assert all(run["state"] == "failed" and "redirects" in run["sentence"] for run in rig.runs()), rig.story()
        assert node.effects == []
        problems = rig.server.events("tick_problem")
        assert any("nobody could be told" in one["problem"] for one in problems), rig.story()

        rig.server.kill()
        rig.server.start()
        rig.start_alertmanager()

        def told() -> list[service.Json]:
            alerts = [alert for body in list(rig.people.bodies) for alert in body["alerts"]]
            return [alert for alert in alerts if alert["labels"]["alertname"] == "DsctlEscalation"]

        [alert, *_] = real.until(told, "people are told after all", seconds=90)
        assert (alert["labels"]["incident"], alert["labels"]["node"]) == (incident["id"], "n1")
        newest = rig.runs()[0]["id"]
        real.until(
            lambda: [one for one in rig.events(newest) if one["kind"] == "escalated"],
            "the run's own debt is paid and written down",
            seconds=90,
            pause_seconds=service.LOOK_SECONDS,
        )


def test_the_webhook_takes_what_is_right_once_and_refuses_the_rest(tmp_path: Path) -> None:
    """Duplicates change nothing, resolved never acts, malformed is 400 with the place, too many at once are 503."""
    with service.installed(tmp_path, has_alertmanager=False, webhook={"max_pending": 1}) as rig:
        hold = tmp_path / "policies" / "cache-poisoned.yaml"
        assert hold.exists()
        rig.until_scraped()
        rig.server.call("POST", "/api/v1/automation/pause", {"reason": "look only"})
        firing = files.wrong_answers("n1")
        assert rig.tell(firing).status_code == 202
        held = rig.incident(lambda one: "paused" in one["sentence"], "the incident is held")
        before = rig.timeline(held)
        for _ in range(3):
            again = rig.tell(firing)
            assert (again.status_code, again.json()["duplicate"]) == (200, True)
        assert rig.tell(files.wrong_answers("n1", status="resolved"), status="resolved").status_code == 202
        assert rig.tell(firing).status_code == 200, "the same words again, late: nothing new"
        rig.server.call("POST", "/api/v1/automation/resume", {})
        closed = rig.closed()
        assert rig.timeline(closed)[: len(before)] == before
        assert closed["run_id"] is None, rig.story()

        # The end overtakes the beginning on its way: nothing was ever seen, nothing is done.
        assert rig.tell(files.wrong_answers("n2", status="resolved"), status="resolved").status_code == 202
        assert rig.tell(files.wrong_answers("n2")).status_code == 202
        assert rig.tell(files.wrong_answers("n2")).status_code == 200

        check_refusals(rig)
        check_overload(rig)
        rig.server.wait_ticks(2)
        assert [one["id"] for one in rig.incidents()] == [closed["id"]], rig.story()
        assert (rig.runs(), [node.effects for node in rig.nodes.values()]) == ([], [[], []]), rig.story()


def check_refusals(rig: service.Rig) -> None:
    """Every wrong body is refused as a whole, with the place and the reason in words."""
    token = files.webhook_token(rig.server.config).read_text()
    wrong = files.wrong_answers("n1", starts_at="yesterday")
    cases = (
        (files.notification(wrong), 400, "alerts[0].startsAt"),
        ({"version": "9"}, 400, "version"),
        ({**files.notification(), "alerts": {}}, 400, "alerts"),
        ([], 400, "body"),
    )
    for body, status, place in cases:
        answer = rig.server.call("POST", files.WEBHOOK, body, token=token)
        assert answer.status_code == status, answer.text
        assert place in answer.json()["detail"], answer.text
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    url = f"{rig.server.url}{files.WEBHOOK}"
    assert rig.server.http.post(url, content=b'{"version": ', headers=headers).status_code == 400
    assert rig.server.http.post(url, content=b"x" * 1_100_000, headers=headers).status_code == 413
    assert (
        rig.server.http.post(url, content=b"{}", headers={**headers, "Authorization": "Bearer no"}).status_code == 401
    )


def check_overload(rig: service.Rig) -> None:
    """While one sender takes its time, the only place is taken: the next is asked to come again."""
    release, is_sending = threading.Event(), threading.Event()

    def slowly():
        yield b'{"version": "4", '
        is_sending.set()
        release.wait(10)
        yield b'"groupKey": "g", "status": "firing", "alerts": []}'

    token = files.webhook_token(rig.server.config).read_text()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    url = f"{rig.server.url}{files.WEBHOOK}"
    answers: list[int] = []
    slow = threading.Thread(
        target=lambda: answers.append(rig.server.http.post(url, content=slowly(), headers=headers).status_code)
    )
    slow.start()
    try:
        assert is_sending.wait(10)
        refused = real.until(
            lambda: [one for one in [rig.tell()] if one.status_code == 503], "the second sender is refused"
        )
        assert int(refused[0].headers["Retry-After"]) >= 1
        assert "send this one again" in refused[0].json()["detail"]
    finally:
        release.set()
        slow.join(10)
    assert answers == [202], "the slow one was taken all the same"
