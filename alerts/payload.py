"""Small checked readings of foreign JSON: each refuses with the place, or returns a value of the stated type.

Called by `intake` and `silences`. Everything here comes from outside: text is made storable and printable, and
is never interpreted. Pure.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import cast

from controlplane.domain import errors

# Fits every clock and database in use; earlier or later instants are mistakes or attacks.
_FIRST_YEAR, _LAST_YEAR = 1970, 9998
_SHOWN = 60

# RFC 3339, with the separators that Python, Go and Grafana write.
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,12})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
# C0 and C1 controls and DEL break logs and databases; lone surrogates cannot be stored at all.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSAFE_IN_PROSE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # tab and line feed may stay
_REPLACEMENT = "\ufffd"


def document(body: bytes, place: str) -> object:
    """Return the JSON in `body`; raises InvalidInputError."""
    try:
        return cast("object", json.loads(body))
    except RecursionError as error:
        raise errors.InvalidInputError("is nested too deeply", place=place) from error
    except ValueError as error:
        raise errors.InvalidInputError(f"is not JSON: {error}", place=place) from error


def mapping(value: object, place: str) -> Mapping[str, object]:
    """Return an object."""
    if not isinstance(value, dict):
        raise errors.InvalidInputError(f"expects an object, got {show(value)}", place=place)
    return cast("Mapping[str, object]", value)


def sequence(value: object, place: str) -> Sequence[object]:
    """Return an array."""
    if not isinstance(value, list):
        raise errors.InvalidInputError(f"expects an array, got {show(value)}", place=place)
    return cast("Sequence[object]", value)


def text(value: object, place: str, *, at_most: int) -> str:
    """Return text of one line: what cannot be printed is replaced, so that nothing is lost for it."""
    return _UNSAFE.sub(_REPLACEMENT, _bounded(value, place, at_most))


def prose(value: object, place: str, *, at_most: int) -> str:
    """Return text that may have several lines."""
    return _UNSAFE_IN_PROSE.sub(_REPLACEMENT, _bounded(value, place, at_most))


def _bounded(value: object, place: str, at_most: int) -> str:
    if not isinstance(value, str):
        raise errors.InvalidInputError(f"expects text, got {show(value)}", place=place)
    if len(value) > at_most:
        raise errors.InvalidInputError(f"has {len(value)} characters; at most {at_most} are accepted", place=place)
    return value


def count(value: object, place: str, *, at_most: int) -> int:
    """Return a number of things."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= at_most:
        raise errors.InvalidInputError(f"expects an integer from 0 to {at_most}, got {show(value)}", place=place)
    return value


def flag(value: object, place: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise errors.InvalidInputError(f"expects true or false, got {show(value)}", place=place)
    return value


def instant(value: object, place: str) -> datetime | None:
    """Return an instant in UTC, cut to microseconds; None for the zero time, which Go writes as year 1."""
    written = text(value, place, at_most=64)
    if not _INSTANT.fullmatch(written):
        raise errors.InvalidInputError(
            f"expects a time with zone such as 2026-03-02T09:00:00Z, got {show(written)}", place=place
        )
    if written.startswith("0001-"):
        return None
    try:
        found = datetime.fromisoformat(written.upper())
        in_range = _FIRST_YEAR <= found.year <= _LAST_YEAR
    except ValueError as error:
        raise errors.InvalidInputError(f"is no time: {error}", place=place) from error
    if not in_range:
        raise errors.InvalidInputError(f"lies outside {_FIRST_YEAR} to {_LAST_YEAR}", place=place)
    return found.astimezone(UTC)


def show(value: object) -> str:
    """Return a short printable form of anything, for messages."""
    if isinstance(value, int) and not isinstance(value, bool):
        return "a number of many digits" if abs(value) > 10**_SHOWN else str(value)
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    return ascii(value)[:_SHOWN]
