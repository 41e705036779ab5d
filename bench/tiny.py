"""A Stable Diffusion of 7.5 M denoiser parameters with random weights, built from configs: no file is read.

Its pictures are noise, but a step costs what it costs: the engine's gain depends on shapes, not on what was learned.
Three levels, as in the model that ships, so that 8×8 latents are 2×2 at the bottom.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
import yaml
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pipelines.facts.families import FamilyTable
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import ImageSpec

PIXELS_PER_LATENT = 4  # each way
_FEATURES = 64  # of the prompt's tokens
_TOKENS = 32
_SPECIALS = ("<pad>", "<s>", "</s>")


def pipeline(unet: torch.nn.Module | None = None) -> StableDiffusionPipeline:
    """The pipeline, always with the same weights; ``unet`` takes the denoiser's place if given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = StableDiffusionPipeline(
            vae=_vae(),
            text_encoder=_text_encoder(),
            tokenizer=_tokenizer(),
            unet=unet or _unet(),
            scheduler=DDIMScheduler(timestep_spacing="trailing", steps_offset=1, clip_sample=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    made.set_progress_bar_config(disable=True)
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return made


def models_file(folder: Path, latents: int) -> Path:
    """A models.yaml of the pipeline saved in ``folder``/tiny, for servers whose pictures are so many latents a side."""
    side = f"{latents * PIXELS_PER_LATENT}x{latents * PIXELS_PER_LATENT}"
    path = folder / f"models-{latents}.yaml"
    entry = {"path": str(folder / "tiny"), "preload": True, "native_size": side, "default_size": side, "multiple": 4}
    entry["min_drawn_pixels"] = 64
    path.write_text(yaml.safe_dump({"default": "tiny", "models": {"tiny": entry}}))
    return path


def model(latents: int, unet: torch.nn.Module | None = None) -> LoadedModel:
    """The model as the engine takes it, its native picture ``latents`` × ``latents`` latents."""
    pixels = latents * PIXELS_PER_LATENT
    plan = ModelPlan("tiny", "", "stable-diffusion", native_width=pixels, native_height=pixels)
    return LoadedModel(plan, pipeline(unet), FamilyTable().by_name[plan.family], torch.device("cpu"))


def drawing(model: LoadedModel, number: int, *, steps: int, guidance: float) -> Drawing:
    """One picture at the model's native size; ``number`` is its seed and its place in the prompt."""
    pixels = model.plan.native_width
    spec = ImageSpec(
        "tiny",
        f"picture number {number}",
        width=pixels,
        height=pixels,
        draw_width=pixels,
        draw_height=pixels,
        steps=steps,
        guidance=guidance,
    )
    return Drawing(f"{number}", model.plan, spec, (number,))


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128, 144),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=_FEATURES,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )


def _vae() -> AutoencoderTiny:
    widths = (32, 32, 32)
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(0, 1, 1),
        num_decoder_blocks=(2, 1, 0),
    )


def _text_encoder() -> transformers.CLIPTextModel:
    config = transformers.CLIPTextConfig(
        vocab_size=256 + len(_SPECIALS),
        hidden_size=_FEATURES,
        intermediate_size=2 * _FEATURES,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=_TOKENS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.CLIPTextModel(config)


def _tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One token a letter."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: index for index, token in enumerate((*_SPECIALS, *letters))}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=_TOKENS, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
