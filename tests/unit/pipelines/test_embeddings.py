"""The cache of prompt embeddings: hits, bounds, and what it must not keep."""

from __future__ import annotations

import torch

from pipelines.embeddings import EmbeddingCache
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
