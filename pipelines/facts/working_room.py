"""How much of a device a model's work takes beside its weights, told from the configurations in its folder.

Knows what activations take a pixel and a token, for the classes whose use was counted; reads JSON alone, no torch. The
figures are those of steps and decodes of seven models on a device that counted their allocations (docs/gpu.md): 1536
MiB for decoding 1024x1024 with 128 channels, 465 to 776 MiB a row of a transformer, 158 of SDXL's UNet. What is told is
twice what was counted: kernels take room of their own, and there are previews, encoders and pictures on their way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_ITEM_BYTES = 2  # of half precision
_MARGIN = 2
_ROWS = 2  # of a guided picture; batches grow into what is free, and shrink where it is not
_DECODE_ELEMENTS = {"AutoencoderKLQwenImage": 18}  # a pixel and channel of the first block: its convolutions have time
_DECODE_ELEMENTS_PLAIN = 6
_TOKEN_ELEMENTS = 21  # a token and unit of a transformer's width
_UNET_ELEMENTS = 16  # a latent pixel and channel of the first block
_TEXT_TOKENS = 512
_LATENT_PIXELS = 8  # pixels a latent, along a side
_PATCH = 2  # latents a token, along a side


def working_bytes(folder: Path, width: int, height: int) -> int | None:
    """Bytes for drawing a guided picture of this size, with margin; None where the configurations do not say."""
    decode = _decode_bytes(_config(folder / "vae"), width * height)
    row = _row_bytes(_config(folder / "transformer"), _config(folder / "unet"), width, height)
    if decode is None or row is None:
        return None
    return _MARGIN * max(decode, _ROWS * row)


def _decode_bytes(vae: dict[str, Any], pixels: int) -> int | None:
    first = vae.get("block_out_channels") or vae.get("decoder_block_out_channels") or [vae.get("base_dim")]
    channels = first[0] if isinstance(first, list) else first
    if not isinstance(channels, int):
        return None
    elements = _DECODE_ELEMENTS.get(str(vae.get("_class_name")), _DECODE_ELEMENTS_PLAIN)
    return pixels * channels * elements * _ITEM_BYTES


def _row_bytes(transformer: dict[str, Any], unet: dict[str, Any], width: int, height: int) -> int | None:
    latents = (width // _LATENT_PIXELS) * (height // _LATENT_PIXELS)
    if unet:
        channels = unet.get("block_out_channels")
        first = channels[0] if isinstance(channels, list) and channels else None
        return latents * first * _UNET_ELEMENTS * _ITEM_BYTES if isinstance(first, int) else None
    heads, of = transformer.get("num_attention_heads"), transformer.get("attention_head_dim")
    dim = transformer.get("dim") or (heads * of if isinstance(heads, int) and isinstance(of, int) else None)
    if not isinstance(dim, int):
        return None
    return (latents // _PATCH**2 + _TEXT_TOKENS) * dim * _TOKEN_ELEMENTS * _ITEM_BYTES


def _config(folder: Path) -> dict[str, Any]:
    try:
        read = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
