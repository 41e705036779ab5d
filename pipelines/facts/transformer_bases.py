"""Which of our configurations a transformer fits, told from the names and shapes of its tensors.

Knows FLUX.1 and Stable Diffusion 3 by the names of their first programs and by those of diffusers; reads no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pipelines.facts.headers import Stored

BASES = ("flux-dev", "flux-schnell", "flux-kontext", "sd3-medium", "sd35-medium", "sd35-large")
# What weights alone cannot tell from another: the base that models.yaml may name in its place.
SAME_SHAPES = {"flux-kontext": "flux-dev"}

_FLUX_WIDTH = 3072
_FLUX_BLOCKS = (19, 38)
_FLUX_CHANNELS = 64  # latents, packed
_OTHER_FLUX = {384: "FLUX.1 Fill", 128: "FLUX.1 Canny or Depth"}
# Layers, width, side of the table of positions, normed queries, a second attention → the base.
_SD3 = {
    (24, 1536, 192, False, False): "sd3-medium",
    (24, 1536, 384, True, True): "sd35-medium",
    (38, 2432, 192, True, False): "sd35-large",
}
_BLOCK = re.compile(r"(double_blocks|single_blocks|joint_blocks|transformer_blocks|single_transformer_blocks)\.(\d+)\.")


def tell(tensors: Mapping[str, Stored]) -> tuple[str | None, str | None]:
    """The base of a transformer, if any; why no pipeline here draws with it, where that is known."""
    if any(name.startswith("distilled_guidance_layer.") for name in tensors):
        return None, None  # Chroma, which has FLUX's blocks
    blocks = _blocks(tensors)
    first = tensors.get("img_in.weight") or tensors.get("x_embedder.weight")
    vector = tensors.get("vector_in.in_layer.weight") or tensors.get("time_text_embed.text_embedder.linear_1.weight")
    if first is not None and vector is not None and first.shape[:1] == (_FLUX_WIDTH,) and len(first.shape) == 2:
        if first.shape[1] in _OTHER_FLUX:
            return None, f"it is {_OTHER_FLUX[first.shape[1]]}, which is not served"
        counted = (
            blocks.get("double_blocks", blocks.get("transformer_blocks", 0)),
            blocks.get("single_blocks", blocks.get("single_transformer_blocks", 0)),
        )
        if first.shape[1] != _FLUX_CHANNELS or counted != _FLUX_BLOCKS:
            return None, None
        guided = any(name.startswith(("guidance_in.", "time_text_embed.guidance_embedder.")) for name in tensors)
        return ("flux-dev" if guided else "flux-schnell"), None
    table = tensors.get("pos_embed") or tensors.get("pos_embed.pos_embed")
    if table is None or len(table.shape) != 3:
        return None, None
    _, positions, width = table.shape
    side = round(positions**0.5)
    layers = blocks.get("joint_blocks", blocks.get("transformer_blocks", 0))
    normed = _any(tensors, (".x_block.attn.ln_q.", ".attn.norm_q."))
    twice = _any(tensors, (".x_block.attn2.", ".attn2."))
    return _SD3.get((layers, width, side, normed, twice)), None


def _blocks(tensors: Iterable[str]) -> dict[str, int]:
    """How many blocks of each name there are."""
    found: dict[str, set[str]] = {}
    for match in map(_BLOCK.match, tensors):
        if match is not None:
            found.setdefault(match[1], set()).add(match[2])
    return {name: len(numbers) for name, numbers in found.items()}


def _any(tensors: Iterable[str], words: tuple[str, ...]) -> bool:
    return any(word in name for name in tensors for word in words)
