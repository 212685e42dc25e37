"""OpenAI's request and answer shapes: what a body may say, and how an answer is written, whole or in pieces.

Unknown fields are ignored with a log line, as vLLM does; fields that would change the answer and are not supported are
refused, because a silently different answer is worse than none.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import pydantic

from inference_node import cache, errors, settings, tokenizer
from inference_node.engine import sampling

MAX_STOPS = 4
UNSUPPORTED = (
    "logprobs",
    "top_logprobs",
    "echo",
    "suffix",
    "tools",
    "functions",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "min_p",
)
"""Fields refused unless they are empty: each would change the answer or its form."""

Stop = Annotated[str, pydantic.Field(min_length=1)]


class _Part(pydantic.BaseModel):
    type: Literal["text"]
    text: str


class Message(pydantic.BaseModel):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[_Part], pydantic.Field(min_length=1)]

    def as_text(self) -> str:
        """Return the content, its parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(pydantic.BaseModel):
    """What a stream carries beside text."""

    include_usage: bool = False


class SamplingFields(pydantic.BaseModel):
    """Fields that completions and chats share."""

    model_config = pydantic.ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)
    is_chat: ClassVar[bool]

    model: str | None = None
    max_tokens: int | None = pydantic.Field(default=None, ge=1)
    temperature: float | None = pydantic.Field(default=None, ge=0, le=2)
    top_p: float | None = pydantic.Field(default=None, gt=0, le=1)
    top_k: int | None = pydantic.Field(default=None, ge=0)
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], pydantic.Field(max_length=MAX_STOPS)] | None = None
    ignore_eos: bool = False
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def wanted_tokens(self) -> int | None:
        """The number of tokens asked for."""
        return self.max_tokens

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def parameters(self, default_max_tokens: int) -> sampling.Sampling:
        """Return the sampling parameters with defaults filled in."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return sampling.Sampling(
            max_tokens=self.wanted_tokens or default_max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            seed=self.seed,
            stop=tuple(stops),
            ignore_eos=self.ignore_eos,
        )

    def unknown_fields(self) -> list[str]:
        """Return the names of the fields that have no effect; raises DataError 400 for unsupported ones."""
        extra = self.model_extra or {}
        for name in UNSUPPORTED:
            if extra.get(name):
                raise errors.DataError(400, f"{name} is not supported by this server; leave it out.", param=name)
        return sorted(set(extra) - set(UNSUPPORTED))


class CompletionRequest(SamplingFields):
    """A plain prompt: text, or tokens."""

    is_chat: ClassVar[bool] = False
    prompt: (
        str
        | Annotated[list[str], pydantic.Field(min_length=1, max_length=1)]
        | Annotated[list[Annotated[int, pydantic.Field(ge=0)]], pydantic.Field(min_length=1)]
    )

    def text(self) -> str:
        """Return the prompt as text, empty for tokens."""
        first = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        return first if isinstance(first, str) else ""

    def content(self) -> Any:
        """Return the prompt as a JSON value, the same for the same prompt."""
        return self._tokens() or self.text()

    def encode(self, words: tokenizer.Tokenizer) -> list[int]:
        """Return the prompt's tokens."""
        return self._tokens() or words.encode(self.text())

    def _tokens(self) -> list[int]:
        """Return the prompt given as tokens, empty for text."""
        return [] if isinstance(self.prompt, str) else [each for each in self.prompt if isinstance(each, int)]


class ChatRequest(SamplingFields):
    """A conversation so far."""

    is_chat: ClassVar[bool] = True
    messages: Annotated[list[Message], pydantic.Field(min_length=1)]
    max_completion_tokens: int | None = pydantic.Field(default=None, ge=1)

    @property
    def wanted_tokens(self) -> int | None:
        """The newer name wins."""
        return self.max_completion_tokens or self.max_tokens

    def text(self) -> str:
        """Return the contents joined by line feeds, without roles."""
        return "\n".join(message.as_text() for message in self.messages)

    def content(self) -> Any:
        """Return the conversation as a JSON value, the same for the same conversation."""
        return [[message.role, message.as_text()] for message in self.messages]

    def encode(self, words: tokenizer.Tokenizer) -> list[int]:
        """Return the conversation's tokens."""
        return words.encode_chat([(message.role, message.as_text()) for message in self.messages])


AnyRequest = CompletionRequest | ChatRequest


def parse(kind: type[CompletionRequest] | type[ChatRequest], body: bytes) -> AnyRequest:
    """Return the request of a body; raises DataError 400 that names the first wrong field."""
    try:
        return kind.model_validate_json(body)
    except pydantic.ValidationError as error:
        place, message = settings.places(error)[0]
        field = place.split(".")[0]
        raise errors.DataError(400, f"{place or 'body'}: {message}", param=field or None) from error


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return the token counts as clients expect them."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Writer:
    """Writes one answer; every chunk of it carries the same id and time."""

    def __init__(self, *, is_chat: bool, answer_id: str, created: int, model: str) -> None:
        self._is_chat = is_chat
        self._head = {"id": f"{'chatcmpl' if is_chat else 'cmpl'}-{answer_id}", "created": created, "model": model}

    def whole(self, answer: cache.Answer) -> dict[str, Any]:
        """Return a complete answer."""
        said: dict[str, Any] = (
            {"message": {"role": "assistant", "content": answer.text}} if self._is_chat else {"text": answer.text}
        )
        choice = {"index": 0, **said, "finish_reason": answer.finish_reason, "logprobs": None}
        kind = "chat.completion" if self._is_chat else "text_completion"
        counts = usage(answer.prompt_tokens, answer.completion_tokens)
        return {**self._head, "object": kind, "choices": [choice], "usage": counts}

    def opening(self) -> Sequence[dict[str, Any]]:
        """Return what a stream begins with: a chat names the role first."""
        return [self._chunk({"role": "assistant", "content": ""}, None)] if self._is_chat else []

    def piece(self, text: str) -> dict[str, Any]:
        """Return a chunk of text."""
        return self._chunk({"content": text} if self._is_chat else text, None)

    def closing(self, finish_reason: str) -> dict[str, Any]:
        """Return the last chunk with a choice."""
        return self._chunk({} if self._is_chat else "", finish_reason)

    def counts(self, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
        """Return the chunk that only carries the usage."""
        return {**self._head, "object": self._kind, "choices": [], "usage": usage(prompt_tokens, completion_tokens)}

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self._is_chat else "text_completion"

    def _chunk(self, said: Any, finish_reason: str | None) -> dict[str, Any]:
        choice = {
            "index": 0,
            "delta" if self._is_chat else "text": said,
            "finish_reason": finish_reason,
            "logprobs": None,
        }
        return {**self._head, "object": self._kind, "choices": [choice]}
