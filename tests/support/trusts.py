"""Deeds, and a record of trust in memory that keeps what the real one keeps."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from anyio import lowlevel

from controlplane.domain import outcomes, trust
from tests.support import builders
from tests.support.clock import START

Verdict = outcomes.Verdict
_WORDS = {
    "r": Verdict.RECOVERED,
    "n": Verdict.NOT_RECOVERED,
    "w": Verdict.WORSE,
    "u": Verdict.UNKNOWN,
    "-": None,
}


def deed(number: int = 0, **fields: Any) -> trust.Deed:
    """A run of `builders.policy()` that recovered a minute after it acted; a later number ends later."""
    ended_at = fields.pop("ended_at", START + timedelta(minutes=number))
    defaults: dict[str, Any] = {
        "run_id": f"run_{number:06d}",
        "runbook": "flush-cache",
        "service": builders.SERVICE,
        "policy": "cache-poisoned",
        "verdict": Verdict.RECOVERED,
        "acted_at": ended_at - timedelta(seconds=60),
        "ended_at": ended_at,
    }
    return trust.Deed(**defaults | fields)


def deeds(verdicts: str, *, first: int = 0, **fields: Any) -> list[trust.Deed]:
    """Runs in the order of their ends: r recovered, n not, w worse, u unknown, - without a verdict."""
    return [deed(first + number, verdict=_WORDS[word], **fields) for number, word in enumerate(verdicts)]


class FakeTrustStore:
    """Implements `trust.TrustStore`; `asked` is the `ended_since` of each question for deeds."""

    def __init__(self, found: Iterable[trust.Deed] = ()) -> None:
        self.found = list(found)
        self.entries: list[trust.Entry] = []
        self.asked: list[datetime | None] = []
        self.error: Exception | None = None

    async def deeds(self, *, ended_since: datetime | None = None) -> tuple[trust.Deed, ...]:
        await self._turn()
        self.asked.append(ended_since)
        kept = [one for one in self.found if ended_since is None or one.ended_at >= ended_since]
        return tuple(sorted(kept, key=lambda one: one.ended_at))

    async def trusts(self) -> Mapping[str, trust.Trust]:
        await self._turn()
        found: dict[str, trust.Trust] = {}
        for one in self.entries:
            is_reset, before = one.kind is trust.Kind.RESET, found.get(one.policy, trust.Trust())
            found[one.policy] = trust.Trust(None, one.at) if is_reset else trust.Trust(one, before.counts_from)
        return found

    async def append(self, entry: trust.Entry) -> None:
        await self._turn()
        self.entries.append(entry)

    async def _turn(self) -> None:
        await lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
