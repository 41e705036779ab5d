"""Masks: bringing one to its picture, and softening its edge inwards.

Knows arithmetic on pictures; neither torch nor numpy, for the front uses it. Throughout, 0 means that a pixel is kept
exactly as it was and 255 that it is drawn anew; nothing here may make a 0 larger.
"""

from __future__ import annotations

from PIL import Image, ImageChops, ImageFilter

from pipelines.pictures.fitting import cover_box

_SOFT_SHARE = 256  # of the shorter side: 4 pixels of a picture of 1024
_NOISE = 12  # of 255: how far JPEG, and editors that blend, stray from black and white, from opaque and transparent
_CLEAN = [0 if level <= _NOISE else 255 if level >= 255 - _NOISE else level for level in range(256)]
_STRAY_SHARE = 100  # strays are at most one pixel in so many
_PLAIN_SHARE = 0.8  # of a black-and-white mask's pixels are black or white; the rest are soft edges


def clean(channel: Image.Image) -> Image.Image:
    """A channel (mode "L") without the noise around its two ends."""
    return channel.point(_CLEAN)


def from_picture(rgb: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """The mask that a picture stands for.

    Its transparent part in OpenAI's sense, where alpha says anything; else its white part, as the diffusion field has
    it. Alpha says nothing if it is opaque but for noise. Nor does it above black and white if it is alike everywhere,
    or if only stray pixels are transparent: an editor left them there, and the colours are the mask.
    """
    shown = clean(rgb.convert("L"))
    if alpha is None:
        return shown
    holes = ImageChops.invert(clean(alpha))
    levels = [level for level, count in enumerate(holes.histogram()) if count]
    if levels[-1] == 0:
        return shown
    alike = levels[-1] - levels[0] <= _NOISE and levels[-1] < 255
    if (alike or _are_strays(holes)) and _is_black_and_white(shown):
        return shown
    return holes


def _are_strays(holes: Image.Image) -> bool:
    """Few pixels, none of which is the middle of a spot."""
    touched = holes.width * holes.height - holes.histogram()[0]
    if touched * _STRAY_SHARE > holes.width * holes.height:
        return False
    return sum(holes.filter(ImageFilter.MinFilter(3)).histogram()[1:]) == 0


def _is_black_and_white(shown: Image.Image) -> bool:
    levels = shown.histogram()
    return min(levels[0], levels[255]) > 0 and levels[0] + levels[255] >= _PLAIN_SHARE * shown.width * shown.height


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
