"""Tiles: pictures past a size are decoded in them, whatever the VAE's class calls its tiles; others are not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    AsymmetricAutoencoderKL,
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderTiny,
)
from transformers import Qwen3Config, Qwen3Model

from pipelines.errors import LoadRefused
from pipelines.models import tuning
from pipelines.plan import ModelPlan

_KL: dict[str, Any] = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "sample_size": 8,
}


def kl() -> Any:
    return AutoencoderKL(**_KL)


def flux2() -> Any:
    return AutoencoderKLFlux2(**_KL)


def qwen() -> Any:
    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )


def sana() -> Any:
    blocks = ("ResBlock", "ResBlock", "ResBlock")
    return AutoencoderDC(
        latent_channels=4,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
    )


def decoder_calls(vae: Any, side: int) -> int:
    """How often decoding one picture of so many pixels a side calls the decoder: once, or once a tile."""
    scale = {AutoencoderKLQwenImage: 8, AutoencoderDC: 4}.get(type(vae), 2)
    latents = torch.zeros(1, 4, side // scale, side // scale)
    if isinstance(vae, AutoencoderKLQwenImage):
        latents = latents.unsqueeze(2)
    calls: list[object] = []
    handle = vae.decoder.register_forward_pre_hook(lambda module, arguments: calls.append(module))
    with torch.no_grad():
        sample = vae.decode(latents).sample
    handle.remove()
    assert sample.shape[-2:] == (side, side)
    return len(calls)


@pytest.mark.parametrize("build", [kl, flux2, qwen, sana])
def test_large_pictures_are_decoded_in_tiles_by_every_vae_that_can(
    build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only AutoencoderKL's were: one large picture of FLUX.2, Qwen-Image or Sana took the device's memory."""
    monkeypatch.setattr(tuning, "_TILE_PIXELS", 64)
    vae = build()
    tuning._tile(SimpleNamespace(vae=vae))
    assert decoder_calls(vae, 64) == 1, "smaller ones are decoded whole: tiles leave seams"
    assert decoder_calls(vae, 96) == 4


def test_a_vae_that_cannot_tile_or_would_tile_every_picture_is_left_alone() -> None:
    tiny = AutoencoderTiny()
    untiled = AsymmetricAutoencoderKL(norm_num_groups=4, down_block_out_channels=(8,), up_block_out_channels=(8,))
    for vae in (tiny, untiled, None):
        tuning._tile(SimpleNamespace(vae=vae))
    assert not tiny.use_tiling
    tuning._tile(SimpleNamespace())


def test_a_cuda_device_searches_for_no_kernels_and_keeps_the_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an H200 each thread searched each number of rows and size for 1 to 3 s, for kernels that were no faster, and
    channels-last made the denoiser 5 to 8 % slower."""
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    unet = torch.nn.Conv2d(4, 4, 3)
    pipeline = SimpleNamespace(unet=unet, components={}, to=lambda device: None)
    plan: Any = SimpleNamespace(offload=False, quantise=None, quantise_encoders=None, fuse_qkv=False, compile=False)
    tuning.place(pipeline, plan, torch.device("cuda"))
    assert not torch.backends.cudnn.benchmark
    assert unet.weight.is_contiguous()


def test_compile_without_a_compiler_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was found out by torch, minutes later, in a BackendCompilerFailed."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    plan = ModelPlan("a", "", "other", compile=True)
    with pytest.raises(LoadRefused, match=r"compile: true needs a C compiler: apt-get install gcc"):
        tuning.require_compiler(plan, torch.device("cuda"))
    tuning.require_compiler(plan, torch.device("cpu"))
    tuning.require_compiler(ModelPlan("a", "", "other"), torch.device("cuda"))


def test_a_vae_that_pipelines_cast_decodes_one_picture_at_a_time() -> None:
    """Four pictures of a float16 SDXL were decoded at once, in float32: 12 GiB, and 503 where that was too much."""
    cast, plain = AutoencoderKL(**_KL, force_upcast=True).half(), AutoencoderKL(**_KL, force_upcast=True)
    for vae in (cast, plain, None):
        tuning._slice(SimpleNamespace(vae=vae))
    assert cast.use_slicing
    assert not plain.use_slicing, "the engine cuts its decodes"
    sizes: list[int] = []
    cast.float().decoder.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    with torch.no_grad():
        assert cast.decode(torch.zeros(4, 4, 8, 8)).sample.shape[0] == 4
    assert sizes == [1, 1, 1, 1]


def test_a_language_model_that_encodes_makes_nothing_to_write_on() -> None:
    model = Qwen3Model(Qwen3Config(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                                   num_attention_heads=2, num_key_value_heads=2, head_dim=8))  # fmt: skip
    assert model(torch.arange(4)[None]).past_key_values is not None
    tuning._write_nothing(SimpleNamespace(components={"text_encoder": model, "tokenizer": None}))
    assert model(torch.arange(4)[None]).past_key_values is None
