"""One answer in the making, and whoever reads along.

Several requests may read the same answer (identical prompts share one computation); it is cancelled when the last reader
goes away. Created by the engine, read by the server. Concurrency: one event loop; readers never block the engine.
"""

import asyncio
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType
from typing import Self

from inference_node.engine import ports, sampling, text


class Rank(IntEnum):
    """Order of joining the batch: strict, best first. Background work only takes places nobody else wants."""

    PREMIUM = 0
    STANDARD = 1
    BATCH = 2
    BACKGROUND = 3


class Generation:
    """The state of one answer: waiting, running, then done with a finish reason or an error."""

    def __init__(
        self,
        *,
        key: int,
        rank: Rank,
        model: ports.LoadedModel,
        prompt: list[int],
        parameters: sampling.Sampling,
        arrived_at: float,
    ) -> None:
        self.key = key
        self.rank = rank
        self.model = model
        self.prompt = prompt
        self.parameters = parameters
        self.arrived_at = arrived_at
        self.joined_at = arrived_at
        self.last_token_at = arrived_at
        self.first_token_at: float | None = None
        self.num_tokens = 0
        self.finish_reason: str | None = None
        self.error: Exception | None = None
        self.is_cancelled = False
        self.has_joined = False
        self._assembler = text.TextAssembler(model.tokenizer.decoder(), parameters.stop)
        self._pieces: list[str] = []
        self._readers = 0
        self._changed = asyncio.Event()
        self._done_callbacks: list[Callable[[Generation], None]] = []

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None or self.error is not None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    def row(self) -> ports.Row:
        """Return the request as the model sees it."""
        return ports.Row(self.key, self.prompt, self.parameters)

    def push(self, token: int, now: float) -> None:
        """Take the next token; may end the answer."""
        self.num_tokens += 1
        self.last_token_at = now
        if self.first_token_at is None:
            self.first_token_at = now
        if token in self.model.tokenizer.eos_ids and not self.parameters.ignore_eos:
            self.end("stop")
            return
        self._add(self._assembler.push(token))
        if self._assembler.is_stopped:
            self.end("stop")
        elif self.num_tokens >= self.parameters.max_tokens:
            self.end("length")

    def end(self, reason: str) -> None:
        """Finish with a reason: `stop`, `length` or `abort`."""
        if self.is_done:
            return
        self._add(self._assembler.finish())
        self.finish_reason = "stop" if self._assembler.is_stopped else reason
        self._tell_done()

    def fail(self, error: Exception) -> None:
        """Finish with an error, which every reader gets."""
        if self.is_done:
            return
        self.error = error
        self._tell_done()

    def cancel(self) -> None:
        """Ask the engine to drop it before the next step."""
        self.is_cancelled = True

    def on_done(self, callback: Callable[["Generation"], None]) -> None:
        """Call back once when it is done; at once when it already is."""
        if self.is_done:
            callback(self)
        else:
            self._done_callbacks.append(callback)

    def reader(self) -> "Reader":
        """Return a new reader, which starts at the beginning; use it as a context manager."""
        return Reader(self)

    def _add(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            self._wake()

    def _tell_done(self) -> None:
        for callback in self._done_callbacks:
            callback(self)
        self._done_callbacks.clear()
        self._wake()

    def _wake(self) -> None:
        """Wake every reader once: each waits on the event that it saw."""
        self._changed.set()
        self._changed = asyncio.Event()

    def enter(self) -> None:
        """Count a reader in; `Reader` calls it."""
        self._readers += 1

    def leave(self) -> None:
        """Count a reader out; the last one to leave cancels what is not done."""
        self._readers -= 1
        if self._readers == 0 and not self.is_done:
            self.cancel()

    def pieces_from(self, index: int) -> list[str]:
        """Return the pieces of text from `index` on."""
        return self._pieces[index:]

    async def until_changed(self) -> None:
        """Wait for the next piece or the end."""
        await self._changed.wait()


class Reader:
    """One caller's place in an answer."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self._index = 0
        self._is_open = True
        generation.enter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading; a second call does nothing."""
        if self._is_open:
            self._is_open = False
            self.generation.leave()

    async def next(self) -> str | None:
        """Return the text that came since the last call, or None at the end; raises what the answer failed with."""
        while not (pieces := self.generation.pieces_from(self._index)):
            if self.generation.error is not None:
                raise self.generation.error
            if self.generation.is_done:
                return None
            await self.generation.until_changed()
        self._index += len(pieces)
        return "".join(pieces)

    async def all(self) -> None:
        """Wait for the end; raises what the answer failed with."""
        while await self.next() is not None:
            pass
