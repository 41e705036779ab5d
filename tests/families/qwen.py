"""Tiny Qwen-Image pipelines: text to image, and its two forms for edits."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import transformers
from diffusers.pipelines.qwenimage import (
    pipeline_qwenimage_edit,
    pipeline_qwenimage_edit_inpaint,
    pipeline_qwenimage_edit_plus,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pipelines.models.processors import PictureProcessor
from tests.families.parts import BOS, EOS, PAD, VOCAB, flow_matching, tokenizer


def _qwen_parts() -> dict[str, Any]:
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCAB,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
        },
        image_token_id=_IMAGE_PAD,
        video_token_id=VOCAB - 1,
        vision_start_token_id=VOCAB - 2,
        vision_end_token_id=VOCAB - 3,
    )
    return {
        "transformer": diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            guidance_embeds=False,
            axes_dims_rope=(8, 4, 4),
        ),
        "scheduler": flow_matching(use_dynamic_shifting=True),
        "vae": diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        "text_encoder": transformers.Qwen2_5_VLForConditionalGeneration(config),
        "tokenizer": tokenizer(1024, additional_special_tokens=["<|image_pad|>"]),
    }


_IMAGE_PAD = tokenizer(1024, additional_special_tokens=["<|image_pad|>"]).convert_tokens_to_ids("<|image_pad|>")


def qwen() -> tuple[Any, int]:
    return diffusers.QwenImagePipeline(**_qwen_parts()), 32


def _processor(tokenizer: Any) -> Any:
    """As the loader makes it where torchvision is missing."""
    size = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    return PictureProcessor(Qwen2VLImageProcessorPil(size=size), tokenizer)


def _qwen_edit(cls: Any, module: Any) -> tuple[Any, int]:
    # These pipelines bring every source to a megapixel, which takes this machine a minute.
    for each in (module, pipeline_qwenimage_edit_inpaint):
        real = _REAL_SIZES.setdefault(each, each.calculate_dimensions)
        each.calculate_dimensions = functools.partial(_at_tiny_area, real)
    parts = _qwen_parts()
    return cls(**parts, processor=_processor(parts["tokenizer"])), 64


_REAL_SIZES: dict[Any, Any] = {}


def _at_tiny_area(real: Any, area: int, ratio: float) -> Any:
    return real(64 * 64, ratio)


def qwen_edit() -> tuple[Any, int]:
    return _qwen_edit(diffusers.QwenImageEditPipeline, pipeline_qwenimage_edit)


def qwen_edit_plus() -> tuple[Any, int]:
    return _qwen_edit(diffusers.QwenImageEditPlusPipeline, pipeline_qwenimage_edit_plus)
