"""DeepSeek-V3's architecture at any size: latent attention, routed experts, and random weights by seed.

Needs torch and transformers. Used where a model version names no checkpoint. Same seed and sizes, same weights.
"""

# torch and transformers annotate these calls only in part.
# pyright: reportUnknownMemberType=false

import torch
from transformers.models.deepseek_v3 import DeepseekV3Config, DeepseekV3ForCausalLM

from inference_node import settings, tokenizer

INITIALIZER_RANGE = 0.2
"""Ten times the usual: at 0.02 the logits of a tiny random model nearly tie, and any rounding changes the answer."""

HEAD_DIMENSION = 16
LATENT_DIMENSION = 32


def build(sizes: settings.Architecture, *, seed: int, max_context_tokens: int) -> DeepseekV3ForCausalLM:
    """Return a model with random weights that speaks the byte tokenizer's vocabulary."""
    torch.manual_seed(seed)
    return DeepseekV3ForCausalLM(configuration(sizes, max_context_tokens))


def configuration(sizes: settings.Architecture, max_context_tokens: int) -> DeepseekV3Config:
    """Return the configuration; the first layer is dense, as in the original."""
    return DeepseekV3Config(
        vocab_size=tokenizer.VOCAB_SIZE,
        hidden_size=sizes.hidden_size,
        intermediate_size=2 * sizes.hidden_size,
        moe_intermediate_size=sizes.hidden_size // 2,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_heads,
        n_routed_experts=sizes.num_experts,
        num_experts_per_tok=sizes.experts_per_token,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=LATENT_DIMENSION,
        kv_lora_rank=LATENT_DIMENSION,
        qk_rope_head_dim=HEAD_DIMENSION,
        qk_nope_head_dim=HEAD_DIMENSION,
        v_head_dim=HEAD_DIMENSION,
        max_position_embeddings=max_context_tokens,
        initializer_range=INITIALIZER_RANGE,
        bos_token_id=tokenizer.BOS,
        eos_token_id=tokenizer.EOS,
        pad_token_id=tokenizer.PAD,
    )
