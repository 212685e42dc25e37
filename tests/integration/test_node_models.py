"""The model room with torch itself: batches against transformers' own generate, sampling, checkpoints."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from inference_node import errors, settings
from inference_node.engine import ports, sampling

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


# Fixtures, because both take seconds to import, and every worker that only collects this file would pay for it.
@pytest.fixture(name="torch", scope="module")
def _torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture(name="loading", scope="module")
def _loading() -> Any:
    return pytest.importorskip("inference_node.models.loading")


@pytest.fixture(scope="module")
def chosen() -> settings.ModelSettings:
    return settings.ModelSettings()


def greedy(max_tokens: int = 20) -> sampling.Sampling:
    return sampling.Sampling(max_tokens=max_tokens, temperature=0)


def alone(loaded: ports.LoadedModel, row: ports.Row) -> list[int]:
    """Return the tokens of a row that has the batch for itself."""
    tokens = [loaded.runner.advance(leaving=[], joining=[row])[row.key]]
    while len(tokens) < row.sampling.max_tokens:
        tokens.append(loaded.runner.advance(leaving=[], joining=[])[row.key])
    loaded.runner.advance(leaving=[row.key], joining=[])
    return tokens


def together(loaded: ports.LoadedModel, rows: Sequence[ports.Row], rng: random.Random) -> dict[int, list[int]]:
    """Return the tokens of rows that join and leave at random moments."""
    waiting, leaving, live = list(rows), list[int](), set[int]()
    tokens: dict[int, list[int]] = {row.key: [] for row in rows}
    while waiting or live:
        joining = [waiting.pop(0) for _ in range(min(len(waiting), rng.randint(0, 3)))] if rng.random() < 0.5 else []
        fresh = loaded.runner.advance(leaving=leaving, joining=joining)
        leaving = []
        live |= {row.key for row in joining}
        for key, token in fresh.items():
            tokens[key].append(token)
            if len(tokens[key]) == rows[key].sampling.max_tokens:
                live.discard(key)
                leaving.append(key)
    loaded.runner.advance(leaving=leaving, joining=[])
    return tokens


def test_greedy_rows_equal_transformers_generate(chosen: settings.ModelSettings, loading: Any, torch: Any) -> None:
    """Token by token what transformers computes for each prompt alone, with many different tokens."""
    loaded = loading.load(chosen, "v1")
    rng = random.Random(1)  # noqa: S311 - makes prompts
    seen: set[int] = set()
    for key in range(4):
        prompt = [rng.randrange(256) for _ in range(rng.randint(1, 40))]
        ids = torch.tensor([prompt])
        expected = loaded.runner._model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, eos_token_id=None
        )
        tokens = alone(loaded, ports.Row(key, prompt, greedy()))
        assert tokens == expected[0, len(prompt) :].tolist()
        seen |= set(tokens)
    assert len(seen) > 40


def test_joining_and_leaving_change_no_answer(chosen: settings.ModelSettings, loading: Any) -> None:
    """Greedy and seeded rows of mixed lengths get the same tokens in any company; the cache is empty at the end."""
    loaded = loading.load(chosen, "v1")
    rng = random.Random(2)  # noqa: S311 - makes prompts
    rows = [
        ports.Row(
            key,
            [rng.randrange(256) for _ in range(rng.randint(1, 60))],
            sampling.Sampling(
                max_tokens=rng.randint(1, 25), temperature=key % 2, seed=key, top_k=20 * (key % 3), top_p=0.9
            ),
        )
        for key in range(16)
    ]
    expected = {row.key: alone(loaded, row) for row in rows}
    assert together(loaded, rows, rng) == expected
    assert loaded.runner.held_tokens == 0


def test_sampling_follows_its_parameters(chosen: settings.ModelSettings, torch: Any) -> None:
    """top_k of one is greedy at any temperature; a tiny top_p too; frequencies follow the probabilities."""
    from inference_node.models import sampler

    logits = torch.tensor([[1.0, 3.0, 2.0]])

    def draw(seed: int, **fields: Any) -> int:
        return sampler.draw(logits, [sampler.Drawer(sampling.Sampling(max_tokens=1, seed=seed, **fields))])[0]

    assert {draw(seed, top_k=1) for seed in range(50)} == {1}
    assert {draw(seed, top_p=0.01) for seed in range(50)} == {1}
    assert {draw(seed, top_k=2) for seed in range(200)} == {1, 2}
    counts = [sum(draw(seed) == token for seed in range(3000)) for token in range(3)]
    expected = (logits[0].softmax(0) * 3000).tolist()
    assert all(abs(count - wanted) < 120 for count, wanted in zip(counts, expected, strict=True))


def test_a_failed_step_leaves_an_empty_batch(chosen: settings.ModelSettings, loading: Any) -> None:
    """A token outside the vocabulary fails the step; the next request is answered as ever."""
    loaded = loading.load(chosen, "v1")
    expected = alone(loaded, ports.Row(1, [5, 6], greedy()))
    loaded.runner.advance(leaving=[], joining=[ports.Row(2, [7], greedy())])
    with pytest.raises(IndexError):
        loaded.runner.advance(leaving=[], joining=[ports.Row(3, [99_999], greedy())])
    assert loaded.runner.held_tokens == 0
    assert alone(loaded, ports.Row(4, [5, 6], greedy())) == expected


def test_versions_differ_and_repeat(chosen: settings.ModelSettings, loading: Any) -> None:
    """A seed gives the same weights each time, another seed others."""
    both = chosen.model_copy(
        update={"versions": {"v1": settings.ModelVersion(seed=0), "v2": settings.ModelVersion(seed=1)}}
    )
    first, again, other = (
        alone(loading.load(both, version), ports.Row(1, [1, 2, 3], greedy())) for version in ("v1", "v1", "v2")
    )
    assert first == again != other


def save_checkpoint(loading: Any, chosen: settings.ModelSettings, folder: Path) -> ports.LoadedModel:
    loaded = loading.load(chosen, "v1")
    loaded.runner._model.save_pretrained(folder)
    return loaded


def test_a_checkpoint_answers_like_the_model_it_was_saved_from(
    chosen: settings.ModelSettings, tmp_path: Path, loading: Any
) -> None:
    """A Hugging Face folder is loaded from disk; without tokenizer files bytes are the tokens."""
    saved = save_checkpoint(loading, chosen, tmp_path)
    version = settings.ModelVersion(seed=9, checkpoint=tmp_path)
    loaded = loading.load(chosen.model_copy(update={"versions": {"v1": version}}), "v1")
    row = ports.Row(1, saved.tokenizer.encode("hello"), greedy())
    assert alone(loaded, row) == alone(saved, row)


def test_a_checkpoints_own_tokenizer_is_used(chosen: settings.ModelSettings, tmp_path: Path, loading: Any) -> None:
    """Its tokens, its chat template, and pieces that join to the decoded text without cut characters."""
    tokenizers: Any = pytest.importorskip("tokenizers")
    transformers: Any = pytest.importorskip("transformers")
    save_checkpoint(loading, chosen, tmp_path)
    raw = tokenizers.ByteLevelBPETokenizer()
    raw.train_from_iterator(["a little text to learn from, café"], vocab_size=261, special_tokens=["<s>", "</s>"])
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=raw._tokenizer, bos_token="<s>", eos_token="</s>")
    wrapped.chat_template = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"
    wrapped.save_pretrained(tmp_path)
    version = settings.ModelVersion(checkpoint=tmp_path)
    words = loading.load(chosen.model_copy(update={"versions": {"v1": version}}), "v1").tokenizer
    tokens = words.encode("text ☕ café")
    decoder = words.decoder()
    pieces = [decoder.push(token) for token in tokens]
    assert "".join([*pieces, decoder.finish()]) == "text ☕ café"
    assert not any("\ufffd" in piece for piece in pieces)
    assert wrapped.decode(words.encode_chat([("user", "hi")])) == "user=hi;"
    assert wrapped.eos_token_id in words.eos_ids


@pytest.mark.parametrize(
    ("files", "complaint"),
    [({}, "has no config.json"), ({"config.json": "{}"}, "cannot be loaded")],
)
def test_a_folder_that_is_no_checkpoint_is_refused(
    chosen: settings.ModelSettings, tmp_path: Path, files: dict[str, str], complaint: str, loading: Any
) -> None:
    """The message names the folder and what is missing."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    version = settings.ModelVersion(checkpoint=tmp_path)
    with pytest.raises(errors.SettingsError, match=complaint):
        loading.load(chosen.model_copy(update={"versions": {"v1": version}}), "v1")
