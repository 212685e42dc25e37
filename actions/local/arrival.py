"""Nodes on their way in: started a few at a time, waited for until they are ready, and registered at the gateway.

Called by `scale`. A node that does not come up is stopped again, and the next candidate is tried while there is time; so
it never leaves behind a process that nobody waits for. Concurrency: async; one object for one try of a step.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from actions import fanout
from actions.local import fleet, work
from controlplane.domain import errors

_POLL_SECONDS = 0.5


class Arrival:
    """Brings nodes into service, at most `max_starting` of them at once.

    `ready_after` are the seconds from start to readiness of the nodes that this object has started.
    """

    def __init__(self, job: work.Work, *, max_starting: int) -> None:
        self._job = job
        self._max_starting = max_starting
        self._arrived: list[str] = []
        self._refused: dict[str, errors.DsctlError] = {}
        self.ready_after: dict[str, float] = {}

    async def bring(self, candidates: Sequence[str], wanted: int) -> None:
        """Bring `wanted` of the candidates into service, in their order; those that run already are waited for.

        Raises GiveUpError when none came, PartlyDoneError when too few did, both naming who did not with the end of its
        log; OutcomeUnknownError when the same call can complete it.
        """
        waiting, coming = deque(candidates), list[str]()

        async def bring_next() -> None:
            while waiting and len(coming) < wanted:
                name = waiting.popleft()
                coming.append(name)
                try:
                    await self._bring(name)
                    self._arrived.append(name)
                except errors.GiveUpError as error:
                    self._refused[name] = error
                    coming.remove(name)
                except errors.DsctlError as error:
                    self._refused[name] = error  # it may well have come: another one instead could be one too many

        async with asyncio.TaskGroup() as group:
            for number in range(min(self._max_starting, wanted)):
                group.create_task(bring_next(), name=f"arrival:{number}")
        if len(self._arrived) < wanted:
            await fanout.change([*self._arrived, *self._refused], self._tell)

    async def _tell(self, name: str) -> None:
        """Say of a node what became of it."""
        if name in self._refused:
            raise self._refused[name]

    def replaced(self) -> str:
        """Say who did not come up and had to be replaced; empty where nobody had to."""
        return "; ".join(str(error) for error in self._refused.values())

    async def _bring(self, name: str) -> None:
        local, clock, mark = self._job.local, self._job.targets.clock, self._job.start_key
        was_running, began = local.status(name).is_running, clock.monotonic()
        status = await local.start(name, mark)
        try:
            await self._until_ready(name, status, began)
        except errors.GiveUpError as error:
            if status.record is None or mark not in status.record.keys:
                raise errors.GiveUpError(f"{name} does not come up: {error}") from error
            await local.stop(name)
            raise errors.GiveUpError(f"{name} did not come up and is stopped again: {error}") from error
        if not was_running:
            self.ready_after[name] = round(clock.monotonic() - began, 3)
        await self._register(name)

    async def _until_ready(self, name: str, status: fleet.Status, began: float) -> None:
        local, clock, url = self._job.local, self._job.targets.clock, self._job.local.url(name)
        while not await self._job.targets.data.is_ready(url):
            now = local.status(name)
            if not now.is_running:
                raise errors.GiveUpError(f"it was started as {now}; {local.last_words(name)}")
            if clock.monotonic() >= self._job.patient_until:
                waited = clock.monotonic() - began
                raise errors.GiveUpError(f"{status} was not ready after {waited:.0f} s; {local.last_words(name)}")
            await clock.sleep(_POLL_SECONDS)

    async def _register(self, name: str) -> None:
        """Tell the gateway where the node is; an ejected one stays ejected."""
        try:
            await self._job.targets.gateways.register(
                self._job.service,
                name,
                self._job.local.url(name),
                key=self._job.key(f"register:{name}"),
                timeout_seconds=work.CALL_SECONDS,
            )
        except errors.NotFoundError:
            return  # without a gateway whoever calls the nodes finds them by himself
        except errors.DsctlError as error:
            # It runs, and that is an effect; and what the gateway refuses of one it would refuse of the next.
            raise errors.OutcomeUnknownError(f"{name} is ready and gets no requests yet: {error}") from error
