"""Admin calls that may be sent twice and take effect once.

The memory is bounded and dies with the process: `boot_id` in every answer tells a caller that it was lost, and then
the caller looks at the state before it repeats. Only effects are remembered; a refusal changed nothing and may be retried.
Concurrency: one event loop. A second call with the key of a running one waits for the first one's answer.
"""

import asyncio
import json
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from inference_node import clock as clocks
from inference_node import errors

MAX_KEYS = 1024


@dataclass(slots=True)
class _Done:
    """One remembered call; `answer` is pending while the effect is in the making."""

    operation: str
    fingerprint: str
    answer: asyncio.Future[dict[str, Any]]
    at: str = ""


class Operations:
    """Remembers the answers of the last `MAX_KEYS` calls that carried a key."""

    def __init__(self, clock: clocks.Clock) -> None:
        self._clock = clock
        self._done: OrderedDict[str, _Done] = OrderedDict()
        self.boot_id = secrets.token_hex(8)

    async def once(
        self, key: str | None, operation: str, arguments: Any, effect: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Run `effect` unless this key already did; return the first answer, always with the boot id.

        Raises AdminError 409 when the key belongs to another call.
        """
        if key is None:
            return {**await effect(), "boot_id": self.boot_id}
        fingerprint = json.dumps([operation, arguments], sort_keys=True, separators=(",", ":"))
        known = self._done.get(key)
        if known is not None and known.fingerprint != fingerprint:
            raise errors.AdminError(
                409,
                "Idempotency key reused",
                f"The key {key!r} was used for another {known.operation} call; send this one with a key of its own.",
            )
        if known is not None:
            return dict(await asyncio.shield(known.answer))
        return await self._run(key, operation, fingerprint, effect)

    async def _run(
        self, key: str, operation: str, fingerprint: str, effect: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Run the effect in a task of its own: a caller that goes away must not leave it half done."""
        task = asyncio.create_task(self._answer(effect), name=f"operation-{operation}")
        self._done[key] = _Done(operation, fingerprint, task)
        task.add_done_callback(lambda done: self._settle(key, done))
        return dict(await asyncio.shield(task))

    async def _answer(self, effect: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        return {**await effect(), "boot_id": self.boot_id}

    def _settle(self, key: str, task: asyncio.Task[dict[str, Any]]) -> None:
        """Keep the answer of an effect, forget a refusal, and forget the oldest answers beyond the bound."""
        if task.cancelled() or task.exception() is not None:
            self._done.pop(key, None)
            return
        self._done[key].at = self._clock.now().isoformat()
        finished = [known for known, done in self._done.items() if done.answer.done()]
        for known in finished[: max(0, len(self._done) - MAX_KEYS)]:
            del self._done[known]

    def find(self, key: str) -> dict[str, Any]:
        """Return the remembered operation; raises AdminError 404 when this process knows of none."""
        known = self._done.get(key)
        if known is None or not known.answer.done():
            raise errors.AdminError(
                404,
                "Operation unknown",
                f"This process (boot {self.boot_id}) has finished no operation with the key {key!r}; "
                "look at /admin/v1/state before you repeat it.",
            )
        return {
            "key": key,
            "operation": known.operation,
            "result": known.answer.result(),
            "at": known.at,
            "boot_id": self.boot_id,
        }
