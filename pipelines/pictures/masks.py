"""Masks: bringing one to its picture, and softening its edge inwards.

Knows arithmetic on pictures; neither torch nor numpy, for the front uses it. Throughout, 0 means that a pixel is kept
exactly as it was and 255 that it is drawn anew; nothing here may make a 0 larger.
"""

from __future__ import annotations

from PIL import Image, ImageChops, ImageFilter

from pipelines.pictures.fitting import cover_box

_SOFT_SHARE = 256  # of the shorter side: 4 pixels of a picture of 1024


def stretch(mask: Image.Image, width: int, height: int) -> Image.Image:
    """A mask of any size and shape, brought to the size of the picture that it belongs to."""
    return _resize(mask, (width, height), (0, 0, mask.width, mask.height))


def cover_mask(mask: Image.Image, width: int, height: int) -> Image.Image:
    """Cut and resample a mask as ``fitting.cover`` does its picture."""
    if mask.size == (width, height):
        return mask
    return _resize(mask, (width, height), cover_box(mask.size, width, height))


def feather(mask: Image.Image) -> Image.Image:
    """Let the mask rise softly from its edge, inwards only; parts too thin for that stay as they are."""
    radius = min(mask.size) // _SOFT_SHARE
    if radius == 0:
        return mask
    # A blurred step is at half its height on the edge: what lies above is inside.
    risen = mask.filter(ImageFilter.GaussianBlur(radius)).point([max(0, 2 * value - 255) for value in range(256)])
    soft = ImageChops.darker(mask, risen)
    core = soft.point([255 if value > 250 else 0 for value in range(256)])
    near = core.filter(ImageFilter.BoxBlur(4 * radius)).point([255 if value else 0 for value in range(256)])
    return Image.composite(soft, mask, near)


def _resize(mask: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """Smooth where the mask is, and 0 where no pixel of it lies: no filter may spread it."""
    smooth = mask.resize(size, Image.Resampling.BILINEAR, box=box)
    covered = mask.resize(size, Image.Resampling.BOX, box=box).point([0] + [255] * 255)
    return ImageChops.darker(smooth, covered)
