"""Pipelines of the sizes that people serve, from their published configurations; their weights are on meta.

Those that the doctor makes too are in pipelines/doctor/published.py.
Tokenizers are the family tests' small ones; what matters here is what a model weighs and what its steps take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import accelerate
import diffusers
import torch
import transformers

from pipelines.doctor import published
from tests.families.parts import BOS, EOS, PAD, tokenizer

HALF = torch.bfloat16


def _empty(cls: Any, *config: Any, **options: Any) -> Any:
    """A module without weights, in bfloat16."""
    with accelerate.init_empty_weights(include_buffers=False):
        module = cls(*config, **options)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(HALF)
    return module.eval().requires_grad_(False)


def _t5_xxl() -> Any:
    config = transformers.T5Config(
        vocab_size=32128,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        is_encoder_decoder=False,
        feed_forward_proj="gated-gelu",
    )
    return _empty(transformers.T5EncoderModel, config)


def _qwen25_vl() -> Any:
    text = {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128000,
        "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    return _empty(transformers.Qwen2_5_VLForConditionalGeneration, config)


def _flow_vae(scale: float, shift: float) -> Any:
    return published.vae(
        _empty, 16, scaling_factor=scale, shift_factor=shift, use_quant_conv=False, use_post_quant_conv=False
    )


def _flow(**more: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**more)


def sdxl() -> Any:
    return published.sdxl(_empty)


def _sd35_large() -> Any:
    transformer = _empty(
        diffusers.SD3Transformer2DModel,
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=38,
        attention_head_dim=64,
        num_attention_heads=38,
        joint_attention_dim=4096,
        caption_projection_dim=2432,
        pooled_projection_dim=2048,
        pos_embed_max_size=192,
        qk_norm="rms_norm",
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=_flow(shift=3.0),
        vae=_flow_vae(1.5305, 0.0609),
        text_encoder=published.clip_l(_empty, transformers.CLIPTextModelWithProjection),
        text_encoder_2=published.clip_g(_empty),
        text_encoder_3=_t5_xxl(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        tokenizer_3=tokenizer(512),
    )


def _flux_dev() -> Any:
    return diffusers.FluxPipeline(
        transformer=_empty(diffusers.FluxTransformer2DModel, guidance_embeds=True),
        vae=_flow_vae(0.3611, 0.1159),
        text_encoder=published.clip_l(_empty),
        text_encoder_2=_t5_xxl(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(512),
        scheduler=_flow(use_dynamic_shifting=True, shift=3.0),
    )


def _qwen_image() -> Any:
    return diffusers.QwenImagePipeline(
        transformer=_empty(diffusers.QwenImageTransformer2DModel),
        scheduler=_flow(use_dynamic_shifting=True, shift_terminal=0.02),
        vae=_empty(diffusers.AutoencoderKLQwenImage),
        text_encoder=_qwen25_vl(),
        tokenizer=tokenizer(1024),
    )


def _z_image() -> Any:
    return diffusers.ZImagePipeline(
        transformer=_empty(diffusers.ZImageTransformer2DModel),
        scheduler=_flow(shift=3.0),
        vae=_flow_vae(0.3611, 0.1159),
        text_encoder=published.qwen3(_empty, transformers.Qwen3Model, 2560, 9728, tied=True),
        tokenizer=tokenizer(512),
    )


@dataclass(frozen=True)
class Size:
    """A model: its name among people, its family, how it is built, the side in pixels of its native picture."""

    name: str
    family: str
    build: Callable[[], Any]
    native: int
    guidance: float


SIZES = {
    "sdxl": Size("SDXL", "stable-diffusion-xl", sdxl, 1024, 6.0),
    "sd35-large": Size("SD 3.5 Large", "stable-diffusion-3", _sd35_large, 1024, 4.5),
    "flux-dev": Size("FLUX.1-dev", "flux", _flux_dev, 1024, 3.5),
    "klein-4b": Size("FLUX.2-klein 4B", "flux2", lambda: published.klein_4b(_empty), 1024, 1.0),
    "klein-9b": Size("FLUX.2-klein 9B", "flux2", lambda: published.klein_9b(_empty), 1024, 1.0),
    "qwen-image": Size("Qwen-Image", "qwen-image", _qwen_image, 1328, 4.0),
    "z-image": Size("Z-Image", "z-image", _z_image, 1024, 0.0),
}
