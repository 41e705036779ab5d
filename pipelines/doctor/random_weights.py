"""Models of real size with random weights, made on the device from published configurations: no file is read.

Time, memory and rounding do not depend on what a picture shows. Knows SDXL (a UNet) and FLUX.2-klein-4B (a
transformer); tokenizers are small ones, whose words are a part of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pipelines.facts.families import FamilyTable
from pipelines.models import tuning
from pipelines.models.device import choose_dtype
from pipelines.models.loader import LoadedModel
from pipelines.plan import ModelPlan

_SPECIALS = ("<pad>", "<s>", "</s>")
_PAD, _BOS, _EOS = range(3)
_CHAT = (
    "{% for m in messages %}{{ m['role'] }}: "
    "{{ m['content'] if m['content'] is string else m['content'][0]['text'] }}\n{% endfor %}"
)


_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@dataclass(frozen=True)
class RealSize:
    """A model that can be made without files."""

    family: str
    side: int  # pixels, of its native picture
    build: Callable[[], Any]


def make(name: str, device: torch.device) -> LoadedModel:
    """The model, placed as loading places one. Always the same weights on one device."""
    size = MODELS[name]
    plan = ModelPlan(name, "", size.family, native_width=size.side, native_height=size.side)
    return place(plan, pipeline(name, device, choose_dtype(plan.dtype, device)), device)


def pipeline(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """The diffusers pipeline alone, as a bare script has it."""
    torch.manual_seed(0)
    with _made_in(device, dtype):
        made = MODELS[name].build()
    made.set_progress_bar_config(disable=True)
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False).to(dtype)
    return made


def place(plan: ModelPlan, made: Any, device: torch.device) -> LoadedModel:
    """The pipeline as the engine takes it."""
    tuning.place(made, plan, device)
    return LoadedModel(plan, made, FamilyTable().by_name[plan.family], device)


@contextmanager
def _made_in(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _tokenizer(length: int) -> Any:
    """One token a letter."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: index for index, token in enumerate((*_SPECIALS, *letters))}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", _BOS), ("</s>", _EOS)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=length,
        **dict(zip(("pad_token", "bos_token", "eos_token"), _SPECIALS, strict=True)),
        chat_template=_CHAT,
    )


def _clip(width: int, layers: int, heads: int, **more: Any) -> Any:
    return transformers.CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        vocab_size=49408,
        max_position_embeddings=77,
        pad_token_id=_PAD,
        bos_token_id=_BOS,
        eos_token_id=_EOS,
        **more,
    )


def _vae(**more: Any) -> Any:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=1024,
        **more,
    )


def _scheduler(kind: Callable[..., Any], **config: Any) -> Any:
    """As a folder's is read: in host memory and in float32. Tables on the device would be waited for."""
    with _made_in(torch.device("cpu"), torch.float32):
        return kind(**config)


def _sdxl() -> Any:
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025, force_upcast=True),
        text_encoder=transformers.CLIPTextModel(_clip(768, 12, 12)),
        text_encoder_2=transformers.CLIPTextModelWithProjection(_clip(1280, 32, 20, hidden_act="gelu")),
        tokenizer=_tokenizer(77),
        tokenizer_2=_tokenizer(77),
        unet=diffusers.UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20],
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        scheduler=_scheduler(diffusers.EulerDiscreteScheduler, **_NOISE, timestep_spacing="leading"),
        add_watermarker=False,
    )


def _sd15() -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=_vae(scaling_factor=0.18215),
        text_encoder=transformers.CLIPTextModel(_clip(768, 12, 12)),
        tokenizer=_tokenizer(77),
        unet=diffusers.UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            attention_head_dim=8,
            cross_attention_dim=768,
        ),
        scheduler=_scheduler(diffusers.DDIMScheduler, **_NOISE, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _klein_4b() -> Any:
    encoder = transformers.Qwen3Config(
        vocab_size=151936,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
    )
    return diffusers.Flux2KleinPipeline(
        transformer=diffusers.Flux2Transformer2DModel(
            patch_size=1,
            in_channels=128,
            num_layers=5,
            num_single_layers=20,
            num_attention_heads=24,
            attention_head_dim=128,
            joint_attention_dim=7680,
            axes_dims_rope=(32, 32, 32, 32),
            guidance_embeds=False,
        ),
        scheduler=_scheduler(diffusers.FlowMatchEulerDiscreteScheduler, use_dynamic_shifting=True),
        vae=diffusers.AutoencoderKLFlux2(),
        text_encoder=transformers.Qwen3ForCausalLM(encoder),
        tokenizer=_tokenizer(512),
        is_distilled=True,
    )


MODELS = {
    "sdxl": RealSize("stable-diffusion-xl", 1024, _sdxl),
    "klein-4b": RealSize("flux2", 1024, _klein_4b),
    "sd15": RealSize("stable-diffusion", 512, _sd15),
}
