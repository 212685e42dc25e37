"""A checkpoint's own tokenizer behind the island's `Tokenizer`.

Needs transformers. Decoding is incremental: a tokenizer may join tokens with spaces or split a character over several,
so the text of the last few tokens is decoded again and only what can no longer change is given out.
"""

from typing import Any

from inference_node import tokenizer

REPLACEMENT = "\ufffd"


class CheckpointTokenizer:
    """Implements `Tokenizer` over a transformers tokenizer."""

    def __init__(self, wrapped: Any, eos_ids: frozenset[int]) -> None:
        self._wrapped = wrapped
        self._eos_ids = eos_ids

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return self._eos_ids

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a plain prompt, with the marks the tokenizer adds."""
        return list(self._wrapped.encode(text))

    def encode_chat(self, messages: tokenizer.Messages) -> list[int]:
        """Return the chat in the checkpoint's template, or in a plain one where it has none."""
        if getattr(self._wrapped, "chat_template", None):
            chat = [{"role": role, "content": text} for role, text in messages]
            rendered: str = self._wrapped.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            return list(self._wrapped.encode(rendered, add_special_tokens=False))
        plain = "".join(f"{role}: {text}\n" for role, text in messages)
        return self.encode(plain + "assistant:")

    def decoder(self) -> "WindowDecoder":
        """Return a decoder for one answer."""
        return WindowDecoder(self._wrapped)


class WindowDecoder:
    """Decodes the tokens since the last sure break twice, with and without the newest, and gives out the difference."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """Return the text that is now sure; empty inside a character."""
        self._pending.append(token)
        text = self._text()
        if text.endswith(REPLACEMENT):
            return ""
        self._context, self._pending = self._pending, []
        return text

    def finish(self) -> str:
        """Return what is left, an unfinished character as U+FFFD."""
        text = self._text() if self._pending else ""
        self._context, self._pending = self._pending, []
        return text

    def _text(self) -> str:
        known = self._decode(self._context)
        return self._decode(self._context + self._pending)[len(known) :]

    def _decode(self, tokens: list[int]) -> str:
        return self._wrapped.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
