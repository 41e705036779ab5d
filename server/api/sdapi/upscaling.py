"""Upscaling: the fields of the ``extra-*`` routes, the size that they ask for, and a picture brought to it.

Knows pixels and what may be asked; knows nothing of requests. ``Lanczos`` and ``Nearest`` are resampling, ``None``
leaves the picture as it is, a name of models.yaml is a network whose picture is given, and any other name stands for
Lanczos. Fields of face models have no effect.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from pipelines.pictures.fitting import cover_box, to_pil
from pipelines.pictures.provenance import PNG_KEYWORD
from pipelines.spec import Picture
from server.api import spellings
from server.errors import BadRequest
from server.inputs.container import MAX_SIDE
from server.inputs.decode import ImageLimits, decode_image
from server.inputs.texts import read_texts

NONE: Final = "None"
UPSCALERS: Final = (NONE, "Lanczos", "Nearest")

MAX_FACTOR: Final = 16.0
MAX_RESULT_SIDE: Final = 16_384  # pixels
_PNG_LEVEL: Final = 1  # a large picture takes half a second at this level, and many at the usual one
_PARAMETERS: Final = "parameters"
_BY_FACTOR, _TO_SIZE = 0, 1  # resize_mode

# Fields that say how, and those that a face or an upscaling model would be told by.
_KNOWN: Final = frozenset(
    {
        "image", "imageList", "resize_mode", "upscaling_resize", "upscaling_resize_w", "upscaling_resize_h",
        "upscaling_crop", "upscaler_1", "upscaler_2", "extras_upscaler_2_visibility", "upscale_first",
        "show_extras_results",
    }
)  # fmt: skip
_OFF: Final = (None, "", 0, 0.0, "0", False)  # values of the others that ask for nothing
_WEIGHTS: Final = frozenset({"codeformer_weight"})  # how, of something that another field asks for


@dataclass(frozen=True)
class Upscaling:
    """What is done to each picture of a request."""

    factor: float | None  # None: to size
    size: tuple[int, int]  # pixels, where there is no factor
    crop: bool  # to exactly that size; else the other side is what the picture's shape makes it
    first: str  # of UPSCALERS, or a network
    second: str  # the same, laid over the first
    share: float  # 0..1: of the second
    ignored: tuple[str, ...]  # names of fields and values that have no effect

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that it takes, by name."""
        names = (self.first, self.second) if self.share and self.first != NONE else (self.first,)
        return tuple(dict.fromkeys(name for name in names if name not in UPSCALERS))

    def result(self, width: int, height: int) -> tuple[int, int]:
        """The size of a picture of ``width × height`` afterwards, in pixels."""
        if self.first == NONE:
            return width, height
        if self.factor is None and self.crop:
            return self.size
        factor = self.factor or max(self.size[0] / width, self.size[1] / height)
        return max(1, round(width * factor)), max(1, round(height * factor))

    @property
    def told(self) -> str:
        """What was done, for people."""
        if self.first == NONE:
            return "Not upscaled: upscaler_1 is None"
        how = f"to: {self.size[0]}x{self.size[1]}" if self.factor is None else f"by: {self.factor:g}"
        second = f", Postprocess upscaler 2: {self.second}" if self.share else ""
        return f"Postprocess upscale {how}, Postprocess upscaler: {self.first}{second}"


def read_upscaling(sent: Mapping[str, Any], networks: Collection[str] = ()) -> Upscaling:
    """The fields of a body; upscalers may be ``networks``, too. Raises BadRequest naming the first that is wrong."""
    ignored = [name for name in sent if name not in _KNOWN | _WEIGHTS and sent[name] not in _OFF]
    names = []
    for field in ("upscaler_1", "upscaler_2"):
        value = sent.get(field)
        asked = (NONE if value is None or value == "" else value) if isinstance(value, str | None) else ""
        known = next((name for name in (*UPSCALERS, *networks) if name.lower() == asked.strip().lower()), None)
        if known is None:
            ignored.append(field)
        names.append(known or "Lanczos")
    mode = _number(sent, "resize_mode", _BY_FACTOR, 0, 1)
    if mode not in (_BY_FACTOR, _TO_SIZE):
        raise BadRequest("resize_mode must be 0, by a factor, or 1, to a size.", param="resize_mode")
    factor = _number(sent, "upscaling_resize", 2.0, 0, MAX_FACTOR) if mode == _BY_FACTOR else None
    if factor == 0:
        raise BadRequest(f"upscaling_resize must be above 0 and at most {MAX_FACTOR:g}.", param="upscaling_resize")
    sides = tuple(
        int(_number(sent, name, 512, 1, MAX_RESULT_SIDE)) if mode == _TO_SIZE else 0
        for name in ("upscaling_resize_w", "upscaling_resize_h")
    )
    crop = _boolean(sent, "upscaling_crop", default=True)
    share = 0.0 if names[1] == NONE else _number(sent, "extras_upscaler_2_visibility", 0.0, 0, 1)
    return Upscaling(factor, (sides[0], sides[1]), crop, names[0], names[1], share, tuple(ignored))


def sizes(
    data: bytes, how: Upscaling, *, limits: ImageLimits, most_pixels: int, param: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size of a picture's file, and of the result. Raises as ``upscaled``. For a thread."""
    rgb = decode_image(data, limits=limits, param=param).rgb
    size = how.result(rgb.width, rgb.height)
    require_room(size, most_pixels)
    return (rgb.width, rgb.height), size


def upscaled(
    data: bytes,
    how: Upscaling,
    *,
    limits: ImageLimits,
    most_pixels: int,
    param: str,
    by_network: Mapping[str, bytes] | None = None,
) -> Picture:
    """A picture's file → a PNG of the result, with the parameters that stood in the file. ``by_network``: the PNG that
    each network has made of it; where one of them says that a model made it, the result says so too, and names one.
    Raises BadImage and TooLarge for the file, BadRequest for a result of more than ``most_pixels``. For a thread."""
    decoded = decode_image(data, limits=limits, param=param)
    image = to_pil(decoded.rgba or decoded.rgb)
    size = how.result(*image.size)
    require_room(size, most_pixels)

    said: dict[str, str] = {}  # by networks, of themselves

    def by(name: str) -> Image.Image:
        png = None if by_network is None else by_network.get(name)
        if png is None:
            return _resampled(image, size, name, how)
        with PngImageFile(io.BytesIO(png)) as opened:
            if PNG_KEYWORD in opened.text:
                said[name] = str(opened.text[PNG_KEYWORD])
            return opened.convert(image.mode)

    made = by(how.first)
    if how.share and how.first != NONE:
        made = Image.blend(made, by(how.second), how.share)
    out, info = io.BytesIO(), PngInfo()
    parameters = read_texts(data, param=param).get(_PARAMETERS)
    if parameters is not None:
        info.add_itxt(_PARAMETERS, parameters)
    network = next(iter(said), None)
    if network is not None:
        info.add_itxt(PNG_KEYWORD, said[network])
    made.save(out, "PNG", compress_level=_PNG_LEVEL, pnginfo=info)
    return Picture(0, out.getvalue(), "image/png", *size, seed=0, upscaler=network)


def require_room(size: tuple[int, int], most_pixels: int) -> None:
    """Raise BadRequest for a result that is too large."""
    if size[0] * size[1] > most_pixels or max(size) > MAX_SIDE:
        raise BadRequest(
            f"The result would have {size[0]} × {size[1]} pixels; at most {most_pixels} more are made for this request."
            " Send a smaller upscaling_resize, or smaller upscaling_resize_w and upscaling_resize_h.",
            param="upscaling_resize",
        )


def _resampled(image: Image.Image, size: tuple[int, int], upscaler: str, how: Upscaling) -> Image.Image:
    if image.size == size:
        return image
    filters = {"Nearest": Image.Resampling.NEAREST}
    box = cover_box(image.size, *size) if how.factor is None and how.crop else None
    return image.resize(size, filters.get(upscaler, Image.Resampling.LANCZOS), box=box)


def _number(sent: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    """A number that may be spelled as a text. Raises BadRequest."""
    value = spellings.number(sent.get(name))
    if spellings.is_empty(value):
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise BadRequest(f"{name} must be a number from {least:g} to {most:g}.", param=name)
    return float(value)


def _boolean(sent: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """true or false, which may be spelled as a text or a number. Raises BadRequest."""
    value = spellings.boolean(sent.get(name))
    if spellings.is_empty(value):
        return default
    if value not in (True, False):  # 1 and 0 are among them
        raise BadRequest(f"{name} must be true or false.", param=name)
    return bool(value)
