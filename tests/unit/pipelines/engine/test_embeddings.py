"""The cache of prompt embeddings: hits, bounds, and what it must not keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from pipelines.engine.embeddings import EmbeddingCache
from pipelines.spec import Adapter


class Encoder:
    """Stands for a module: what counts is which one it is."""


def test_the_same_tokens_hit_and_others_do_not() -> None:
    cache, one, another = EmbeddingCache(), Encoder(), Encoder()
    key = cache.key(one, {"input_ids": torch.tensor([[1, 2]]), "attention_mask": None})
    assert cache.get(key) is None
    cache.put(key, (torch.ones(1, 2, 4),))
    same = cache.key(one, {"input_ids": torch.tensor([[1, 2]]), "attention_mask": None})
    assert cache.get(same) is not None
    for other in (
        cache.key(another, {"input_ids": torch.tensor([[1, 2]]), "attention_mask": None}),
        cache.key(one, {"input_ids": torch.tensor([[1, 3]]), "attention_mask": None}),
        cache.key(one, {"input_ids": torch.tensor([[1, 2]]), "attention_mask": None}, (Adapter("pixel", 1.0),)),
        cache.key(one, {"input_ids": torch.tensor([[1, 2]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}),
        cache.key(one, {"input_ids": torch.tensor([[1], [2]]), "attention_mask": None}),
    ):
        assert cache.get(other) is None
    assert (cache.hits, cache.misses) == (1, 6)


def test_pictures_are_not_kept() -> None:
    assert EmbeddingCache().key(Encoder(), {"pixel_values": torch.zeros(1, 3, 8, 8)}) is None


def test_it_stays_within_its_bytes() -> None:
    cache = EmbeddingCache(max_bytes=4 * 1000)
    for number in range(20):
        cache.put(number, torch.zeros(200))  # 800 bytes each
    assert cache._bytes <= 4000
    assert cache.get(19) is not None
    assert cache.get(0) is None


def test_what_a_module_made_goes_with_it() -> None:
    """id() is given out again: a model loaded later must not find an evicted one's embeddings."""
    cache, gone = EmbeddingCache(), Encoder()
    tokens = {"input_ids": torch.tensor([[1, 2]])}
    cache.put(cache.key(gone, tokens), torch.ones(4))
    del gone
    later = [Encoder() for _ in range(50)]
    assert all(cache.get(cache.key(encoder, tokens)) is None for encoder in later)
    cache.put(cache.key(later[0], tokens), torch.ones(4))
    assert cache._bytes == 16


@pytest.fixture(scope="module")
def language_model() -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=36,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    return Qwen3ForCausalLM(config).eval()


def test_only_what_is_read_of_a_language_models_layers_is_kept(language_model: Qwen3ForCausalLM) -> None:
    """All layers' states were: 92 MiB a prompt of FLUX.2 Klein and Z-Image, of which one to three layers are read. Its
    keys and values counted nothing, and were held; its logits, a number for each word, are most of the rest."""
    cache = EmbeddingCache()
    with torch.no_grad():
        made = language_model(input_ids=torch.arange(8)[None], output_hidden_states=True, use_cache=True)
    assert made.past_key_values is not None
    shown = cache.put("prompt", made)
    assert type(shown) is type(made)
    assert len(shown.hidden_states) == 37
    assert shown.logits is made.logits, "who asked gets all that the encoder made"
    assert shown.past_key_values is made.past_key_values
    assert cache.size == 0
    assert shown.hidden_states[-2] is made.hidden_states[35]
    assert all(a is b for a, b in zip(shown.hidden_states[1:3], made.hidden_states[1:3], strict=True))
    assert cache.size == 3 * 8 * 16 * 4, "of 37 layers"
    kept = cache.get("prompt")
    assert type(kept) is type(made)
    assert kept.past_key_values is None
    assert kept.logits is None
    assert kept.hidden_states[35] is made.hidden_states[35]
    assert kept.hidden_states[1] is made.hidden_states[1]
    with pytest.raises(IndexError):
        kept.hidden_states[37]


def test_a_layer_that_was_not_kept_is_made_anew(language_model: Qwen3ForCausalLM) -> None:
    cache, calls = EmbeddingCache(), list[int]()

    def make() -> object:
        calls.append(1)
        with torch.no_grad():
            return language_model(input_ids=torch.arange(8)[None], output_hidden_states=True)

    made: Any = make()
    assert cache.put("prompt", made).hidden_states[9] is made.hidden_states[9]
    kept = cache.get("prompt", make)
    assert torch.equal(kept.hidden_states[18], made.hidden_states[18])
    assert len(calls) == 2
    assert torch.equal(cache.get("prompt", make).hidden_states[18], made.hidden_states[18])
    assert len(calls) == 2, "and is kept from then on"


def test_logits_are_kept_where_there_is_nothing_else_to_read(language_model: Qwen3ForCausalLM) -> None:
    cache = EmbeddingCache()
    with torch.no_grad():
        made = language_model(input_ids=torch.arange(8)[None], use_cache=True)
    cache.put("prompt", made)
    kept = cache.get("prompt")
    assert kept[0] is made.logits
    assert kept.past_key_values is None
    assert cache._bytes == 8 * 64 * 4


def test_a_storage_counts_once_and_as_a_whole() -> None:
    cache, whole = EmbeddingCache(), torch.zeros(1000)
    cache.put("views", {"last": whole[:10], "all": (whole, whole[10:])})
    assert cache._bytes == 4000


def test_what_cannot_be_counted_is_not_kept() -> None:
    class Held:
        tensor = torch.zeros(1000)

    cache = EmbeddingCache()
    cache.put("held", (torch.zeros(1), Held()))
    assert cache.get("held") is None
    cache.put("plain", (torch.zeros(1), None, 3, True, "eos"))
    assert cache.get("plain") is not None


def test_the_hidden_states_of_a_long_prompt_are_kept() -> None:
    """36 layers' of 512 tokens, as Z-Image and FLUX.2 Klein ask for, take 92 MiB of the 256: refused, every prompt was
    encoded at every request."""
    cache = EmbeddingCache(max_bytes=256 * 1024)
    for prompt in ("one", "another"):
        states = tuple(torch.zeros(512, dtype=torch.uint8) for _ in range(37 * 5))
        shown = cache.put(prompt, {"hidden_states": states})
        assert [len(state) for state in shown["hidden_states"]] == [512] * 37 * 5
    assert cache.get("one") is not None
    assert cache.get("another") is not None
    assert cache.size == 2 * 512 * 37 * 5
    cache.put("far too long", torch.zeros(129 * 1024, dtype=torch.uint8))
    assert cache.get("far too long") is None
    longer = cache.put("too long, as it is read", {"hidden_states": tuple(torch.zeros(40 * 1024) for _ in range(2))})
    assert len(longer["hidden_states"][0]) == 40 * 1024
    assert cache.get("too long, as it is read") is None
    assert cache.get("one") is not None, "one prompt does not drive out all others"
    assert cache.size == 2 * 512 * 37 * 5
