"""Text to tokens and back, one byte a token: the tokenizer of models that bring none.

Ids 0 to 255 are bytes; the six after them are marks that no text can spell, so a prompt cannot forge a role.
The server uses it through `Tokenizer`, which `models.hf_tokenizer` implements for checkpoints with a tokenizer of their own.
"""

import codecs
from collections.abc import Sequence
from typing import Protocol

BOS, EOS, PAD, SYSTEM, USER, ASSISTANT = range(256, 262)
VOCAB_SIZE = 262
_ROLES = {"system": SYSTEM, "developer": SYSTEM, "user": USER, "assistant": ASSISTANT}

Messages = Sequence[tuple[str, str]]
"""A chat: pairs of role and text."""


class TextDecoder(Protocol):
    """Turns one request's tokens into text as they come, without ever cutting a character."""

    def push(self, token: int) -> str:
        """Return the text that this token completed; often empty inside a character."""
        ...

    def finish(self) -> str:
        """Return what is left; an unfinished character becomes U+FFFD."""
        ...


class Tokenizer(Protocol):
    """What the server needs of a tokenizer."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a plain prompt."""
        ...

    def encode_chat(self, messages: Messages) -> list[int]:
        """Return the tokens of a chat, ending where the assistant's answer begins."""
        ...

    def decoder(self) -> TextDecoder:
        """Return a decoder for one answer."""
        ...


class ByteDecoder:
    """Incremental UTF-8; bytes that are not UTF-8 become U+FFFD, marks become nothing."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Return the characters that this byte completed."""
        return self._utf8.decode(bytes((token,))) if token < BOS else ""

    def finish(self) -> str:
        """Return U+FFFD when the answer ended inside a character."""
        return self._utf8.decode(b"", final=True)


class ByteTokenizer:
    """UTF-8 bytes as tokens."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """The end mark."""
        return frozenset({EOS})

    def encode(self, text: str) -> list[int]:
        """Return the begin mark and the bytes."""
        return [BOS, *text.encode("utf-8", "surrogatepass")]

    def encode_chat(self, messages: Messages) -> list[int]:
        """Return each message as role mark, bytes, end mark, and at the end the assistant's mark."""
        tokens = [BOS]
        for role, text in messages:
            tokens += [_ROLES[role], *text.encode("utf-8", "surrogatepass"), EOS]
        return [*tokens, ASSISTANT]

    def decoder(self) -> ByteDecoder:
        """Return a decoder for one answer."""
        return ByteDecoder()
