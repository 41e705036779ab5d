"""Repainting under a mask: which of a denoiser's cells to draw anew, and putting the untouched pixels back.

Knows arithmetic on pictures; no torch. A mask is 0 where a pixel is kept exactly as it was, 255 where it is drawn anew.
"""

from __future__ import annotations

import numpy as np
from PIL import Image


def whole_cells(mask: Image.Image, width: int, height: int, cell: int) -> Image.Image:
    """The mask at the size that is drawn, every cell of ``cell`` pixels that it touches repainted whole.

    A denoiser works in cells of latents and reads a mask at one pixel of each: a small mask would fall between them.
    What is repainted beyond the mask is put back by ``put_back``.
    """
    touched = mask.resize((width, height), Image.Resampling.BOX).point([0] + [255] * 255)
    columns, rows = -(-width // cell), -(-height // cell)
    padded = np.zeros((rows * cell, columns * cell), dtype=np.uint8)
    padded[:height, :width] = np.asarray(touched)
    cells = padded.reshape(rows, cell, columns, cell).max(axis=(1, 3))
    return Image.fromarray(cells.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width])


def put_back(drawn: Image.Image, kept: Image.Image, mask: Image.Image) -> Image.Image:
    """``kept`` wherever the mask is 0, to the bit; ``drawn`` where it is 255; in between, some of both.

    All three have one size. The result has transparency if one of the pictures has.
    """
    if drawn.mode == kept.mode == "RGB":
        return Image.composite(drawn, kept, mask)
    above, below = (np.asarray(image.convert("RGBA"), dtype=np.float32) for image in (drawn, kept))
    weight = np.asarray(mask, dtype=np.float32)[..., None] / 255
    alpha = weight * above[..., 3:] + (1 - weight) * below[..., 3:]
    # Colours weigh as much as they show: what is transparent has none to give.
    colours = weight * above[..., 3:] * above[..., :3] + (1 - weight) * below[..., 3:] * below[..., :3]
    mixed = np.concatenate([colours / np.maximum(alpha, 1e-3), alpha], axis=-1)
    result = np.where(weight > 0, mixed.round().clip(0, 255), below)
    return Image.fromarray(result.astype(np.uint8))
