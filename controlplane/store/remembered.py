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

# A storm of ten thousand alerts has ten million characters, and some 40 MB with what they mean.
_MAX_CHARACTERS = 16_000_000


class Remembered(Generic[T]):
    """Decodes documents of one kind. Forgets those not read again while `max_characters` of others were."""

    def __init__(self, kind: type[T], max_characters: int = _MAX_CHARACTERS) -> None:
        self._kind = kind
        self._max_characters = max_characters
        self._num_characters = 0
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
        if self._num_characters + len(text) > self._max_characters:
            self._before, self._recent, self._num_characters = self._recent, {}, 0
        self._recent[text] = found
        self._num_characters += len(text)
        return found


def text_of(column: sa.Column[Any]) -> sa.Label[str]:
    """Return what selects a JSON column as its text, under its own name."""
    return sa.cast(column, sa.Text).label(column.name)
