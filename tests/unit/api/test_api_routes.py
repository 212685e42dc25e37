"""Every route behind fakes: what it answers, and with which status."""

import asyncio
from dataclasses import replace

import pytest
from prometheus_client import parser

from controlplane.domain import errors, outcomes
from tests.support import api
from tests.support.clock import FakeClock

FLUSH = {"runbook": "flush-cache", "service": "chat", "node": "n1"}


@pytest.fixture
def fakes(clock: FakeClock) -> api.Fakes:
    return api.Fakes(clock)


async def test_dry_run_shows_difference_and_guard_and_changes_nothing(fakes: api.Fakes) -> None:
    """A preview carries the plan's difference, its hash and every gate's answer, and submits nothing."""
    async with fakes.http("viewer") as http:
        answer = await http.post("/api/v1/plans", json=FLUSH)
    body = answer.json()
    assert answer.status_code == 200
    assert body["apiVersion"] == "dsctl/v1"
    assert body["plan"]["changes"] == [{"target": "chat/n1", "what": "cache entries", "before": 12, "after": 0}]
    assert body["guard"]["is_allowed"] is True
    assert fakes.remediator.requests == []


async def test_run_is_made_under_the_name_of_the_token(fakes: api.Fakes) -> None:
    """Who asks comes from the token; the answer is 201 with the run's place."""
    async with fakes.http("operator") as http:
        answer = await http.post("/api/v1/runs", json={**FLUSH, "reason": "wrong answers"})
        run = (await http.get(answer.headers["location"])).json()
    assert answer.status_code == 201
    assert run["id"] == answer.json()["run_id"]
    assert (run["requested_by"], run["plan"]["request"]["reason"]) == ("operator", "wrong answers")


async def test_requester_cannot_be_named_in_the_body(fakes: api.Fakes) -> None:
    """A body that says who asks is refused, with the field's place."""
    async with fakes.http() as http:
        answer = await http.post("/api/v1/runs", json={**FLUSH, "requested_by": "ceo"})
    assert answer.status_code == 422
    assert answer.json()["place"] == "requested_by"


async def test_refusal_says_gate_numbers_and_where_it_is_kept(fakes: api.Fakes) -> None:
    """A refusal of the guard is 409 with the gate, the numbers behind it and the decision's id."""
    fakes.remediator.denied = api.DENIED
    async with fakes.http() as http:
        answer = await http.post("/api/v1/runs", json=FLUSH)
    body = answer.json()
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert (body["type"], body["gate"], body["decision_id"]) == ("urn:dsctl:problem:refused", "cooldown", "dec_1")
    assert body["answers"][-1]["numbers"] == {"age_seconds": 60, "limit_seconds": 300}


async def test_only_what_was_previewed_runs(fakes: api.Fakes) -> None:
    """When the plan changes between preview and order, nothing runs and the answer is a conflict."""
    async with fakes.http() as http:
        seen = (await http.post("/api/v1/plans", json=FLUSH)).json()["plan"]["hash"]
        fakes.remediator.version = "2"
        answer = await http.post("/api/v1/runs", json={**FLUSH, "expected_hash": seen})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:dsctl:problem:conflict")
    assert fakes.runs.rows == {}


async def test_repeat_with_the_same_key_answers_the_first_run(fakes: api.Fakes) -> None:
    """A retried order answers 200 with the first run, even though the guard would refuse a second one by now."""
    key = {"Idempotency-Key": "k-1"}
    async with fakes.http() as http:
        first = await http.post("/api/v1/runs", json=FLUSH, headers=key)
        fakes.remediator.denied = api.DENIED
        again = await http.post("/api/v1/runs", json=FLUSH, headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"replayed": True}
    assert len(fakes.runs.rows) == 1


async def test_requests_with_one_key_at_the_same_moment_get_one_run(fakes: api.Fakes) -> None:
    """The one the guard refuses, because the run of its twin is in the way, is answered with that run."""
    fakes.remediator.is_second = True
    fakes.remediator.denied = api.DENIED
    async with fakes.http() as http:
        answer = await http.post("/api/v1/runs", json=FLUSH, headers={"Idempotency-Key": "k-1"})
    assert (answer.status_code, answer.json()["run_id"]) == (200, next(iter(fakes.runs.rows)))


async def test_key_of_another_request_or_token_is_not_confused(fakes: api.Fakes) -> None:
    """The same key with another target is an error, and of another token it is another key."""
    key = {"Idempotency-Key": "k-1"}
    async with fakes.http() as http:
        await http.post("/api/v1/runs", json=FLUSH, headers=key)
        other = await http.post("/api/v1/runs", json={**FLUSH, "node": "n2"}, headers=key)
        tier = await http.post("/api/v1/runs", json={**FLUSH, "inputs": {"tier": "l1"}}, headers=key)
        reason = await http.post("/api/v1/runs", json={**FLUSH, "reason": "worded anew"}, headers=key)
        operator = {**key, "Authorization": "Bearer token-operator"}
        theirs = await http.post("/api/v1/runs", json=FLUSH, headers=operator)
    assert (other.status_code, other.json()["type"]) == (422, "urn:dsctl:problem:idempotency-key-reused")
    assert (tier.status_code, reason.status_code) == (422, 200)
    assert theirs.status_code == 201


async def test_runs_are_listed_with_filters_and_say_when_there_is_more(fakes: api.Fakes) -> None:
    """`limit` cuts the list and says so; `unfinished` leaves out what has ended."""
    async with fakes.http() as http:
        for node in ("n1", "n2", "n3"):
            await http.post("/api/v1/runs", json={**FLUSH, "node": node})
        newest = next(reversed(fakes.runs.rows))
        fakes.runs.end(newest, outcomes.RunState.SUCCEEDED, outcomes.Verdict.RECOVERED)
        two = (await http.get("/api/v1/runs", params={"limit": 2})).json()
        open_ones = (await http.get("/api/v1/runs", params={"unfinished": True})).json()
        bad = await http.get("/api/v1/runs", params={"state": "sleeping"})
    assert ([run["node"] for run in two["items"]], two["truncated"]) == (["n3", "n2"], True)
    assert [run["node"] for run in open_ones["items"]] == ["n2", "n1"]
    assert (bad.status_code, bad.json()["place"]) == (422, "state")


async def test_events_wait_for_news_until_the_run_ends(fakes: api.Fakes, clock: FakeClock) -> None:
    """A question held open answers as soon as there is news, and at once when the run is over."""
    async with fakes.http() as http:
        run_id = (await http.post("/api/v1/runs", json=FLUSH)).json()["run_id"]
        path = f"/api/v1/runs/{run_id}/events"
        asking = asyncio.create_task(http.get(path, params={"after": 0, "wait_seconds": 10}))
        for _ in range(20):
            await clock.sleep(0)
        assert not asking.done()
        fakes.runs.end(run_id, outcomes.RunState.SUCCEEDED, outcomes.Verdict.RECOVERED, "recovered after 4 s")
        clock.move(1)
        news = (await asking).json()
        rest = (await http.get(path, params={"after": 1, "wait_seconds": 10})).json()
    assert [event["kind"] for event in news["items"]] == ["ended"]
    assert (news["is_final"], news["verdict"]) == (True, "recovered")
    assert (rest["items"], rest["is_final"]) == ([], True)


async def test_events_answer_empty_when_nothing_happens(fakes: api.Fakes, clock: FakeClock) -> None:
    """A held question ends with an empty list when its time is over."""
    run = fakes.runs.add(fakes.remediator.plan(api.plans.PlanRequest("flush-cache", "chat", "n1", "me")))
    async with fakes.http() as http:
        path = f"/api/v1/runs/{run.id}/events"
        asking = asyncio.create_task(http.get(path, params={"after": 0, "wait_seconds": 5}))
        while not asking.done():
            await clock.sleep(0)
            clock.move(0.5)
        assert (await asking).json()["items"] == []


async def test_cancel_is_asked_for_by_name_and_refused_after_the_end(fakes: api.Fakes) -> None:
    """Cancelling names who and why; a run that has ended is a conflict, an unknown one not found."""
    async with fakes.http("operator") as http:
        run_id = (await http.post("/api/v1/runs", json=FLUSH)).json()["run_id"]
        asked = await http.post(f"/api/v1/runs/{run_id}/cancel", json={"reason": "wrong node"})
        fakes.runs.end(run_id, outcomes.RunState.CANCELLED)
        late = await http.post(f"/api/v1/runs/{run_id}/cancel", json={})
        unknown = await http.post("/api/v1/runs/run_0/cancel", json={})
    assert (asked.status_code, late.status_code, unknown.status_code) == (200, 409, 404)
    assert fakes.runs.cancelled == [(run_id, "operator (wrong node)")]


async def test_incidents_with_timeline(fakes: api.Fakes) -> None:
    """An incident carries its finding and its sentence; its timeline is in order; unknown ids are 404."""
    await fakes.incidents.save(api.incident(), "opened by alert:CacheWrong")
    async with fakes.http("viewer") as http:
        listed = (await http.get("/api/v1/incidents", params={"state": "open"})).json()
        one = (await http.get("/api/v1/incidents/inc_1")).json()
        timeline = (await http.get("/api/v1/incidents/inc_1/timeline")).json()
        unknown = await http.get("/api/v1/incidents/inc_2/timeline")
    assert [row["id"] for row in listed["items"]] == ["inc_1"]
    assert (one["node"], one["finding"]["observed"], one["sentence"]) == ("n1", 0.5, "acting soon")
    assert [entry["note"] for entry in timeline["items"]] == ["opened by alert:CacheWrong"]
    assert unknown.status_code == 404


async def test_decisions_tell_why_not(fakes: api.Fakes, clock: FakeClock) -> None:
    """Stored refusals can be read with every gate's answer."""
    await fakes.decisions.record(
        outcomes.Decision(
            "dec_1", clock.now(), "chat", "chat/n1", "flush-cache", "denied", "cooldown", answers=api.DENIED.answers
        )
    )
    async with fakes.http("viewer") as http:
        found = (await http.get("/api/v1/decisions")).json()["items"]
    assert (found[0]["outcome"], found[0]["answers"][1]["gate"]) == ("denied", "cooldown")


async def test_nodes_keep_the_three_states_of_data(fakes: api.Fakes) -> None:
    """A node that cannot be read is unknown, not down, and its signals say why."""
    async with fakes.http("viewer") as http:
        nodes = {node["name"]: node for node in (await http.get("/api/v1/nodes")).json()["items"]}
        one = (await http.get("/api/v1/nodes/chat/n1")).json()
        wrong = await http.get("/api/v1/nodes/chat/n9")
        service = await http.get("/api/v1/nodes/nope/n1")
    assert (nodes["n1"]["is_up"], nodes["n2"]["is_up"]) == (True, None)
    assert nodes["n2"]["signals"]["queue_depth"]["unknown"] == "last scrape is too old"
    assert one["signals"]["queue_depth"]["value"] == 3.0
    assert (wrong.status_code, service.status_code) == (404, 404)
    assert "known are n1, n2" in wrong.json()["detail"]


async def test_before_the_first_tick_nodes_are_not_an_empty_list(fakes: api.Fakes) -> None:
    """Not having looked is 503 with a time to come back, never `there are no nodes`."""
    fakes.feed.fleet = None
    async with fakes.http("viewer") as http:
        answer = await http.get("/api/v1/nodes")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_coverage_names_what_is_found_partial_and_missing(fakes: api.Fakes) -> None:
    """Each signal of a service says how many of its nodes have it, or why nobody has."""
    async with fakes.http("viewer") as http:
        rows = {row["signal"]: row for row in (await http.get("/api/v1/signals")).json()["items"]}
    assert {name: row["state"] for name, row in rows.items()} == {
        "latency_p99": "found",
        "queue_depth": "partial",
        "success_ratio": "missing",
    }
    assert rows["queue_depth"]["detail"] == "n2: last scrape is too old"


async def test_kill_switch_holds_under_the_name_of_who_pulled_it(fakes: api.Fakes) -> None:
    """A brake carries its holder's name; others release it only as approvers."""
    async with fakes.http("operator") as operator, fakes.http("approver") as approver:
        paused = (await operator.post("/api/v1/automation/pause", json={"reason": "network change"})).json()
        await approver.post("/api/v1/automation/pause", json={"reason": "me too"})
        foreign = await operator.post("/api/v1/automation/resume", json={"who": "approver"})
        everyone = await operator.post("/api/v1/automation/resume", json={"everyone": True})
        own = (await operator.post("/api/v1/automation/resume", json={})).json()
        rest = (await approver.post("/api/v1/automation/resume", json={"everyone": True})).json()
        silent = await operator.post("/api/v1/automation/pause", json={"reason": ""})
    assert paused["brakes"] == [{"who": "operator", "reason": "network change"}]
    assert (foreign.status_code, everyone.status_code) == (403, 403)
    assert [brake["who"] for brake in own["brakes"]] == ["approver"]
    assert rest["is_paused"] is False
    assert silent.status_code == 422


async def test_tokens_are_shown_once_and_stop_at_once(fakes: api.Fakes) -> None:
    """A new token works, is listed without its secret, and is useless after its revocation."""
    async with fakes.http("admin") as http:
        made = await http.post("/api/v1/tokens", json={"name": "ci", "role": "viewer"})
        secret = {"Authorization": f"Bearer {made.json()['token']}"}
        who = (await http.get("/api/v1/whoami", headers=secret)).json()
        listed = await http.get("/api/v1/tokens")
        twice = await http.post("/api/v1/tokens", json={"name": "ci", "role": "viewer"})
        odd = await http.post("/api/v1/tokens", json={"name": "x", "role": "root"})
        gone = await http.delete("/api/v1/tokens/ci")
        after = await http.get("/api/v1/whoami", headers=secret)
    assert (made.status_code, who["name"], who["role"]) == (201, "ci", "viewer")
    assert "token-ci" not in listed.text
    assert (twice.status_code, odd.status_code, gone.status_code, after.status_code) == (409, 422, 204, 401)


async def test_runbooks_can_be_read_and_checked(fakes: api.Fakes) -> None:
    """A runbook is shown with its text; a text can be checked and a wrong one is refused with its line."""
    async with fakes.http("viewer") as http:
        listed = (await http.get("/api/v1/runbooks")).json()["items"]
        one = (await http.get("/api/v1/runbooks/flush-cache")).json()
        good = await http.post("/api/v1/runbooks/validate", json={"text": "kind: Runbook"})
        bad = await http.post("/api/v1/runbooks/validate", json={"text": "kind: Poem", "source": "poem.yaml"})
    assert [book["name"] for book in listed] == ["flush-cache"]
    assert one["source"] == "kind: Runbook\n"
    assert good.status_code == 200
    assert (bad.status_code, bad.json()["place"]) == (422, "poem.yaml:1")


async def test_notification_is_stored_before_it_is_accepted_and_wakes_the_tick(fakes: api.Fakes) -> None:
    """A new notification is 202 and wakes the loop; the same again is 200, marked, and wakes nobody."""
    async with fakes.http("events") as http:
        first = await http.post("/api/v1/webhooks/alertmanager", json={"key": "a"})
        again = await http.post("/api/v1/webhooks/alertmanager", json={"key": "a"})
    assert (first.status_code, first.json()["duplicate"]) == (202, False)
    assert (again.status_code, again.json()["duplicate"]) == (200, True)
    assert (list(fakes.alerts.stored), fakes.feed.wakes) == (["a"], 1)


async def test_malformed_notification_is_400_and_overload_503(fakes: api.Fakes) -> None:
    """What no retry can mend is final; what a retry can mend is 503 with a time, and never 429."""
    async with fakes.http("events") as http:
        malformed = await http.post("/api/v1/webhooks/grafana", json=["no"])
        fakes.alerts.error = errors.OverloadedError("the queue of the store is full", delay_seconds=2.5)
        overloaded = await http.post("/api/v1/webhooks/alertmanager", json={"key": "a"})
    assert (malformed.status_code, malformed.json()["type"]) == (400, "urn:dsctl:problem:malformed")
    assert "is not a notification" in malformed.json()["detail"]
    assert (overloaded.status_code, overloaded.headers["retry-after"]) == (503, "3")
    exposition = fakes.telemetry.exposition().decode()
    assert 'dsctl_alerts_received_total{result="malformed",source="grafana"} 1.0' in exposition
    assert 'dsctl_alerts_received_total{result="overloaded",source="alertmanager"} 1.0' in exposition


async def test_webhooks_are_bounded_while_the_store_is_slow(fakes: api.Fakes) -> None:
    """More notifications at once than may wait are answered 503 at once; a place that is freed is used again."""
    entered, let_go = asyncio.Event(), asyncio.Event()

    class SlowAlerts(api.Alerts):
        async def store(self, notification: api.alerting.Notification) -> bool:
            entered.set()
            await let_go.wait()
            return await super().store(notification)

    async with fakes.http("events", alerts=SlowAlerts(), max_pending_webhooks=1) as http:
        waiting = asyncio.create_task(http.post("/api/v1/webhooks/alertmanager", json={"key": "a"}))
        await entered.wait()
        refused = await http.post("/api/v1/webhooks/alertmanager", json={"key": "b"})
        let_go.set()
        accepted = await waiting
        later = await http.post("/api/v1/webhooks/alertmanager", json={"key": "b"})
    assert (refused.status_code, accepted.status_code, later.status_code) == (503, 202, 202)


async def test_health_for_machines(fakes: api.Fakes) -> None:
    """Ready is 503 only for what is required; details need a token; metrics are a valid exposition."""
    fakes.readiness.checks.append(
        api.house.Check("alertmanager", is_ok=False, detail="refused", hint="start it", is_required=False)
    )
    async with fakes.http(None) as http:
        alive, ready = await http.get("/livez"), await http.get("/readyz")
        fakes.readiness.checks[0] = replace(fakes.readiness.checks[0], is_ok=False)
        broken = await http.get("/readyz")
        exposition = (await http.get("/metrics")).text
    assert (alive.status_code, ready.status_code, broken.status_code) == (200, 200, 503)
    assert ready.json()["checks"] == {"database": True, "alertmanager": False}
    assert "refused" not in ready.text
    names = {family.name for family in parser.text_string_to_metric_families(exposition)}
    assert {"dsctl_build_info", "dsctl_ticks", "dsctl_seconds_since_good_tick", "dsctl_guard_refusals"} <= names


@pytest.mark.parametrize(("age", "is_ok"), [(3.0, True), (46.0, False), (None, False)])
async def test_checks_tell_whether_the_loop_turns(fakes: api.Fakes, age: float | None, is_ok: bool) -> None:
    """A loop that has had no good tick for 45 s, or never, is a failed check with what to do."""
    fakes.feed.age = age
    fakes.feed.newest = api.ticks.TickReport(fakes.clock.now(), 0.1, (), ("observe: Prometheus did not answer",))
    async with fakes.http("viewer") as http:
        checks = {one["name"]: one for one in (await http.get("/api/v1/checks")).json()["items"]}
    assert checks["tick"]["is_ok"] is is_ok
    assert checks["tick"]["hint"]
    if age is not None:
        assert "Prometheus did not answer" in checks["tick"]["detail"]


async def test_bug_answers_a_problem_without_its_details(fakes: api.Fakes) -> None:
    """An exception nobody translated is 500 in the common form, and its text stays inside."""

    class Broken(api.Incidents):
        async def get(self, incident_id: str) -> api.incidents.Incident:
            raise RuntimeError("secret detail")

    async with fakes.http("viewer", incidents=Broken()) as http:
        answer = await http.get("/api/v1/incidents/inc_1")
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:dsctl:problem:internal")
    assert "secret" not in answer.text
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.RetryLaterError("node does not answer", delay_seconds=7), 503),
        (errors.GiveUpError("node refused"), 422),
        (errors.OutcomeUnknownError("look at the node first"), 409),
        (errors.LostLeaseError("another replica drives it"), 503),
        (errors.InvariantBrokenError("impossible"), 500),
    ],
)
async def test_every_error_of_the_house_has_a_status(fakes: api.Fakes, error: errors.DsctlError, status: int) -> None:
    """The status says what the caller should do: come back later, change the request, or get a person."""

    class Failing(api.Remediator):
        async def preview(self, request: api.plans.PlanRequest) -> api.remediation.Preview:
            raise error

    failing = Failing(fakes.clock, fakes.runs)
    async with fakes.http(remediator=failing) as http:
        answer = await http.post("/api/v1/plans", json=FLUSH)
    assert answer.status_code == status
    assert answer.json()["detail"] == str(error)
    assert ("retry-after" in answer.headers) == (status == 503)
