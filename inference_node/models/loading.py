"""Makes a model version ready to serve: random weights by seed, or a Hugging Face checkpoint folder.

Needs torch and transformers, whose imports take 10 to 17 s on a small machine; the server calls this on the model thread
so that it can answer probes meanwhile. Never downloads anything: a checkpoint is a folder on this machine.
"""

# torch and transformers annotate these calls only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from pathlib import Path
from typing import Any

import torch
import transformers

from inference_node import errors, settings, tokenizer
from inference_node.engine import ports
from inference_node.models import deepseek, hf_tokenizer, runner


def load(chosen: settings.ModelSettings, version: str) -> ports.LoadedModel:
    """Return a version of the model; blocks. Raises SettingsError when the checkpoint cannot be used."""
    torch.set_num_threads(chosen.torch_threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = chosen.versions[version]
    if source.checkpoint is None:
        model: Any = deepseek.build(chosen.architecture, seed=source.seed, max_context_tokens=chosen.max_context_tokens)
        words: tokenizer.Tokenizer = tokenizer.ByteTokenizer()
    else:
        model = _read_checkpoint(source.checkpoint, device)
        words = _read_tokenizer(source.checkpoint, model)
    _choose_experts(model, chosen.experts_implementation)
    model = model.to(device).eval()
    return ports.LoadedModel(
        name=chosen.name,
        version=version,
        device=device,
        vocab_size=int(model.config.vocab_size),
        max_context_tokens=min(chosen.max_context_tokens, _context(model, chosen.max_context_tokens)),
        tokenizer=words,
        runner=runner.BatchRunner(model, pad_token=_pad_token(model)),
    )


def _read_checkpoint(folder: Path, device: str) -> Any:
    if not (folder / "config.json").is_file():
        raise errors.SettingsError(f"model checkpoint {folder}: has no config.json; give a Hugging Face model folder")
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32 if device == "cpu" else "auto"
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise errors.SettingsError(f"model checkpoint {folder}: cannot be loaded: {error}") from error


def _read_tokenizer(folder: Path, model: Any) -> tokenizer.Tokenizer:
    """Return the checkpoint's tokenizer, or bytes where it has none and its vocabulary is large enough for them."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")):
        if model.config.vocab_size < tokenizer.VOCAB_SIZE:
            raise errors.SettingsError(
                f"model checkpoint {folder}: has no tokenizer, and its vocabulary of {model.config.vocab_size} is too "
                "small for bytes; add tokenizer.json"
            )
        return tokenizer.ByteTokenizer()
    wrapped: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return hf_tokenizer.CheckpointTokenizer(wrapped, _eos_ids(model, wrapped))


def _eos_ids(model: Any, wrapped: Any) -> frozenset[int]:
    """Return every token that ends an answer, from the generation settings, the model and the tokenizer."""
    found: set[int] = set()
    for value in (model.generation_config.eos_token_id, model.config.eos_token_id, wrapped.eos_token_id):
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(found)


def _choose_experts(model: Any, implementation: str) -> None:
    """Use the grouped kernel rather than a Python loop over experts; models without experts have no such choice."""
    if hasattr(model.config, "n_routed_experts") or hasattr(model.config, "num_experts"):
        model.set_experts_implementation(implementation)


def _context(model: Any, default: int) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or default)


def _pad_token(model: Any) -> int:
    """Return a token to fill with; the mask hides it, so any one does."""
    pad = getattr(model.config, "pad_token_id", None)
    return 0 if pad is None else int(pad)
