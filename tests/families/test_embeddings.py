"""Prompt embeddings that were kept give the picture that the encoder gives, with as few bytes as pipelines read."""

from __future__ import annotations

import pytest
import torch

from pipelines.engine.embeddings import EmbeddingCache
from pipelines.engine.sink import KeepingSink
from tests.families import tiny
from tests.families.drive import drawing, run


@pytest.mark.parametrize("name", ["SDXL", "SD3", "FLUX.2 Klein", "Z-Image", "Qwen-Image", "Lumina 2", "Sana"])
def test_a_prompt_that_comes_again_is_drawn_the_same(name: str) -> None:
    model, cache = tiny.build(name), EmbeddingCache()
    pictures = []
    for embeddings in (None, cache, cache):
        sink = KeepingSink()
        run(model, [drawing(model, 1, "a cat", steps=2)], sink, embeddings)
        assert not sink.errors, sink.errors
        pictures.append(sink.pictures["1"])
    assert cache.hits > 0
    assert torch.equal(pictures[1], pictures[0])
    assert torch.equal(pictures[2], pictures[0])
