"""The loop that turns waiting requests into tokens, one step at a time.

A step is one forward pass: either the prefill of the requests that join, or one decode of all that run. Between steps
requests join, leave, are cancelled, and a new model version takes over once nothing of the old one is left.

Concurrency: the loop is one task of the event loop; the model runs on its own thread; all state here belongs to the
event loop. An idle engine sleeps until a request arrives.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from inference_node import clock as clocks
from inference_node import errors
from inference_node.engine import batcher, generation, ports, sampling


class StepFaults(Protocol):
    """Injected trouble as the engine feels it."""

    @property
    def slow_factor(self) -> float:
        """How many times as long a step takes; 1 is healthy."""
        ...

    async def until_unwedged(self) -> None:
        """Return at once unless the engine is to stand still."""
        ...


class Observer(Protocol):
    """What the engine reports; the metrics implement it."""

    def step_done(self, *, seconds: float, batch_size: int, num_tokens: int) -> None:
        """One forward pass ended."""
        ...

    def token_done(self, one: generation.Generation, *, since_last: float | None) -> None:
        """A foreground request got a token; `since_last` is None for its first."""
        ...

    def generation_done(self, one: generation.Generation, now: float) -> None:
        """A foreground request ended, in whatever way."""
        ...


class Engine:
    """Continuous batching over one model."""

    def __init__(
        self,
        *,
        model: ports.LoadedModel,
        thread: ports.ModelThread,
        waiting: batcher.Batcher,
        faults: StepFaults,
        observer: Observer,
        clock: clocks.Clock,
        pace_step_seconds: float,
    ) -> None:
        self._model = model
        self._next_model: ports.LoadedModel | None = None
        self._switched = asyncio.Event()
        self._thread = thread
        self._waiting = waiting
        self._faults = faults
        self._observer = observer
        self._clock = clock
        self._pace_step_seconds = pace_step_seconds
        self._running: dict[int, generation.Generation] = {}
        self._leaving: set[int] = set()
        self._keys = itertools.count(1)
        self._wake = asyncio.Event()
        self._has_died = False
        self.steps_total = 0

    @property
    def model(self) -> ports.LoadedModel:
        """The model that requests arriving now will be answered by."""
        return self._next_model or self._model

    @property
    def is_alive(self) -> bool:
        """False once the loop has died: only a restart helps."""
        return not self._has_died

    @property
    def num_running(self) -> int:
        """Requests in the batch, background work included."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that have not joined yet, background work included."""
        return len(self._waiting)

    @property
    def queue_age_seconds(self) -> float:
        """How long the oldest waiting foreground request has waited."""
        return self._waiting.oldest_age(self._clock.monotonic())

    @property
    def kv_usage_ratio(self) -> float:
        """Tokens held in the KV cache over what a full batch of full contexts would hold."""
        capacity = self._waiting.batch.max_size * self._model.max_context_tokens
        return min(1.0, self._model.runner.held_tokens / capacity)

    def wake(self) -> None:
        """Look at the queue again: size, wait or limits have changed."""
        self._wake.set()

    def submit(
        self, *, prompt: list[int], parameters: sampling.Sampling, rank: generation.Rank
    ) -> generation.Generation:
        """Queue a request, already admitted and checked, and return its answer in the making."""
        if self._has_died:
            raise errors.EngineFailedError("the engine has died; restart the node")
        one = generation.Generation(
            key=next(self._keys),
            rank=rank,
            model=self.model,
            prompt=prompt,
            parameters=parameters,
            arrived_at=self._clock.monotonic(),
        )
        self._waiting.add(one)
        self._wake.set()
        return one

    async def switch(self, model: ports.LoadedModel) -> None:
        """Serve new requests with `model`; return when the requests of the old one have ended."""
        while self._next_model is not None:
            await self._switched.wait()
        self._switched = asyncio.Event()
        self._next_model = model
        self._wake.set()
        await self._switched.wait()

    async def empty_cache(self) -> tuple[bool, int]:
        """Give unused GPU memory back between two steps."""
        return await self._thread.call(self._model.runner.empty_cache)

    async def run(self) -> None:
        """Step until cancelled. However it ends, nobody is left waiting."""
        try:
            while True:
                await self._iterate()
        finally:
            self._has_died = True
            self._fail([*self._running.values(), *self._waiting.drop_all()], "the engine stopped")
            self._running.clear()

    async def _iterate(self) -> None:
        """Do one step, or the one thing that must happen before the next."""
        await self._faults.until_unwedged()
        self._drop_cancelled()
        self._switch_if_due()
        started = self._clock.monotonic()
        joining = self._waiting.take(started, self._model, self._ranks())
        if joining or self._running:
            await self._step(joining, started)
        elif self._leaving:
            await self._advance(())
        else:
            await self._until_work(started)

    async def _step(self, joining: Sequence[generation.Generation], started: float) -> None:
        """Run one forward pass, hold the pace, and hand out the tokens."""
        for one in joining:
            one.joined_at = started
            one.has_joined = True
            self._running[one.key] = one
        batch_size = len(joining) or len(self._running)
        tokens = await self._advance(joining)
        await self._hold_pace(started)
        now = self._clock.monotonic()
        num_prompt_tokens = sum(len(one.prompt) for one in joining)
        self.steps_total += 1
        self._observer.step_done(
            seconds=now - started, batch_size=batch_size, num_tokens=num_prompt_tokens + len(tokens)
        )
        for key, token in tokens.items():
            self._hand_out(self._running[key], token, now)

    async def _advance(self, joining: Sequence[generation.Generation]) -> Mapping[int, int]:
        """Call the model; when it fails, every request of the batch fails and the engine goes on."""
        rows = [one.row() for one in joining]
        leaving, self._leaving = self._leaving, set[int]()
        runner = self._model.runner
        try:
            return await self._thread.call(lambda: runner.advance(leaving=leaving, joining=rows))
        except (RuntimeError, ValueError, IndexError) as error:
            failed = list(self._running.values())
            self._running.clear()
            self._fail(failed, f"the model failed in a step: {type(error).__name__}", cause=error)
            return {}

    async def _hold_pace(self, started: float) -> None:
        """Make the step as long as the pace and an injected slowness want."""
        elapsed = self._clock.monotonic() - started
        missing = max(elapsed, self._pace_step_seconds) * self._faults.slow_factor - elapsed
        if missing > 0:
            await self._clock.sleep(missing)

    def _hand_out(self, one: generation.Generation, token: int, now: float) -> None:
        since_last = None if one.first_token_at is None else now - one.last_token_at
        one.push(token, now)
        if one.rank is not generation.Rank.BACKGROUND:
            self._observer.token_done(one, since_last=since_last)
        if one.is_done:
            del self._running[one.key]
            self._leaving.add(one.key)
            self._report(one, now)

    def _drop_cancelled(self) -> None:
        """Free the places of requests that nobody reads any more."""
        now = self._clock.monotonic()
        gone = [one for one in self._running.values() if one.is_cancelled]
        for one in gone:
            del self._running[one.key]
            self._leaving.add(one.key)
        for one in [*gone, *self._waiting.drop_cancelled()]:
            one.end("abort")
            self._report(one, now)

    def _switch_if_due(self) -> None:
        if self._next_model is None or self._running or any(one.model is self._model for one in self._waiting):
            return
        self._leaving.clear()
        self._model, self._next_model = self._next_model, None
        self._switched.set()

    async def _until_work(self, now: float) -> None:
        """Sleep until something arrives or the oldest waiting request is due."""
        self._wake.clear()
        due_in = self._waiting.next_due_in(now, self._model, self._ranks())
        if due_in is None:
            await self._wake.wait()
            return
        tasks: set[asyncio.Task[Any]] = {
            asyncio.create_task(self._wake.wait(), name="engine-wake"),
            asyncio.create_task(self._sleep(due_in), name="engine-due"),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    def _ranks(self) -> Counter[generation.Rank]:
        return Counter(one.rank for one in self._running.values())

    def _fail(self, failed: Sequence[generation.Generation], message: str, cause: BaseException | None = None) -> None:
        now = self._clock.monotonic()
        for one in failed:
            error = errors.EngineFailedError(message)
            error.__cause__ = cause
            one.fail(error)
            self._report(one, now)

    def _report(self, one: generation.Generation, now: float) -> None:
        if one.rank is not generation.Rank.BACKGROUND:
            self._observer.generation_done(one, now)
