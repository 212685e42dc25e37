"""Webhook bodies become notifications, or are refused as a whole with the place; nothing in them ever acts."""

import json
from datetime import UTC, datetime
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from alerts import intake
from controlplane.domain import alerting, errors


def alert(**changes: Any) -> dict[str, Any]:
    return {
        "status": "firing",
        "labels": {"alertname": "CacheWrong", "service": "chat", "node": "n1"},
        "annotations": {"summary": "wrong answers"},
        "startsAt": "2026-03-02T09:00:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "00c0ffee00c0ffee",
        **changes,
    }


def webhook(*alerts: Any, **changes: Any) -> dict[str, Any]:
    return {
        "version": "4",
        "groupKey": '{}:{alertname="CacheWrong"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "dsctl",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager",
        "alerts": list(alerts),
        **changes,
    }


def parse(document: Any, source: str = "alertmanager") -> alerting.Notification:
    return intake.parse(json.dumps(document).encode(), source=source)


def test_alertmanagers_webhook_is_read() -> None:
    """Every field that anybody acts on arrives; the zero endsAt means it still fires."""
    found = parse(webhook(alert(), truncatedAlerts=3))
    assert (found.source, found.receiver, found.status) == ("alertmanager", "dsctl", alerting.AlertStatus.FIRING)
    assert (found.truncated_alerts, found.external_url) == (3, "http://alertmanager")
    (one,) = found.alerts
    assert (one.name, one.fingerprint) == ("CacheWrong", "00c0ffee00c0ffee")
    assert one.starts_at == datetime(2026, 3, 2, 9, 0, 0, 123456, tzinfo=UTC)
    assert one.ends_at is None
    assert one.annotations == {"summary": "wrong answers"}


def test_grafanas_webhook_is_read() -> None:
    """Its extra fields are welcome and unused."""
    extra = {"values": {"B": 3}, "silenceURL": "http://g", "imageURL": "", "dashboardURL": "x", "valueString": "[]"}
    found = parse(webhook(alert(**extra), version="1", orgId=1, title="t", state="alerting", message="m"), "grafana")
    assert (found.source, len(found.alerts)) == ("grafana", 1)


def test_what_newer_senders_add_is_accepted() -> None:
    """Unknown fields at every level, and optional ones that are missing or null."""
    small = {"status": "resolved", "labels": {}, "startsAt": "2026-03-02T09:00:00Z", "new": [1]}
    found = parse({"version": "4", "groupKey": "k", "status": "resolved", "alerts": [small], "routeLabels": {}})
    assert found.alerts[0].fingerprint == "cbf29ce484222325"
    assert parse(webhook(alert(annotations=None, fingerprint=None, endsAt=None), receiver=None)).receiver == ""


def test_our_own_alerts_are_dropped() -> None:
    """An escalation that comes back opens no incident."""
    ours = alert(labels={"alertname": "DsctlEscalation", alerting.ORIGIN_LABEL: "dsctl"})
    assert [one.name for one in parse(webhook(ours, alert())).alerts] == ["CacheWrong"]
    assert parse(webhook(ours)).alerts == ()


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2026-03-02T09:00:00Z", "2026-03-02T09:00:00+00:00"),
        ("2026-03-02t09:00:00z", "2026-03-02T09:00:00+00:00"),
        ("2026-03-02T14:45:00+05:45", "2026-03-02T09:00:00+00:00"),
        ("2026-03-01T21:00:00.5-12:00", "2026-03-02T09:00:00.500000+00:00"),
        ("2026-03-02T09:00:00.123456789012-00:00", "2026-03-02T09:00:00.123456+00:00"),
    ],
)
def test_times_of_every_zone_become_utc(written: str, instant: str) -> None:
    """Fractions are cut to microseconds."""
    assert parse(webhook(alert(startsAt=written))).alerts[0].starts_at.isoformat() == instant


def test_an_end_counts_only_when_resolved() -> None:
    """Alertmanager may send the expected end of a firing alert."""
    end = "2026-03-02T10:00:00Z"
    assert parse(webhook(alert(endsAt=end))).alerts[0].ends_at is None
    resolved = parse(webhook(alert(endsAt=end, status="resolved"))).alerts[0]
    assert resolved.ends_at == datetime(2026, 3, 2, 10, tzinfo=UTC)
    assert parse(webhook(alert(status="resolved"))).alerts[0].ends_at is None


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([], "body: expects an object"),
        ("x", "body: expects an object"),
        (webhook(version="5"), "version: expects '4' (Alertmanager) or '1' (Grafana), got '5'"),
        (webhook(version=4), "version: expects"),
        (webhook(version=["4"]), "version: expects"),
        ({"version": "4"}, "body: field 'alerts' is missing"),
        (webhook(groupKey=None), "body: field 'groupKey' is missing"),
        (webhook(groupKey=7), "groupKey: expects text, got 7"),
        (webhook(status="ok"), "status: expects firing or resolved"),
        (webhook(status={"a": 1}), "status: expects firing or resolved"),
        (webhook(receiver=[]), "receiver: expects text, got an array"),
        (webhook(receiver=0), "receiver: expects text, got 0"),
        (webhook(truncatedAlerts=-1), "truncatedAlerts: expects an integer"),
        (webhook(truncatedAlerts=True), "truncatedAlerts: expects an integer"),
        (webhook(truncatedAlerts=10**100), "truncatedAlerts: expects an integer"),
        (webhook(alerts={}), "alerts: expects an array"),
        (webhook(alert(), "x"), "alerts[1]: expects an object"),
        (webhook(alert(labels=[])), "alerts[0].labels: expects an object"),
        (webhook(alert(labels={"severity": 1})), "alerts[0].labels.severity: expects text, got 1"),
        (webhook(alert(labels={"a\nb": None})), "alerts[0].labels.'a\\nb': expects text, got None"),
        (webhook(alert(labels={f"l{n}": "" for n in range(129)})), "alerts[0].labels: has 129 entries"),
        (webhook(alert(labels={"a": "x" * 4097})), "alerts[0].labels.a: has 4097 characters"),
        (webhook(alert(labels={"x" * 513: "a"})), "alerts[0].labels: has 513 characters"),
        (webhook(alert(annotations="x")), "alerts[0].annotations: expects an object"),
        (webhook(alert(annotations={"a": "x" * 16385})), "alerts[0].annotations.a: has 16385 characters"),
        (webhook(alert(status="suppressed")), "alerts[0].status: expects firing or resolved"),
        (webhook(alert(startsAt=None)), "alerts[0]: field 'startsAt' is missing"),
        (webhook(alert(startsAt="now")), "alerts[0].startsAt: expects a time with zone"),
        (webhook(alert(startsAt="2026-03-02T09:00:00")), "alerts[0].startsAt: expects a time with zone"),
        (webhook(alert(startsAt="2026-02-30T09:00:00Z")), "alerts[0].startsAt: is no time"),
        (webhook(alert(startsAt="2026-03-02T09:00:00+99:00")), "alerts[0].startsAt: is no time"),
        (webhook(alert(startsAt="0001-01-01T00:00:00Z")), "alerts[0].startsAt: is the zero time"),
        (webhook(alert(startsAt="9999-12-31T23:59:59-12:00")), "alerts[0].startsAt: lies outside"),
        (webhook(alert(startsAt=1e300)), "alerts[0].startsAt: expects text"),
        (webhook(alert(endsAt=3, status="resolved")), "alerts[0].endsAt: expects text"),
        (webhook(alert(fingerprint=[])), "alerts[0].fingerprint: expects text"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(document: Any, place: str) -> None:
    """The sender's log shows what to correct."""
    if place.endswith("'alerts' is missing"):
        document = {**webhook(), "alerts": None}
    with pytest.raises(errors.InvalidInputError) as caught:
        parse(document)
    assert str(caught.value).startswith(place)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"NaN",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"version": "4", "truncatedAlerts": ' + b"9" * 100_000 + b"}",
        b'{"version": "4", "groupKey": "\\ud800", "status": "firing", "alerts": {"a": 1}}',
    ],
)
def test_hostile_bytes_are_refused_in_words(body: bytes) -> None:
    """Depth, digits and broken text crash nothing."""
    with pytest.raises(errors.InvalidInputError, match=r"^(body|alerts)"):
        intake.parse(body, source="x")


def test_more_than_the_bounds_is_refused() -> None:
    """A body is measured before it is read, alerts are counted before they are."""
    with pytest.raises(errors.InvalidInputError, match="at most 1048576"):
        intake.parse(b" " * 1_048_577, source="x")
    with pytest.raises(errors.InvalidInputError, match="holds 10001 alerts"):
        parse(webhook(*[0] * 10_001))


def test_ten_thousand_alerts_are_accepted() -> None:
    """The largest group that is allowed."""
    small = {"status": "firing", "labels": {"a": "b"}, "startsAt": "2026-03-02T09:00:00Z"}
    assert len(parse(webhook(*[small] * 10_000)).alerts) == 10_000


@pytest.mark.parametrize(
    "text",
    [
        "$(reboot)",
        "`id`; rm -rf /",
        "--node=all",
        "${inputs.node}",
        "{{ 7 * 7 }}",
        "<script>alert(1)</script>",
        "javascript:alert(1)",
        "' OR 1=1 --",
        "../../etc/passwd",
    ],
)
def test_text_stays_text(text: str) -> None:
    """What looks like code arrives as it was written: nothing here interprets it."""
    found = parse(webhook(alert(labels={"alertname": text, text: text}, annotations={text: text})))
    assert found.alerts[0].labels == {"alertname": text, text: text}
    assert found.alerts[0].annotations == {text: text}


def test_what_cannot_be_stored_or_printed_is_replaced() -> None:
    """NUL, escapes, line feeds in labels and lone surrogates: no alert is lost for them, and no log is forged."""
    text = "a\x00b\x1b[31mc\nd\ud800e\x85f"
    found = parse(webhook(alert(labels={text: text}, annotations={"summary": text}), groupKey=text))
    clean = "a\ufffdb\ufffd[31mc\ufffdd\ufffde\ufffdf"
    assert found.alerts[0].labels == {clean: clean}
    assert found.group_key == clean
    assert found.alerts[0].annotations["summary"] == clean.replace("c\ufffd", "c\n")


def test_the_fingerprint_is_prometheus_own() -> None:
    """An alert has one identity, whether it came with a fingerprint or not (value from Prometheus' test suite)."""
    labels = {"name": "garland, briggs", "fear": "love is not enough"}
    assert int(intake.fingerprint(labels), 16) == 5799056148416392346
    assert parse(webhook(alert(labels=labels, fingerprint=""))).alerts[0].fingerprint == intake.fingerprint(labels)


def test_a_retry_has_the_same_key_and_news_has_another() -> None:
    """Order, zone and annotations do not matter; source, group, start and status do."""
    first, second = alert(), alert(fingerprint="11")
    key = parse(webhook(first, second)).idempotency_key
    moved = {**first, "startsAt": "2026-03-02T10:00:00.123456+01:00", "annotations": {}}
    assert parse(webhook(second, moved)).idempotency_key == key
    others = [
        parse(webhook(first, second), "other"),
        parse(webhook(first, second, groupKey="g")),
        parse(webhook(first)),
        parse(webhook(first, {**second, "status": "resolved"})),
        parse(webhook(first, {**second, "startsAt": "2026-03-02T09:00:01Z"})),
        parse(webhook(first, second, second)),
    ]
    assert len({key, *(one.idempotency_key for one in others)}) == 7


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TIMES = st.sampled_from(
    ["2026-03-02T09:00:00Z", "0001-01-01T00:00:00Z", "2026-13-02T09:00:00Z", "9999-12-31T23:59:59Z"]
)
ALERTS = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["firing", "resolved"]) | JSON,
        "labels": st.dictionaries(st.text(max_size=8), st.text(max_size=8) | JSON, max_size=3) | JSON,
        "annotations": st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3) | JSON,
        "startsAt": TIMES | JSON,
        "endsAt": TIMES | JSON,
        "fingerprint": st.text(max_size=16) | JSON,
    },
)
WEBHOOKS = st.fixed_dictionaries(
    {"version": st.sampled_from(["4", "1"]) | JSON, "groupKey": st.text(max_size=8) | JSON},
    optional={
        "status": st.sampled_from(["firing", "resolved"]) | JSON,
        "alerts": st.lists(ALERTS | JSON, max_size=3) | JSON,
        "receiver": JSON,
        "truncatedAlerts": JSON,
    },
)


@hypothesis.given(st.binary() | (WEBHOOKS | JSON).map(lambda value: json.dumps(value).encode()))
def test_no_body_raises_anything_but_invalid_input(body: bytes) -> None:
    """Whatever comes back can be stored as UTF-8 and printed on one line."""
    try:
        found, said = intake.parse(body, source="x"), ""
    except errors.InvalidInputError as error:
        found, said = None, str(error)
    assert said.isprintable()
    if found is None:
        return
    assert len(found.idempotency_key) == 64
    for one in found.alerts:
        for text in (*one.labels, *one.labels.values(), one.fingerprint):
            assert text.encode()
            assert "\x00" not in text
        assert one.starts_at.tzinfo is UTC


@hypothesis.given(st.data())
def test_the_key_does_not_depend_on_the_order(data: st.DataObject) -> None:
    """Alertmanager's peers send the same group in any order."""
    prints = data.draw(st.lists(st.text("0123456789abcdef", min_size=1, max_size=4), max_size=6))
    alerts = [alert(fingerprint=one) for one in prints]
    shuffled = data.draw(st.permutations(alerts))
    assert parse(webhook(*alerts)).idempotency_key == parse(webhook(*shuffled)).idempotency_key
