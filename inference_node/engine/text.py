"""From tokens to the text a caller may see: whole characters only, and nothing of a stop string.

A text that could be the beginning of a stop string is held back until the next tokens decide.
"""

from collections.abc import Sequence

from inference_node import tokenizer


class TextAssembler:
    """The text of one answer as it grows."""

    def __init__(self, decoder: tokenizer.TextDecoder, stops: Sequence[str]) -> None:
        self._decoder = decoder
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False

    def push(self, token: int) -> str:
        """Take one token and return the text that is now certain."""
        return self._release(self._decoder.push(token))

    def finish(self) -> str:
        """Return what was held back; the answer is over."""
        if self.is_stopped:
            return ""
        text = self._release(self._decoder.finish()) + self._held
        self._held = ""
        return text

    def _release(self, more: str) -> str:
        text = self._held + more
        if not self._stops or self.is_stopped:
            self._held = ""
            return "" if self.is_stopped else text
        cut = min((at for at in map(text.find, self._stops) if at >= 0), default=-1)
        if cut >= 0:
            self.is_stopped = True
            self._held = ""
            return text[:cut]
        certain = len(text) - _undecided(text, self._stops)
        self._held = text[certain:]
        return text[:certain]


def _undecided(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest end of `text` that begins a stop string."""
    longest = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:size]):
                longest = size
                break
    return longest
