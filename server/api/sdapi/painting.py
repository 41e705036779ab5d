"""Painting: the source and the mask of an edit as AUTOMATIC1111 brings them to the size that is drawn.

Knows pixels and A1111's meaning of masks and of resizing; knows neither models nor requests. All of it is for a thread.
White is drawn anew, and of a mask with transparency what is opaque, the opposite of OpenAI's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageChops, ImageFilter, ImageOps

from pipelines.pictures.fitting import cover, to_pil, to_pixels
from pipelines.pictures.masks import cover_mask, stretch
from pipelines.spec import Pixels, Window
from server.api.specs import Sources
from server.errors import BadImage
from server.inputs.decode import Decoded

Size = tuple[int, int]

# resize_mode; 3 stretches latents, whose picture is about that of 0.
STRETCH, CROP, FILL = 0, 1, 2
# inpainting_fill
FILLED, ORIGINAL, NOISE, ZEROS = 0, 1, 2, 3

_HALF_OPAQUE: Final = [255 if level > 128 else 0 for level in range(256)]
_DOUBLED: Final = [min(255, 2 * level) for level in range(256)]
_SMEARED_SIDE: Final = 1024  # pixels
_STEP: Final = 4  # between the radii of blurs that fill a hole


@dataclass(frozen=True)
class Manner:
    """How an edit is to be brought to its size."""

    size: Size  # pixels that are drawn
    resize_mode: int = STRETCH
    blur: tuple[int, int] = (4, 4)  # standard deviations across and down, in the source's pixels
    is_rounded: bool = True  # the transparency of a mask is all or nothing
    is_inverted: bool = False
    fill: int = FILLED
    only_masked: bool = False
    padding: int = 0  # pixels of the source around what is masked
    max_side: int = 2048  # pixels of a source that is answered in its own size; a larger one is made as small


def arrange(source: Decoded, mask: Decoded | None, manner: Manner) -> tuple[Size, Sources]:
    """The size of the finished picture, and what is drawn of the source. Raises BadImage for a mask without white."""
    picture = to_pil(source.rgb)
    if mask is None:
        return manner.size, Sources((to_pixels(resize(picture, manner.size, manner.resize_mode)),))
    if manner.only_masked and max(picture.size) > manner.max_side:
        scale = manner.max_side / max(picture.size)
        within = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(within, Image.Resampling.LANCZOS)
    painted = _softened(_mask(mask, manner), picture.size, manner)
    touched = painted.getbbox()
    if touched is None:
        raise BadImage(
            "mask: nothing of it is to be drawn: it has no white pixel, or no opaque one where it has transparency.",
            param="mask",
        )
    if manner.only_masked:
        return picture.size, _of_window(picture, painted, touched, manner)
    picture = resize(picture, manner.size, manner.resize_mode)
    painted = _resize_mask(painted, manner.size, manner.resize_mode).point(_DOUBLED)
    if manner.fill == ORIGINAL:
        return manner.size, Sources((to_pixels(picture),), to_pixels(painted))
    return manner.size, Sources((to_pixels(smeared(picture, painted)),), to_pixels(painted), to_pixels(picture))


def resize(image: Image.Image, size: Size, mode: int) -> Image.Image:
    """Bring a picture or a mask to ``size``: stretched, cut to fill it, or whole with its borders drawn out."""
    if image.size == size:
        return image
    if mode == CROP:
        return cover(image, *size)
    if mode != FILL:
        return image.resize(size, Image.Resampling.LANCZOS)
    scale = min(size[0] / image.width, size[1] / image.height)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    inner = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    whole = Image.new(image.mode, size)
    # Each border is the outermost line of pixels, repeated.
    for edge, place in (
        ((0, 0, width, 1), (left, 0, left + width, top)),
        ((0, height - 1, width, height), (left, top + height, left + width, size[1])),
        ((0, 0, 1, height), (0, top, left, top + height)),
        ((width - 1, 0, width, height), (left + width, top, size[0], top + height)),
    ):
        across, down = place[2] - place[0], place[3] - place[1]
        if across > 0 and down > 0:
            whole.paste(inner.crop(edge).resize((across, down)), place)
    whole.paste(inner, (left, top))
    return whole


def grown(box: tuple[int, int, int, int], padding: int, shape: Size, within: Size) -> Window:
    """The window around ``box`` that has the aspect of ``shape``, as far as the picture that it is in has room for it:
    one of the size ``within``. In that picture's pixels."""
    left, top = max(0, box[0] - padding), max(0, box[1] - padding)
    right, bottom = min(within[0], box[2] + padding), min(within[1], box[3] + padding)
    width, height = right - left, bottom - top
    if width * shape[1] > height * shape[0]:
        height = min(within[1], max(height, int(width * shape[1] / shape[0])))
    else:
        width = min(within[0], max(width, int(height * shape[0] / shape[1])))
    # Evenly on both sides of what is masked, then back inside.
    left = min(max(0, (left + right - width) // 2), within[0] - width)
    top = min(max(0, (top + bottom - height) // 2), within[1] - height)
    return Window(left, top, width, height)


def smeared(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """What the mask covers, filled with the colours around it: blurs from the widest to the finest laid over each
    other, each only as far as there is something to blur."""
    if ImageChops.invert(mask).getbbox() is None:
        return picture  # nothing is left to take colours from
    # What is filled has no detail: it is made small, which takes a twentieth of the time of 16 megapixels.
    scale = min(1.0, _SMEARED_SIDE / max(picture.size))
    within = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    seen = picture.convert("RGBA")
    seen.putalpha(ImageChops.invert(mask))
    seen = seen.convert("RGBa").resize(within, Image.Resampling.BOX)  # premultiplied: the covered give no colour
    filled = Image.new("RGBA", within)
    radius = max(within)
    while radius >= 1:
        filled.alpha_composite(seen.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA"))
        radius //= _STEP
    return Image.composite(filled.convert("RGB").resize(picture.size, Image.Resampling.BILINEAR), picture, mask)


def _of_window(
    picture: Image.Image, painted: Image.Image, touched: tuple[int, int, int, int], manner: Manner
) -> Sources:
    window = grown(touched, manner.padding, manner.size, picture.size)
    part, mask = picture.crop(window.box), painted.crop(window.box)
    if manner.fill != ORIGINAL:
        part = smeared(part, mask)
    # Where the picture has no room for the aspect, what is drawn has the window's.
    scale = min(manner.size[0] / window.width, manner.size[1] / window.height)
    drawn_for = max(1, round(window.width * scale)), max(1, round(window.height * scale))
    return Sources((to_pixels(part),), to_pixels(mask), to_pixels(picture), window, drawn_for)


def _mask(mask: Decoded, manner: Manner) -> Image.Image:
    if mask.alpha is None:
        found = to_pil(mask.rgb).convert("L")
    else:
        found = to_pil(mask.alpha)
        found = found.point(_HALF_OPAQUE) if manner.is_rounded else found
    return ImageOps.invert(found) if manner.is_inverted else found


def _resize_mask(mask: Image.Image, size: Size, mode: int) -> Image.Image:
    """As its picture, and 0 where no pixel of it lies: no filter may spread it."""
    if mode == FILL:
        return resize(mask, size, mode)
    return cover_mask(mask, *size) if mode == CROP else stretch(mask, *size)


def _softened(mask: Image.Image, size: Size, manner: Manner) -> Image.Image:
    """Of the source's size, and blurred over its edges."""
    mask = stretch(mask, *size)
    return mask.filter(ImageFilter.GaussianBlur(manner.blur)) if any(manner.blur) else mask


def scaled(pixels: Pixels, size: Size, *, nearest: bool) -> Pixels:
    """A finished picture, brought to the size of a second pass."""
    resampling = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    return to_pixels(to_pil(pixels).resize(size, resampling))
