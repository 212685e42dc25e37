"""How one answer is to be drawn. Plain values, no torch: the model room turns them into tensors."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """The parameters of one request, checked at the door."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    @property
    def is_deterministic(self) -> bool:
        """Whether the same prompt gives the same answer again, so that it may be kept."""
        return self.temperature == 0 or self.seed is not None

    def capped(self, max_tokens: int | None) -> "Sampling":
        """Return these parameters with at most `max_tokens`."""
        if max_tokens is None or self.max_tokens <= max_tokens:
            return self
        return dataclasses.replace(self, max_tokens=max_tokens)
