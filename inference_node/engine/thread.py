"""The one thread that owns the models. Everything that touches torch goes through it, in order."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class ExecutorThread:
    """Implements `ModelThread`."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def call(self, work: Callable[[], T]) -> T:
        """Run `work` on the thread without blocking the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Let the call in progress end and take no more."""
        self._executor.shutdown(wait=True, cancel_futures=True)
