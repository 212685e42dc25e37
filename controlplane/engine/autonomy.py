"""Keeps the ledgers of all runbooks up to date, and takes autonomy away from policies that lost it.

Called by the tick, once for each, before any incident is handled: what it returns are the policies as they may act now.
Called by the API for the same numbers. What the ledgers hold is read from the store once, and after that only what has
ended since; it is a copy and may be lost at any time. Demotions are the store's alone, read anew at every tick, so that
a restart or another replica changes nothing. Concurrency: async; one look at a time, under a lock.
"""

import asyncio
import bisect
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from controlplane.domain import errors, policies, ports
from controlplane.domain import trust as values
from controlplane.engine import trust

# Replicas stamp the ends of runs before they commit them: one may appear a little after another that ended later.
_OVERLAP = timedelta(seconds=60)
# By then what the retention has deleted, or a clock that was set back has hidden, is worth reading everything again.
_ANEW_SECONDS = 3600.0


class Autonomy:
    """Implements `trust.Trustees` for the surfaces."""

    def __init__(
        self,
        store: values.TrustStore,
        offered: Sequence[policies.Policy],
        thresholds: values.Thresholds,
        clock: ports.Clock,
        *,
        ceiling: policies.Mode = policies.Mode.AUTO,
    ) -> None:
        self._store = store
        self._policies = offered
        self._thresholds = thresholds
        self._clock = clock
        self._ceiling = ceiling
        self._lock = asyncio.Lock()
        self._known: set[str] = set()
        self._of_runbook: dict[str, list[values.Deed]] = {}
        self._of_policy: dict[tuple[str, str], list[values.Deed]] = {}
        self._read_at: float | None = None
        self._ledgers: dict[str, values.Ledger] = {}
        self._trusts: Mapping[str, values.Trust] = {}
        self._demoted: list[values.Entry] = []

    async def review(self) -> tuple[policies.Policy, ...]:
        """Demote whoever's record calls for it, and return every policy as it may act from now on."""
        async with self._lock:
            await self._read()
            for policy in self._policies:
                await self._judge(policy)
            return tuple(trust.apply(policy, self._trust_of(policy)) for policy in self._policies)

    def ledgers(self) -> Mapping[str, values.Ledger]:
        """Return the ledger of each runbook that ever ran, as of the newest look."""
        for runbook, deeds in self._of_runbook.items():
            if runbook not in self._ledgers:
                self._ledgers[runbook] = trust.count(deeds)
        return dict(self._ledgers)

    def demotions(self) -> Mapping[str, bool]:
        """Return which policies are demoted, by name, as of the newest look."""
        return {policy.name: self._trust_of(policy).demotion is not None for policy in self._policies}

    def take_news(self) -> Sequence[values.Entry]:
        """Return the demotions since the last call, once."""
        news, self._demoted = self._demoted, []
        return news

    async def standings(self) -> tuple[values.Standing, ...]:
        """Return every policy's standing, in the order in which policies are asked."""
        async with self._lock:
            await self._read()
            return tuple(self._stand(policy) for policy in self._policies)

    async def book(self, runbook: str) -> values.Book:
        """Return the ledger of a runbook, whoever asked for it."""
        async with self._lock:
            await self._read()
            return trust.book(self._of_runbook.get(runbook, ()))

    async def reset(self, policy: str, *, who: str, why: str) -> values.Standing:
        """Lift what is held against a policy and count its runs anew; raises NotFoundError."""
        async with self._lock:
            await self._read()
            found = next((one for one in self._policies if one.name == policy), None)
            if found is None:
                known = ", ".join(one.name for one in self._policies) or "none"
                raise errors.NotFoundError(f"no policy is named {policy!r}; known are {known}")
            before, mode = trust.apply(found, self._trust_of(found)).mode, policies.Mode.AUTO
            now = self._clock.now()
            await self._store.append(values.Entry(policy, values.Kind.RESET, now, who, why, before, mode))
            self._trusts = await self._store.trusts()
            return self._stand(found)

    async def _judge(self, policy: policies.Policy) -> None:
        own, standing = self._own(policy), self._trust_of(policy)
        demotion = trust.find_demotion(policy, own, standing, self._thresholds, self._clock.now())
        if demotion is None:
            return
        await self._store.append(demotion)
        self._demoted.append(demotion)
        self._trusts = await self._store.trusts()

    def _stand(self, policy: policies.Policy) -> values.Standing:
        record = [deed for deed in self._of_runbook.get(policy.runbook, ()) if deed.service in policy.services]
        standing = self._trust_of(policy)
        return trust.stand(policy, self._own(policy), record, standing, self._thresholds, self._ceiling)

    def _own(self, policy: policies.Policy) -> Sequence[values.Deed]:
        return self._of_policy.get((policy.name, policy.runbook), ())

    def _trust_of(self, policy: policies.Policy) -> values.Trust:
        return self._trusts.get(policy.name, values.Trust())

    async def _read(self) -> None:
        """Bring the copy up to date: all of it now and then, else what has ended since."""
        now = self._clock.monotonic()
        if self._read_at is None or now - self._read_at >= _ANEW_SECONDS:
            found = await self._store.deeds()
            for memory in (self._known, self._of_runbook, self._of_policy, self._ledgers):
                memory.clear()
            self._read_at = now
        else:
            found = await self._store.deeds(ended_since=self._newest_end())
        self._keep(found)
        self._trusts = await self._store.trusts()

    def _newest_end(self) -> datetime | None:
        ends = [deeds[-1].ended_at for deeds in self._of_runbook.values()]
        return max(ends) - _OVERLAP if ends else None

    def _keep(self, found: Iterable[values.Deed]) -> None:
        for deed in found:
            if deed.run_id in self._known:
                continue
            self._known.add(deed.run_id)
            _insert(self._of_runbook.setdefault(deed.runbook, []), deed)
            self._ledgers.pop(deed.runbook, None)
            if deed.policy is not None:
                _insert(self._of_policy.setdefault((deed.policy, deed.runbook), []), deed)


def _insert(deeds: list[values.Deed], deed: values.Deed) -> None:
    """Put a deed in its place by its end, which is almost always the last one."""
    bisect.insort(deeds, deed, key=lambda one: one.ended_at)
