"""The repositories: what they keep, in which order, and what they refuse."""

import dataclasses
from collections.abc import Mapping
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from controlplane.domain import alerting, errors, findings, incidents, outcomes
from controlplane.store import codec, house, retention, tables, tokens
from tests.support import runs as run_support
from tests.support.clock import START, FakeClock

Status = alerting.AlertStatus


def _alert(
    status: Status = Status.FIRING, fingerprint: str = "f1", start: float = 0.0, labels: Mapping[str, str] | None = None
) -> alerting.Alert:
    starts_at = START + timedelta(seconds=start)
    ends_at = starts_at + timedelta(seconds=30) if status is Status.RESOLVED else None
    return alerting.Alert(fingerprint, status, labels or {"alertname": "CacheWrong"}, {}, starts_at, ends_at)


def _notice(key: str, *alerts: alerting.Alert, source: str = "alertmanager") -> alerting.Notification:
    status = alerts[0].status if alerts else Status.FIRING
    return alerting.Notification(source, "dsctl", "group", status, alerts, key)


async def test_duplicate_notification_changes_nothing(store: house.House) -> None:
    """A retry of the same content is recognised by its key."""
    assert await store.alerts.store(_notice("k1", _alert()))
    assert not await store.alerts.store(_notice("k1", _alert()))
    assert await store.alerts.active() == (_alert(),)


async def test_resolved_alert_is_no_longer_active(store: house.House) -> None:
    """What the newest notice calls resolved does not fire any more; its neighbour still does."""
    await store.alerts.store(_notice("k1", _alert(), _alert(fingerprint="f2")))
    await store.alerts.store(_notice("k2", _alert(Status.RESOLVED)))
    assert [one.fingerprint for one in await store.alerts.active()] == ["f2"]


@pytest.mark.parametrize("late_start", [0.0, -60.0])
async def test_late_firing_notice_does_not_reopen(store: house.House, late_start: float) -> None:
    """A firing notice about an episode that has ended, or about an earlier one, arrives late: still resolved."""
    await store.alerts.store(_notice("k1", _alert(Status.RESOLVED)))
    await store.alerts.store(_notice("k2", _alert(start=late_start)))
    assert await store.alerts.active() == ()


async def test_new_episode_fires_again_and_its_end_is_not_hidden_by_an_old_end(store: house.House) -> None:
    """A later start is a new episode; the late end of the one before does not close it."""
    await store.alerts.store(_notice("k1", _alert(Status.RESOLVED)))
    await store.alerts.store(_notice("k2", _alert(start=60.0)))
    await store.alerts.store(_notice("k3", _alert(Status.RESOLVED)))
    assert [one.starts_at for one in await store.alerts.active()] == [START + timedelta(seconds=60)]


async def test_an_alert_that_is_no_longer_repeated_fires_no_more(store: house.House, clock: FakeClock) -> None:
    """Its end may have been lost; the very same notification, repeated, says that it still fires."""
    assert await store.alerts.store(_notice("k1", _alert()))
    assert await store.alerts.store(_notice("k2", _alert(fingerprint="f2")))
    clock.move(20 * 3600)
    assert not await store.alerts.store(_notice("k2", _alert(fingerprint="f2")))
    assert len(await store.alerts.active()) == 2
    clock.move(5 * 3600)
    assert [one.fingerprint for one in await store.alerts.active()] == ["f2"]


async def test_an_alert_that_comes_back_with_its_old_start_fires_again(store: house.House, clock: FakeClock) -> None:
    """Alertmanager gave it up while it could not hear Prometheus, and repeats the first notification word for word."""
    await store.alerts.store(_notice("k1", _alert()))
    clock.move(600)
    await store.alerts.store(_notice("k2", _alert(Status.RESOLVED)))
    clock.move(299)
    assert not await store.alerts.store(_notice("k1", _alert()))
    assert await store.alerts.active() == ()
    clock.move(2)
    assert not await store.alerts.store(_notice("k1", _alert()))
    assert len(await store.alerts.active()) == 1
    assert not await store.alerts.store(_notice("k2", _alert(Status.RESOLVED)))
    assert await store.alerts.active() == ()


async def test_two_sources_do_not_overwrite_each_other(store: house.House) -> None:
    """The same fingerprint from Grafana is another alert than from Alertmanager."""
    await store.alerts.store(_notice("k1", _alert()))
    await store.alerts.store(_notice("k2", _alert(Status.RESOLVED), source="grafana"))
    assert len(await store.alerts.active()) == 1


async def test_hostile_text_is_data(store: house.House) -> None:
    """Quotes, SQL and emoji in labels come back as they were."""
    labels = {"alertname": "'; DROP TABLE alert; --", "emoji": "\U0001f525", "newline": "a\nb"}
    await store.alerts.store(_notice("k1", _alert(labels=labels)))
    assert (await store.alerts.active())[0].labels == labels


def _incident(number: int = 1, node: str = "node-1", at: datetime = START) -> incidents.Incident:
    finding = findings.Finding(
        findings.FaultClass.CACHE,
        "chat",
        node,
        "cache_wrong_ratio",
        findings.Severity.CRITICAL,
        "alert:CacheWrong",
        at,
        "wrong answers",
        observed=0.3,
    )
    key = incidents.IncidentKey("chat", findings.FaultClass.CACHE, node)
    state = incidents.IncidentState.OPEN
    return incidents.Incident(
        f"inc_{number}", key, state, findings.Severity.CRITICAL, at, at, finding.source, finding, ("alert:CacheWrong",)
    )


def _closed(incident: incidents.Incident, at: datetime) -> incidents.Incident:
    state, verdict = incidents.IncidentState.CLOSED, outcomes.Verdict.RECOVERED
    return dataclasses.replace(incident, state=state, closed_at=at, verdict=verdict)


async def test_incident_comes_back_as_it_was_saved(store: house.House, clock: FakeClock) -> None:
    """Saving keeps every field, and the timeline keeps its order."""
    await store.incidents.save(_incident(), "opened")
    clock.move(5)
    closed = _closed(_incident(), clock.now())
    await store.incidents.save(closed, "closed: it came back")
    await store.incidents.save(closed, "")
    assert await store.incidents.get("inc_1") == closed
    notes = [(START, "opened"), (START + timedelta(seconds=5), "closed: it came back")]
    assert list(await store.incidents.timeline("inc_1")) == notes


async def test_second_open_incident_with_one_key_is_refused(store: house.House, clock: FakeClock) -> None:
    """One trouble has one incident; after it is closed there may be another, also in the timeline's absence."""
    await store.incidents.save(_incident(1), "opened")
    with pytest.raises(errors.ConflictError, match="chat/node-1:cache"):
        await store.incidents.save(_incident(2), "opened")
    assert await store.incidents.timeline("inc_2") == ()
    await store.incidents.save(_closed(_incident(1), clock.now()), "closed")
    await store.incidents.save(_incident(2), "opened again")
    assert [one.id for one in await store.incidents.unclosed()] == ["inc_2"]


async def test_incidents_are_found_newest_first(store: house.House) -> None:
    """Filters combine, the limit cuts off the oldest, and an unknown id is an error."""
    for number in range(4):
        at = START + timedelta(seconds=number)
        await store.incidents.save(_incident(number, node=f"node-{number}", at=at), "opened")
    await store.incidents.save(_closed(_incident(0, node="node-0"), START), "closed")
    assert [one.id for one in await store.incidents.find(limit=2)] == ["inc_3", "inc_2"]
    assert [one.id for one in await store.incidents.find(service="chat", state="closed")] == ["inc_0"]
    assert await store.incidents.find(service="search") == ()
    with pytest.raises(errors.NotFoundError, match="inc_9"):
        await store.incidents.get("inc_9")


def _decision(
    number: int,
    outcome: str = "held",
    sentence: str = "no policy",
    at: float = 0.0,
    gate: outcomes.Gate = outcomes.Gate.COOLDOWN,
) -> outcomes.Decision:
    answer = outcomes.GateAnswer(gate, is_passed=False, sentence="4 min left", numbers={"left": 240})
    answers = () if outcome == "held" else (answer,)
    when = START + timedelta(seconds=at)
    return outcomes.Decision(
        f"dec_{number}", when, "chat", "chat/node-1", "flush-cache", outcome, sentence, "inc_1", "p", answers=answers
    )


async def test_repeated_hold_moves_forward_instead_of_piling_up(store: house.House) -> None:
    """The tick says the same every few seconds: one row with the newest time; a new sentence is a new row."""
    for number in range(3):
        await store.decisions.record(_decision(number, at=number))
    await store.decisions.record(_decision(3, sentence="cooldown", at=3))
    await store.decisions.record(_decision(4, at=4))
    assert [one.id for one in await store.decisions.find()] == ["dec_4", "dec_3", "dec_2"]
    assert (await store.decisions.find(limit=1))[0] == _decision(4, at=4)


async def test_a_refusal_whose_numbers_count_down_stays_one_row(store: house.House) -> None:
    """A cooldown says other seconds at every tick; only another gate is another refusal."""
    for number in range(3):
        await store.decisions.record(_decision(number, "denied", f"cooldown: {9 - number} s left", number))
    await store.decisions.record(_decision(3, "denied", "silenced", 3, outcomes.Gate.SILENCE))
    found = await store.decisions.find()
    assert [(one.id, one.sentence) for one in found] == [("dec_3", "silenced"), ("dec_2", "cooldown: 7 s left")]


async def test_answers_given_to_people_are_all_kept(store: house.House) -> None:
    """What was allowed, and a refusal told to a person by its id, keep that id."""
    asked = dataclasses.replace(_decision(1, "denied"), policy=None)
    for one in (_decision(3, "allowed"), _decision(4, "allowed"), asked, dataclasses.replace(asked, id="dec_2")):
        await store.decisions.record(one)
    assert {one.id for one in await store.decisions.find(incident_id="inc_1")} == {"dec_1", "dec_2", "dec_3", "dec_4"}
    assert await store.decisions.find(incident_id="inc_2") == ()


async def test_brake_is_held_until_its_holder_lets_go(store: house.House) -> None:
    """Several people may hold; one release frees only one; a release of all frees all."""
    await store.automation.pause("anna", "maintenance")
    await store.automation.pause("ben", "looking")
    await store.automation.pause("ben", "still looking")
    assert await store.automation.paused() == {"anna": "maintenance", "ben": "still looking"}
    await store.automation.resume("anna")
    assert await store.automation.paused() == {"ben": "still looking"}
    await store.automation.resume()
    assert await store.automation.paused() == {}


async def test_token_is_known_until_it_expires_or_is_revoked(store: house.House, clock: FakeClock) -> None:
    """A token tells who calls; only its hash is stored; expiry and revocation take effect at once."""
    token = await store.tokens.create("ci", "operator", clock.now() + timedelta(hours=1))
    assert token.startswith("dsct_")
    assert await store.tokens.verify(token) == tokens.Principal("ci", "operator")
    assert await store.tokens.verify(token + "x") is None
    assert await store.tokens.verify("") is None
    stored = await store.database.read(lambda c: c.execute(sa.select(tables.API_TOKEN)).one())
    assert token not in str(stored)
    clock.move(3600)
    assert await store.tokens.verify(token) is None
    forever = await store.tokens.create("forever", "viewer")
    await store.tokens.revoke("forever")
    assert await store.tokens.verify(forever) is None


async def test_token_names_are_unique_while_live(store: house.House) -> None:
    """A name says who acted, so it is given once; after revocation it may be given again."""
    await store.tokens.create("ci", "operator")
    with pytest.raises(errors.ConflictError, match="'ci'"):
        await store.tokens.create("ci", "viewer")
    await store.tokens.revoke("ci")
    await store.tokens.create("ci", "viewer")
    assert [one.role for one in await store.tokens.list() if one.revoked_at is None] == ["viewer"]
    with pytest.raises(errors.NotFoundError, match="'nobody'"):
        await store.tokens.revoke("nobody")


async def test_last_use_is_kept_without_a_write_per_request(store: house.House, clock: FakeClock) -> None:
    """The time of the last use moves in steps of a minute."""
    token = await store.tokens.create("ci", "operator")
    for _ in range(3):
        await store.tokens.verify(token)
        clock.move(25)
    (info,) = await store.tokens.list()
    assert info.last_used_at == START


async def test_retention_deletes_what_ended_and_keeps_what_is_open(store: house.House, clock: FakeClock) -> None:
    """Old closed incidents, runs, decisions and notices go, with what hangs on them; open ones stay."""
    note, stage = run_support.NotingAction(), run_support.Stage()
    driven = run_support.make_engine(store, clock, stage, {"note": note})
    await driven._member.join()
    old_run = await driven.submit(run_support.plan())
    await run_support.play(driven)
    note.answers["apply"] = [errors.GiveUpError("refused")]
    stage.notifier_errors = [errors.RetryLaterError("silent")]
    owing = await driven.submit(run_support.plan(on_failure=[run_support.edge("escalate", "anna")]))
    await run_support.play(driven)
    open_run = await driven.submit(run_support.plan(node="node-2"))
    await store.incidents.save(_closed(_incident(1), START), "closed")
    await store.incidents.save(_incident(2), "opened")
    await store.decisions.record(_decision(1))
    await store.alerts.store(_notice("k1", _alert()))
    clock.move(40 * 86400)
    await store.alerts.store(_notice("k2", _alert(fingerprint="f2")))
    assert await retention.sweep(store.database, clock, keep_days=30) == 5
    assert {one.id for one in await store.runs.find()} == {owing, open_run}
    assert await store.runs.events(old_run) == ()
    assert [one.id for one in await store.incidents.find()] == ["inc_2"]
    assert await store.incidents.timeline("inc_1") == ()
    assert await store.decisions.find() == ()
    assert [one.fingerprint for one in await store.alerts.active()] == ["f2"]
    assert await retention.sweep(store.database, clock, keep_days=30) == 0


async def test_retention_keeps_the_run_that_an_open_incident_names(store: house.House, clock: FakeClock) -> None:
    """Handed to a person and still open after a hundred days: its run tells why."""
    driven = run_support.make_engine(store, clock, run_support.Stage(), {"note": run_support.NotingAction()})
    await driven.join()
    run_id = await driven.submit(run_support.plan())
    await run_support.play(driven)
    await store.incidents.save(_incident(1), "opened")
    clock.move(100 * 86400)
    await retention.sweep(store.database, clock, keep_days=90)
    assert (await store.runs.get(run_id)).id == run_id
    await store.incidents.save(_closed(_incident(1), START), "closed")
    await retention.sweep(store.database, clock, keep_days=90)
    assert await store.runs.find() == ()


async def test_runs_are_found_by_what_they_are(store: house.House, clock: FakeClock) -> None:
    """Filters for state, service, incident, runbook, key and end; `unfinished` means every state not final."""
    driven = run_support.make_engine(store, clock, run_support.Stage(), {"note": run_support.NotingAction()})
    await driven._member.join()
    first = await driven.submit(run_support.plan())
    await run_support.play(driven)
    clock.move(60)
    second = await driven.submit(run_support.plan(dedup_key="k-2"))
    assert [one.id for one in await store.runs.find()] == [second, first]
    assert [one.id for one in await store.runs.find(state="unfinished")] == [second]
    assert [one.id for one in await store.runs.find(state="succeeded")] == [first]
    assert [one.id for one in await store.runs.find(ended_since=clock.now() - timedelta(seconds=60))] == [first]
    assert await store.runs.find(ended_since=clock.now()) == ()
    assert [one.id for one in await store.runs.find(dedup_key="k-2")] == [second]
    assert [one.id for one in await store.runs.find(runbook="flush-cache")] == [second, first]
    assert await store.runs.find(runbook="restart-node") == ()
    assert [one.id for one in await store.runs.find(service="chat", incident_id="inc_1", limit=1)] == [second]
    assert await store.runs.find(service="search") == ()
    assert (await store.runs.get(first)).plan == run_support.plan()
    with pytest.raises(errors.NotFoundError, match="run_x"):
        await store.runs.get("run_x")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (outcomes.GateAnswer, {"gate": "teleport", "is_passed": True, "sentence": ""}),
        (outcomes.GateAnswer, {"gate": "mode", "is_passed": "yes", "sentence": ""}),
        (outcomes.GateAnswer, []),
        (alerting.Alert, {"fingerprint": "f"}),
        (alerting.Silence, {"id": "s", "matchers": [["a", "b"]], "ends_at": "2026-01-01T00:00:00Z"}),
    ],
)
def test_stored_value_that_does_not_fit_is_refused(kind: type, data: object) -> None:
    """Reading never invents a value: a foreign word, a wrong type or a missing field is an error with its place."""
    with pytest.raises(errors.InvariantBrokenError, match=kind.__name__):
        codec.from_json(kind, data)


def test_codec_keeps_what_it_is_given() -> None:
    """A value and its stored form are the same value."""
    for value in (run_support.plan(verify=None), _incident(), _notice("k", _alert(Status.RESOLVED))):
        assert codec.from_json(type(value), codec.to_json(value)) == value
    silences = alerting.Silences(START, (alerting.Silence("s", (("a", "b", True, False),), START),))
    assert codec.from_json(alerting.Silences, codec.to_json(silences)) == silences
