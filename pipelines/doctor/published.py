"""Pipelines of published configurations, built without files: what a model weighs and what its steps take.

Knows SDXL, Stable Diffusion 1.5 (UNets) and FLUX.2-klein (a transformer); tokenizers are small ones, whose words are a
part of the vocabulary. Does not know where weights come from: each function is told how to make a module of its class
and its configuration, with random weights on a device or with none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

Make = Callable[..., Any]  # of a class, its configuration and what else its constructor takes: a module

PAD, BOS, EOS = range(3)
_SPECIALS = ("<pad>", "<s>", "</s>")
_CHAT = (
    "{% for m in messages %}{{ m['role'] }}: "
    "{{ m['content'] if m['content'] is string else m['content'][0]['text'] }}\n{% endfor %}"
)
_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def tokenizer(length: int) -> Any:
    """One token a letter, ``length`` at most."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: index for index, token in enumerate((*_SPECIALS, *letters))}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", BOS), ("</s>", EOS)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=length,
        **dict(zip(("pad_token", "bos_token", "eos_token"), _SPECIALS, strict=True)),
        chat_template=_CHAT,
    )


def clip_l(make: Make, kind: Any = transformers.CLIPTextModel) -> Any:
    """The smaller of CLIP's text encoders."""
    return make(kind, _clip(768, 12, 12))


def clip_g(make: Make) -> Any:
    """The larger of them."""
    return make(transformers.CLIPTextModelWithProjection, _clip(1280, 32, 20, hidden_act="gelu"))


def _clip(width: int, layers: int, heads: int, **more: Any) -> Any:
    return transformers.CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        vocab_size=49408,
        max_position_embeddings=77,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        **more,
    )


def qwen3(make: Make, kind: Any, width: int, inner: int, *, tied: bool) -> Any:
    """A language model of 36 layers, as klein and Z-Image read prompts with."""
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
    return make(kind, config)


def vae(make: Make, latent_channels: int, **more: Any) -> Any:
    """The one of Stable Diffusion and, with more channels, of those after it."""
    return make(
        diffusers.AutoencoderKL,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=latent_channels,
        sample_size=1024,
        **more,
    )


def scheduler(kind: Callable[..., Any], **config: Any) -> Any:
    """As a folder's is read: in host memory and in float32. Tables on the device would be waited for."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            return kind(**config)
    finally:
        torch.set_default_dtype(before)


def sdxl(make: Make) -> Any:
    """Stable Diffusion XL, 1024 pixels a side."""
    unet = make(
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
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(make, 4, scaling_factor=0.13025, force_upcast=True),
        text_encoder=clip_l(make),
        text_encoder_2=clip_g(make),
        tokenizer=tokenizer(77),
        tokenizer_2=tokenizer(77),
        unet=unet,
        scheduler=scheduler(diffusers.EulerDiscreteScheduler, **_NOISE, timestep_spacing="leading"),
        add_watermarker=False,
    )


def sd15(make: Make) -> Any:
    """Stable Diffusion 1.5, 512 pixels a side."""
    return diffusers.StableDiffusionPipeline(
        vae=vae(make, 4, scaling_factor=0.18215),
        text_encoder=clip_l(make),
        tokenizer=tokenizer(77),
        unet=make(
            diffusers.UNet2DConditionModel,
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            attention_head_dim=8,
            cross_attention_dim=768,
        ),
        scheduler=scheduler(diffusers.DDIMScheduler, **_NOISE, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def klein_4b(make: Make) -> Any:
    """FLUX.2-klein-4B, 1024 pixels a side."""
    return _klein(make, 5, 20, 24, qwen3(make, transformers.Qwen3ForCausalLM, 2560, 9728, tied=True))


def klein_9b(make: Make) -> Any:
    """FLUX.2-klein-9B, 1024 pixels a side."""
    return _klein(make, 8, 24, 32, qwen3(make, transformers.Qwen3ForCausalLM, 4096, 12288, tied=False))


def _klein(make: Make, layers: int, single_layers: int, heads: int, encoder: Any) -> Any:
    transformer = make(
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
        scheduler=scheduler(diffusers.FlowMatchEulerDiscreteScheduler, use_dynamic_shifting=True),
        vae=make(diffusers.AutoencoderKLFlux2),
        text_encoder=encoder,
        tokenizer=tokenizer(512),
        is_distilled=True,
    )
