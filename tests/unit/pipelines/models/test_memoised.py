from __future__ import annotations

import functools
import gc
import weakref

import torch
from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope

from pipelines.models import memoised


class Plain(torch.nn.Module):
    @functools.lru_cache  # noqa: B019, as model classes have it
    def table(self, size: int) -> torch.Tensor:
        return torch.zeros(size)


def test_tables_of_positions_go_with_the_model() -> None:
    """They stayed on the device, with their module, for as long as the process lived."""
    plain, rope = Plain(), QwenEmbedRope(theta=10000, axes_dim=[16, 56, 56], scale_rope=True)
    model = torch.nn.Sequential(plain, rope)
    tables = [plain.table(3), *rope([(1, 4, 4)], device=torch.device("cpu"), max_txt_seq_len=7)]
    kept = [weakref.ref(tables[0]), weakref.ref(tables[1]), weakref.ref(rope)]
    del tables
    memoised.forget(model)
    del model, plain, rope
    gc.collect()
    assert [each() for each in kept] == [None, None, None]
