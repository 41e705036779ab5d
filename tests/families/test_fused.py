"""``fuse_qkv``: one projection in the place of three."""

from __future__ import annotations

import msgspec
import pytest
import torch

from pipelines.models import tuning
from tests.families import tiny
from tests.families.drive import draw, drawing


@pytest.mark.parametrize("name", ["SDXL", "SD3", "FLUX.1"])
def test_fused_projections_draw_the_same_and_take_no_more(name: str) -> None:
    """Those that they replace stayed beside them: 3.2 GiB more of FLUX.1, after it had been found to fit."""
    model = tiny.build(name)
    one = drawing(model, 1, "a cat", steps=1)
    before, size = draw(model, [one]).pictures["1"], model.weight_bytes()
    tuning._fuse(model._base, msgspec.structs.replace(model.plan, fuse_qkv=True))
    (denoiser,) = (shared.module for shared in model.shared_modules.values() if shared.is_denoiser)
    assert any(path.endswith(".to_qkv") for path, _ in denoiser.named_modules())
    assert model.weight_bytes() == size
    assert torch.allclose(draw(model, [one]).pictures["1"], before, atol=5e-6)


def test_quantised_projections_are_left_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    """Packed numbers were joined as if they were matrices, and the model did not load."""
    model = tiny.build("FLUX.1")
    size = model.weight_bytes()
    tuning._fuse(model._base, msgspec.structs.replace(model.plan, fuse_qkv=True, quantise="nf4"))
    model._base.transformer.is_quantized = True  # a folder that was quantised before
    tuning._fuse(model._base, msgspec.structs.replace(model.plan, fuse_qkv=True))
    assert model.weight_bytes() == size
    assert "no effect" in caplog.text
