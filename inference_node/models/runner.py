"""Runs any causal transformers model over a batch that rows join and leave between steps.

Needs torch. All rows share one KV cache, aligned at its right end: a row that is shorter than the longest is padded on
the left, and the mask hides the padding. Joining prefills the new rows alone and then lines both caches up; leaving
selects the rows that stay and cuts padding that no row needs any more. This copies the cache when the batch changes,
which is cheap at the sizes this node is for; paging is what larger models need.

One thread calls it. After an exception the batch is empty, so one bad step cannot spoil the next.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from inference_node.engine import ports
from inference_node.models import sampler


class BatchRunner:
    """Implements the engine's `Runner`."""

    def __init__(self, model: PreTrainedModel, *, pad_token: int) -> None:
        self._model: Any = model
        self._device = model.device
        self._pad_token = pad_token
        self._clear()

    @property
    def held_tokens(self) -> int:
        """Tokens in the KV cache, padding included."""
        return int(self._mask.numel())

    @torch.inference_mode()
    def advance(self, *, leaving: Collection[int], joining: Sequence[ports.Row]) -> Mapping[int, int]:
        """Drop rows, then prefill the joining rows or decode all; return the new token of each computed row."""
        try:
            if leaving:
                self._leave(set(leaving))
            if joining:
                return self._prefill(joining)
            return self._decode() if self._keys else {}
        except BaseException:
            self._clear()
            raise

    def empty_cache(self) -> tuple[bool, int]:
        """Return the allocator's unused blocks to the GPU; the KV cache in use stays."""
        if not torch.cuda.is_available():
            return False, 0
        before = torch.cuda.memory_reserved()
        torch.cuda.empty_cache()
        return True, before - torch.cuda.memory_reserved()

    def _clear(self) -> None:
        self._keys: list[int] = []
        self._drawers: list[sampler.Drawer] = []
        self._last: list[int] = []
        self._cache = DynamicCache()
        self._mask = torch.zeros((0, 0), dtype=torch.long, device=self._device)

    def _prefill(self, joining: Sequence[ports.Row]) -> dict[int, int]:
        """Compute the prompts of the new rows, left-padded to one length, and append them to the batch."""
        width = max(len(row.prompt) for row in joining)
        padded = [[self._pad_token] * (width - len(row.prompt)) + list(row.prompt) for row in joining]
        real = [[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in joining]
        mask = torch.tensor(real, dtype=torch.long, device=self._device)
        cache = DynamicCache()
        logits = self._forward(torch.tensor(padded, device=self._device), mask, cache, _positions(mask))
        drawers = [sampler.Drawer(row.sampling) for row in joining]
        tokens = sampler.draw(logits, drawers)
        self._append(mask, cache)
        self._keys += [row.key for row in joining]
        self._drawers += drawers
        self._last += tokens
        return dict(zip([row.key for row in joining], tokens, strict=True))

    def _decode(self) -> dict[int, int]:
        """Compute one more token for every row."""
        self._mask = functional.pad(self._mask, (0, 1), value=1)
        last = torch.tensor(self._last, device=self._device).unsqueeze(1)
        logits = self._forward(last, self._mask, self._cache, _positions(self._mask)[:, -1:])
        self._last = sampler.draw(logits, self._drawers)
        return dict(zip(self._keys, self._last, strict=True))

    def _forward(
        self, tokens: torch.Tensor, mask: torch.Tensor, cache: DynamicCache, positions: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits of the last position of every row (n_rows, n_vocabulary)."""
        output = self._model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1, :]

    def _append(self, mask: torch.Tensor, cache: DynamicCache) -> None:
        """Line the new rows' cache up with the batch's at the right end and join the two."""
        if not self._keys:
            self._mask, self._cache = mask, cache
            return
        width = max(mask.shape[1], self._mask.shape[1])
        self._mask = torch.cat([_pad_left(self._mask, width, 1), _pad_left(mask, width, 1)])
        for held, new in zip(self._layers(self._cache), self._layers(cache), strict=True):
            held.keys = torch.cat([_pad_left(held.keys, width, 2), _pad_left(new.keys, width, 2)])
            held.values = torch.cat([_pad_left(held.values, width, 2), _pad_left(new.values, width, 2)])

    def _leave(self, leaving: set[int]) -> None:
        """Keep the other rows and cut the columns that are padding for all of them."""
        kept = [index for index, key in enumerate(self._keys) if key not in leaving]
        if not kept:
            self._clear()
            return
        mask = self._mask[kept]
        start = int(mask.any(dim=0).int().argmax())
        self._mask = mask[:, start:]
        for layer in self._layers(self._cache):
            layer.keys = layer.keys[kept][:, :, start:]
            layer.values = layer.values[kept][:, :, start:]
        self._keys = [self._keys[index] for index in kept]
        self._drawers = [self._drawers[index] for index in kept]
        self._last = [self._last[index] for index in kept]

    @staticmethod
    def _layers(cache: DynamicCache) -> list[Any]:
        return list(cache.layers)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Return each token's position in its own row; padding counts as position 0."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _pad_left(tensor: torch.Tensor, width: int, dimension: int) -> torch.Tensor:
    """Widen `dimension` (the last or the one before) to `width` with zeros on the left."""
    missing = width - tensor.shape[dimension]
    behind = (0, 0) * (tensor.dim() - 1 - dimension)
    return functional.pad(tensor, (*behind, missing, 0)) if missing else tensor
