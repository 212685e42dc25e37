"""Reading much and often: documents decoded once, questions asked together, and nothing older than the question."""

import asyncio
import dataclasses
import json
from datetime import timedelta

import pytest
import sqlalchemy as sa
from anyio import lowlevel

from controlplane.domain import alerting, errors, incidents
from controlplane.runs import ledger
from controlplane.store import codec, house, remembered, shared, tables
from tests.support import builders as b
from tests.support.clock import START, FakeClock


async def test_a_token_in_memory_is_useless_as_soon_as_it_is_revoked(store: house.House) -> None:
    """Every way in which it was remembered before is forgotten."""
    token = await store.tokens.create("am", "events")
    for _ in range(3):
        assert await store.tokens.verify(token) is not None
    await store.tokens.revoke("am")
    assert await store.tokens.verify(token) is None


async def test_a_token_read_while_it_is_revoked_is_not_remembered(store: house.House) -> None:
    """The reading may have begun before the revocation; what it found holds for that one request."""
    token = await store.tokens.create("am", "events")
    await asyncio.gather(store.tokens.verify(token), store.tokens.revoke("am"))
    assert await store.tokens.verify(token) is None


async def test_a_token_in_memory_expires_on_time(store: house.House, clock: FakeClock) -> None:
    """To be remembered makes nothing valid for longer."""
    token = await store.tokens.create("am", "events", clock.now() + timedelta(seconds=50))
    for seconds in (20, 20):
        assert await store.tokens.verify(token) is not None
        clock.move(seconds)
    clock.move(20)
    assert await store.tokens.verify(token) is None


async def test_a_token_in_memory_is_not_read_for_each_request(store: house.House) -> None:
    """After the first request of a minute nothing asks the database any more."""
    token = await store.tokens.create("am", "events")
    for _ in range(2):
        await store.tokens.verify(token)
    drop = sa.delete(tables.API_TOKEN)
    await store.database.write(lambda connection: connection.execute(drop))
    assert await store.tokens.verify(token) is not None


def test_a_document_is_decoded_once_and_again_after_it_changed() -> None:
    """The same text is the same value; another text is another one, and bad text is refused as ever."""
    known = remembered.Remembered(alerting.Alert)
    alert = b.alert()
    text = json.dumps(codec.to_json(alert))
    assert known.decode(text) == alert
    assert known.decode(text) is known.decode(text[:1] + text[1:])
    assert known.decode(text.replace("CacheWrongAnswers", "Other")).name == "Other"
    with pytest.raises(errors.InvariantBrokenError, match="Alert"):
        known.decode("[]")


def test_what_is_not_read_again_is_forgotten() -> None:
    """Memory is bounded by what is in use."""
    texts = [json.dumps(codec.to_json(b.alert(fingerprint=f"f{number}"))) for number in range(6)]
    known = remembered.Remembered(alerting.Alert, max_characters=2 * len(texts[0]))
    kept = known.decode(texts[0])
    for text in texts[1:]:
        known.decode(text)
        assert known.decode(texts[0]) is kept
    first = known.decode(texts[1])
    for text in texts[2:]:
        known.decode(text)
    assert known.decode(texts[1]) is not first


async def test_who_asks_the_same_before_it_is_read_shares_the_answer(store: house.House) -> None:
    """One reading for all of them; who comes after it began gets another one."""
    reads, num_read = shared.SharedReads(store.database), 0

    def work(connection: sa.Connection) -> int:
        nonlocal num_read
        num_read += 1
        return num_read

    assert await asyncio.gather(*(reads.read("k", work) for _ in range(5))) == [1] * 5
    assert await reads.read("k", work) == 2
    assert await asyncio.gather(reads.read("k", work), reads.read("other", work)) != [3, 3]


async def test_one_who_goes_away_leaves_the_answer_to_the_others(store: house.House) -> None:
    """And an error is everybody's."""
    reads = shared.SharedReads(store.database)
    first = asyncio.create_task(reads.read("k", lambda connection: 7))
    second = asyncio.create_task(reads.read("k", lambda connection: 7))
    await lowlevel.checkpoint()
    first.cancel()
    assert await second == 7

    def fail(connection: sa.Connection) -> int:
        raise errors.InvariantBrokenError("bad row")

    failed = await asyncio.gather(reads.read("k", fail), reads.read("k", fail), return_exceptions=True)
    assert [type(one) for one in failed] == [errors.InvariantBrokenError] * 2


async def test_the_alerts_of_one_target_are_found_by_their_labels(store: house.House) -> None:
    """A node's, the service's own, and nobody else's."""
    wide, other = b.alert("Wide", labels={"node": ""}), b.alert(labels={"node": "node-b"})
    foreign = b.alert("Foreign", labels={"service": "search"})
    alerts = (b.alert(), wide, other, foreign)
    firing = alerting.AlertStatus.FIRING
    await store.alerts.store(alerting.Notification("alertmanager", "dsctl", "g", firing, alerts, "k"))
    assert await store.alerts.active(service="chat", node="node-a") == (b.alert(),)
    assert await store.alerts.active(service="chat", node="") == (wide,)
    assert len(await store.alerts.active(service="chat")) == 3
    assert len(await store.alerts.active()) == 4


async def test_the_newest_run_of_each_open_incident_is_found_at_once(store: house.House) -> None:
    """Of closed incidents nobody asks, and an incident without a run is left out."""
    for number, state in enumerate((incidents.IncidentState.OPEN, incidents.IncidentState.CLOSED)):
        key = incidents.IncidentKey("chat", b.finding().kind, f"node-{number}")
        await store.incidents.save(b.incident(f"inc_{number}", key=key, state=state), "")
    await store.incidents.save(b.incident("inc_2"), "")
    for number, incident in enumerate(("inc_0", "inc_0", "inc_1")):
        request = b.request(incident_id=incident, node=f"node-{number}", dedup_key=None)
        plan = dataclasses.replace(b.plan(request), id=f"plan_{number}")
        await store.database.write(
            lambda connection, made=plan, number=number: ledger.submit(connection, f"run_{number}", made, START)
        )
    assert {name: run.id for name, run in (await store.runs.newest()).items()} == {"inc_0": "run_1"}


def test_a_misfit_deep_inside_is_named_with_its_place() -> None:
    """Whoever has to repair a row learns where to look."""
    data = codec.to_json(b.incident())
    assert isinstance(data, dict)
    finding = data["finding"]
    assert isinstance(finding, dict)
    finding["labels"] = {"node": 7}
    with pytest.raises(errors.InvariantBrokenError, match=r"Incident\.finding\.labels\.node: is int, not str"):
        codec.from_json(incidents.Incident, data)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (
            "SELECT plan FROM run WHERE service = 'chat' AND ended_at >= '2026-01-01' ORDER BY created_at",
            "service_ended_at",
        ),
        (
            "SELECT max(created_at) FROM run WHERE incident_id IN (SELECT id FROM incident WHERE state != 'closed')",
            "COVERING INDEX ix_run_incident_id_created_at",
        ),
    ],
)
async def test_what_is_asked_with_every_plan_goes_by_an_index(store: house.House, query: str, index: str) -> None:
    """However many runs there ever were."""
    rows = await store.database.read(
        lambda connection: connection.execute(sa.text(f"EXPLAIN QUERY PLAN {query}")).all()
    )
    assert index in str(rows)
    assert "SCAN run" not in str(rows)
