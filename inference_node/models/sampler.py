"""The next token of every row at once, each with its own parameters and its own random numbers.

Needs torch. A row draws from a generator of its own, seeded by its request, so its answer does not depend on its company
in the batch. Greedy rows need no sorting.
"""

# torch and transformers annotate these calls only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from inference_node.engine import sampling


@dataclass(slots=True)
class Drawer:
    """A row's parameters and its source of randomness."""

    parameters: sampling.Sampling
    source: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.source = random.Random(self.parameters.seed)  # noqa: S311 - samples tokens, guards no secret


def draw(logits: torch.Tensor, drawers: Sequence[Drawer]) -> list[int]:
    """Return a token per row of `logits` (n_rows, n_vocabulary)."""
    chosen: list[int] = logits.argmax(dim=-1).tolist()
    warm = [index for index, drawer in enumerate(drawers) if drawer.parameters.temperature > 0]
    if warm:
        drawn = _draw_warm(logits[warm].float(), [drawers[index] for index in warm])
        for index, token in zip(warm, drawn, strict=True):
            chosen[index] = token
    return chosen


def _draw_warm(logits: torch.Tensor, drawers: Sequence[Drawer]) -> list[int]:
    """Draw by inverse cumulative probability over the tokens that top_k and top_p keep, most probable first."""
    num_tokens = logits.shape[-1]

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device).unsqueeze(1)

    temperature = column([drawer.parameters.temperature for drawer in drawers])
    top_p = column([drawer.parameters.top_p for drawer in drawers])
    top_k = column([drawer.parameters.top_k or num_tokens for drawer in drawers])
    ordered, tokens = (logits / temperature).sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    rank = torch.arange(num_tokens, device=logits.device).unsqueeze(0)
    is_kept = (rank == 0) | ((rank < top_k) & (before < top_p))
    cumulative = (probabilities * is_kept).cumsum(dim=-1)
    point = column([drawer.source.random() for drawer in drawers]) * cumulative[:, -1:]
    position = (cumulative <= point).sum(dim=-1, keepdim=True).clamp(max=num_tokens - 1)
    return tokens.gather(1, position).squeeze(1).tolist()
