"""Identifiers: a prefix that names the kind, then a ULID, so that ids sort by time of birth.

The ULID layout (48 bit milliseconds, 80 bit randomness, Crockford base 32) is github.com/ulid/spec.
"""

import secrets
from datetime import datetime
from enum import StrEnum

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LENGTH = 26
_RANDOM_BITS = 80


class IdKind(StrEnum):
    """The prefixes of identifiers; they are part of the API and never change."""

    INCIDENT = "inc"
    RUN = "run"
    PLAN = "plan"
    APPROVAL = "apr"
    DECISION = "dec"


def new_id(kind: IdKind, now: datetime) -> str:
    """Return a fresh identifier such as `run_01KC…` that sorts after those of earlier milliseconds.

    >>> from datetime import UTC, datetime
    >>> new_id(IdKind.RUN, datetime(2026, 1, 1, tzinfo=UTC))[:14]
    'run_01KDVDNA00'
    """
    number = (int(now.timestamp() * 1000) << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
    digits = [_ALPHABET[(number >> (5 * place)) & 31] for place in reversed(range(_LENGTH))]
    return f"{kind}_{''.join(digits)}"
