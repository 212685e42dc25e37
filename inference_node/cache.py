"""L1: the answers of deterministic requests, in memory, bounded in entries and bytes.

The server asks it before it spends anything on a request. Identical requests that arrive together share one computation
(single-flight). A flush also bars answers that were being computed while it happened, so nothing old comes back.
The cache never judges its answers: audits compare, the control plane decides. Concurrency: one event loop.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from inference_node import clock as clocks

ENTRY_OVERHEAD_BYTES = 512
"""What an entry costs beside its texts: keys, counters and dictionary slots, rounded up from sys.getsizeof."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Address:
    """What an answer belongs to. `key` holds everything that may change the answer; the rest is for flushing."""

    key: str
    model: str
    version: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A kept answer."""

    address: Address
    answer: Answer
    size_bytes: int
    ends_at: float


def address(*, tenant: str, model: str, version: str, prompt: str, request: Any) -> Address:
    """Return the address of an answer; `request` is everything else that shapes it, as JSON values."""
    content = json.dumps([tenant, model, version, request], sort_keys=True, separators=(",", ":"))
    return Address(hashlib.sha256(content.encode()).hexdigest(), model, version, prompt)


class ResponseCache:
    """Least recently used answers go first."""

    def __init__(self, *, max_entries: int, max_bytes: int, ttl_seconds: float, clock: clocks.Clock) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self.size_bytes = 0
        self.generation = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def hit_ratio(self) -> float | None:
        """Hits over look-ups since start; None before the first."""
        looked_up = self.hits + self.misses
        return self.hits / looked_up if looked_up else None

    def get(self, key: str) -> Entry | None:
        """Return the entry and mark it used; None where there is none or its time is over."""
        entry = self._entries.get(key)
        if entry is not None and entry.ends_at <= self._clock.monotonic():
            self._drop(key)
            entry = None
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, where: Address, answer: Answer, *, generation: int) -> bool:
        """Keep an answer computed since `generation`; False when a flush came between or it is too large."""
        size = ENTRY_OVERHEAD_BYTES + _size(where.prompt) + _size(answer.text)
        if generation != self.generation or size > self.max_bytes or self.max_entries == 0:
            return False
        self._drop(where.key)
        self._entries[where.key] = Entry(where, answer, size, self._clock.monotonic() + self._ttl_seconds)
        self.size_bytes += size
        while len(self._entries) > self.max_entries or self.size_bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))
        return True

    def flush(self, *, prefix: str | None = None, model: str | None = None) -> int:
        """Remove the entries whose prompt begins with `prefix` and whose model name or version is `model`."""
        doomed = [key for key, entry in self._entries.items() if _matches(entry.address, prefix, model)]
        for key in doomed:
            self._drop(key)
        self.generation += 1
        return len(doomed)

    def replace_texts(self, change: Callable[[str], str]) -> int:
        """Change the text of every answer held; the fault that poisons a cache. Returns how many."""
        for key, entry in self._entries.items():
            answer = replace(entry.answer, text=change(entry.answer.text))
            size = ENTRY_OVERHEAD_BYTES + _size(entry.address.prompt) + _size(answer.text)
            self.size_bytes += size - entry.size_bytes
            self._entries[key] = replace(entry, answer=answer, size_bytes=size)
        changed = len(self._entries)
        while self.size_bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))
        return changed

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry.size_bytes


def _matches(where: Address, prefix: str | None, model: str | None) -> bool:
    if prefix is not None and not where.prompt.startswith(prefix):
        return False
    return model is None or model in {where.model, where.version}


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
