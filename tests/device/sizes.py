"""Pipelines of the sizes that people serve, from their published configurations; their weights are on meta.

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

from tests.families.parts import BOS, EOS, PAD, tokenizer

HALF = torch.bfloat16


def _empty(cls: Any, *config: Any, **options: Any) -> Any:
    """A module without weights, in bfloat16."""
    with accelerate.init_empty_weights(include_buffers=False):
        module = cls(*config, **options)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(HALF)
    return module.eval().requires_grad_(False)


def _clip(cls: Any, width: int, layers: int, heads: int, **more: Any) -> Any:
    config = transformers.CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        vocab_size=49408,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        **more,
    )
    return _empty(cls, config)


def _clip_l(cls: Any = transformers.CLIPTextModel) -> Any:
    return _clip(cls, 768, 12, 12)


def _clip_g() -> Any:
    return _clip(transformers.CLIPTextModelWithProjection, 1280, 32, 20, hidden_act="gelu")


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


def _qwen3(cls: Any, width: int, inner: int, *, tied: bool) -> Any:
    config = transformers.Qwen3Config(
        vocab_size=151936,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        tie_word_embeddings=tied,
    )
    return _empty(cls, config)


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


def _vae(latent_channels: int, **more: Any) -> Any:
    return _empty(
        diffusers.AutoencoderKL,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=latent_channels,
        sample_size=1024,
        **more,
    )


def _flow_vae(scale: float, shift: float) -> Any:
    return _vae(16, scaling_factor=scale, shift_factor=shift, use_quant_conv=False, use_post_quant_conv=False)


def _flow(**more: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**more)


def sdxl() -> Any:
    unet = _empty(
        diffusers.UNet2DConditionModel,
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(4, scaling_factor=0.13025, force_upcast=True),
        text_encoder=_clip_l(),
        text_encoder_2=_clip_g(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


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
        text_encoder=_clip_l(transformers.CLIPTextModelWithProjection),
        text_encoder_2=_clip_g(),
        text_encoder_3=_t5_xxl(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        tokenizer_3=tokenizer(512),
    )


def _flux_dev() -> Any:
    return diffusers.FluxPipeline(
        transformer=_empty(diffusers.FluxTransformer2DModel, guidance_embeds=True),
        vae=_flow_vae(0.3611, 0.1159),
        text_encoder=_clip_l(),
        text_encoder_2=_t5_xxl(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(512),
        scheduler=_flow(use_dynamic_shifting=True, shift=3.0),
    )


def _klein(layers: int, single_layers: int, heads: int, encoder: Any) -> Any:
    transformer = _empty(
        diffusers.Flux2Transformer2DModel,
        patch_size=1,
        in_channels=128,
        attention_head_dim=128,
        axes_dims_rope=(32, 32, 32, 32),
        guidance_embeds=False,
        num_layers=layers,
        num_single_layers=single_layers,
        num_attention_heads=heads,
        joint_attention_dim=3 * encoder.config.hidden_size,
    )
    return diffusers.Flux2KleinPipeline(
        transformer=transformer,
        scheduler=_flow(use_dynamic_shifting=True),
        vae=_empty(diffusers.AutoencoderKLFlux2),
        text_encoder=encoder,
        tokenizer=tokenizer(512),
        is_distilled=True,
    )


def _klein_4b() -> Any:
    return _klein(5, 20, 24, _qwen3(transformers.Qwen3ForCausalLM, 2560, 9728, tied=True))


def _klein_9b() -> Any:
    return _klein(8, 24, 32, _qwen3(transformers.Qwen3ForCausalLM, 4096, 12288, tied=False))


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
        text_encoder=_qwen3(transformers.Qwen3Model, 2560, 9728, tied=True),
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
    "klein-4b": Size("FLUX.2-klein 4B", "flux2", _klein_4b, 1024, 1.0),
    "klein-9b": Size("FLUX.2-klein 9B", "flux2", _klein_9b, 1024, 1.0),
    "qwen-image": Size("Qwen-Image", "qwen-image", _qwen_image, 1328, 4.0),
    "z-image": Size("Z-Image", "z-image", _z_image, 1024, 0.0),
}
