"""What the engine needs of a model: rows in, tokens out. The model room implements it with torch, tests without.

All calls of a `Runner` come from one thread, which owns the model and, on a GPU, its CUDA context.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from inference_node import tokenizer
from inference_node.engine import sampling

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One request as the model sees it; `key` names the row until it leaves."""

    key: int
    prompt: Sequence[int]
    sampling: sampling.Sampling


class Runner(Protocol):
    """A model with a batch of rows and their KV cache. Blocks; not safe to share between threads."""

    @property
    def held_tokens(self) -> int:
        """Tokens in the KV cache now, padding included."""
        ...

    def advance(self, *, leaving: Collection[int], joining: Sequence[Row]) -> Mapping[int, int]:
        """Drop the leaving rows, then run one forward pass: prefill of the joining rows, or else one decode of all.

        Returns the new token of each row that the pass computed. After an exception the batch is empty.
        """
        ...

    def empty_cache(self) -> tuple[bool, int]:
        """Return whether there is a CUDA cache, and how many bytes it gave back."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class LoadedModel:
    """A version of the model that can serve."""

    name: str
    version: str
    device: str
    vocab_size: int
    max_context_tokens: int
    tokenizer: tokenizer.Tokenizer
    runner: Runner


class ModelThread(Protocol):
    """The one thread that may touch runners."""

    async def call(self, work: Callable[[], T]) -> T:
        """Run `work` there, after everything asked before, and return its result."""
        ...
