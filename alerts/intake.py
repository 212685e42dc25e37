"""Reads the webhooks of Alertmanager (version 4) and Grafana (version 1) into one notification.

Called by the API, which has authenticated the sender and stores what comes back before it answers 202. Pure: it
reads bytes and returns values. It never decides what an alert means, never lets text become anything but text,
and refuses a body only as a whole, with the place in plain words. Fields it does not know are welcome: senders
are newer than we are.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime

from alerts import payload
from controlplane.domain import alerting, errors

MAX_BODY_BYTES = 1_048_576
MAX_ALERTS = 10_000
# Prometheus' own guidance is about ten labels; these bounds only keep one alert from filling the store.
MAX_LABELS = 128
MAX_NAME = 512
MAX_LABEL = 4_096
MAX_ANNOTATION = 16_384
MAX_URL = 4_096
_MAX_KEY = 8_192  # Alertmanager writes all matchers of the route and all group labels into groupKey
_MAX_COUNT = 1_000_000

_VERSIONS = ("4", "1")
# FNV-1a with 64 bits (Fowler, Noll, Vo), as Prometheus hashes label sets: the same alert has the same identity by every road.
_FNV_OFFSET = 0xCBF29CE484222325
_FNV_PRIME = 0x100000001B3
_FNV_MASK = 0xFFFFFFFFFFFFFFFF
_SEPARATOR = b"\xff"


def parse(body: bytes, *, source: str) -> alerting.Notification:
    """Return the notification in `body`; `source` names the authenticated sender.

    Alerts that dsctl sent itself are left out. Raises InvalidInputError; takes about 30 µs an alert.
    """
    if len(body) > MAX_BODY_BYTES:
        raise errors.InvalidInputError(
            f"has {len(body)} bytes, at most {MAX_BODY_BYTES} are accepted; set max_alerts on the receiver",
            place="body",
        )
    document = payload.mapping(payload.document(body, "body"), "body")
    _check_version(document)
    group_key = payload.text(_needed(document, "groupKey", ""), "groupKey", at_most=_MAX_KEY)
    alerts = _alerts(document)
    return alerting.Notification(
        source=source,
        receiver=payload.text(_optional(document, "receiver", ""), "receiver", at_most=MAX_NAME),
        group_key=group_key,
        status=_status(_needed(document, "status", ""), "status"),
        alerts=tuple(alert for alert in alerts if alerting.ORIGIN_LABEL not in alert.labels),
        idempotency_key=idempotency_key(source, group_key, alerts),
        truncated_alerts=payload.count(
            _optional(document, "truncatedAlerts", 0), "truncatedAlerts", at_most=_MAX_COUNT
        ),
        external_url=payload.text(_optional(document, "externalURL", ""), "externalURL", at_most=MAX_URL),
    )


def idempotency_key(source: str, group_key: str, alerts: list[alerting.Alert]) -> str:
    """Return the SHA-256 of who says what about which alerts: equal for retries, in whatever order they come."""
    said = sorted([alert.fingerprint, alert.starts_at.isoformat(), alert.status.value] for alert in alerts)
    return hashlib.sha256(json.dumps([source, group_key, said]).encode("ascii")).hexdigest()


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return the fingerprint that Alertmanager computes over the same labels.

    >>> fingerprint({})
    'cbf29ce484222325'
    """
    parts = (part.encode() for name in sorted(labels) for part in (name, labels[name]))
    value = _FNV_OFFSET
    for byte in b"".join(part + _SEPARATOR for part in parts):
        value = ((value ^ byte) * _FNV_PRIME) & _FNV_MASK
    return f"{value:016x}"


def _check_version(document: Mapping[str, object]) -> None:
    version = _needed(document, "version", "")
    if version not in _VERSIONS:
        raise errors.InvalidInputError(
            f"expects '4' (Alertmanager) or '1' (Grafana), got {payload.show(version)}; remove a custom payload template",
            place="version",
        )


def _alerts(document: Mapping[str, object]) -> list[alerting.Alert]:
    listed = payload.sequence(_needed(document, "alerts", ""), "alerts")
    if len(listed) > MAX_ALERTS:
        raise errors.InvalidInputError(f"holds {len(listed)} alerts; at most {MAX_ALERTS} are accepted", place="alerts")
    return [_alert(payload.mapping(one, f"alerts[{number}]"), f"alerts[{number}]") for number, one in enumerate(listed)]


def _alert(document: Mapping[str, object], place: str) -> alerting.Alert:
    labels = _labels(_needed(document, "labels", place), f"{place}.labels")
    status = _status(_needed(document, "status", place), f"{place}.status")
    given = payload.text(_optional(document, "fingerprint", ""), f"{place}.fingerprint", at_most=MAX_NAME)
    return alerting.Alert(
        fingerprint=given or fingerprint(labels),
        status=status,
        labels=labels,
        annotations=_annotations(_optional(document, "annotations", {}), f"{place}.annotations"),
        starts_at=_start(document, place),
        ends_at=_end(document, place) if status is alerting.AlertStatus.RESOLVED else None,
        generator_url=payload.text(_optional(document, "generatorURL", ""), f"{place}.generatorURL", at_most=MAX_URL),
    )


def _start(document: Mapping[str, object], place: str) -> datetime:
    found = payload.instant(_needed(document, "startsAt", place), f"{place}.startsAt")
    if found is None:
        raise errors.InvalidInputError("is the zero time; an alert has begun at some time", place=f"{place}.startsAt")
    return found


def _end(document: Mapping[str, object], place: str) -> datetime | None:
    written = document.get("endsAt")
    return None if written is None else payload.instant(written, f"{place}.endsAt")


def _status(value: object, place: str) -> alerting.AlertStatus:
    for status in alerting.AlertStatus:
        if value == status.value:
            return status
    raise errors.InvalidInputError(f"expects firing or resolved, got {payload.show(value)}", place=place)


def _labels(value: object, place: str) -> Mapping[str, str]:
    return {
        payload.text(name, place, at_most=MAX_NAME): payload.text(given, f"{place}.{_named(name)}", at_most=MAX_LABEL)
        for name, given in _limited(value, place).items()
    }


def _annotations(value: object, place: str) -> Mapping[str, str]:
    return {
        payload.text(name, place, at_most=MAX_NAME): payload.prose(
            given, f"{place}.{_named(name)}", at_most=MAX_ANNOTATION
        )
        for name, given in _limited(value, place).items()
    }


def _limited(value: object, place: str) -> Mapping[str, object]:
    found = payload.mapping(value, place)
    if len(found) > MAX_LABELS:
        raise errors.InvalidInputError(f"has {len(found)} entries; at most {MAX_LABELS} are accepted", place=place)
    return found


def _named(name: str) -> str:
    """Return a foreign name as a place may carry it."""
    return name if name.isascii() and name.isidentifier() else payload.show(name)


def _needed(document: Mapping[str, object], name: str, place: str) -> object:
    if document.get(name) is None:
        raise errors.InvalidInputError(f"field {name!r} is missing", place=place or "body")
    return document[name]


def _optional(document: Mapping[str, object], name: str, default: object) -> object:
    value = document.get(name)
    return default if value is None else value
