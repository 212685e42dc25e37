"""Documents that were decoded once, remembered by their text: the same text is the same value.

Used by the repositories for what is read again and again: plans of runs, open incidents, firing alerts. Nothing can
go stale, whoever writes the database, since every read still brings the text and only its meaning is looked up. The
values are frozen, and shared by all who ask. Safe from any thread: the worst that a race does is to decode twice.
"""

import json
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from controlplane.store import codec

T = TypeVar("T")

# A storm of alerts has some ten thousand; with their texts they take some 40 MB.
_MAX_KEPT = 20_000


class Remembered(Generic[T]):
    """Decodes documents of one kind. Forgets those not read again once `max_kept` others were."""

    def __init__(self, kind: type[T], max_kept: int = _MAX_KEPT) -> None:
        self._kind = kind
        self._max_kept = max_kept
        self._recent: dict[str, T] = {}
        self._before: dict[str, T] = {}

    def decode(self, text: str) -> T:
        """Return the value of a document; raises InvariantBrokenError for one that does not fit."""
        known = self._recent.get(text)
        if known is not None:
            return known
        found = self._before.get(text)
        if found is None:
            found = codec.from_json(self._kind, json.loads(text))
        if len(self._recent) >= self._max_kept:
            self._before, self._recent = self._recent, {}
        self._recent[text] = found
        return found


def text_of(column: sa.Column[Any]) -> sa.Label[str]:
    """Return what selects a JSON column as its text, under its own name."""
    return sa.cast(column, sa.Text).label(column.name)
