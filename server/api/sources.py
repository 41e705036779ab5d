"""Sources: from what a request carries as pictures to decoded pixels of the size that the job needs.

Knows where pictures come from and how large they must be; decoding runs on threads, off the event loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from PIL import Image, ImageChops

from pipelines.pictures.fitting import cover, to_pil, to_pixels
from pipelines.pictures.masks import clean, cover_mask, feather, stretch
from pipelines.spec import Pixels, Task, Window
from server.api import control_fields
from server.api.services import Services
from server.api.specs import Sources, target_size
from server.api.wire import ImageFields
from server.catalog.catalog import Model
from server.inputs.decode import Decoded, decode_image, decode_mask
from server.inputs.decoders import Decoding
from server.inputs.source import is_url, read_source

Size = tuple[int, int]

_MAX_REFERENCE_PIXELS = 4 * 1024 * 1024  # a reference larger than this is shrunk before it goes to the worker


async def read_sources(services: Services, principal: str, texts: Sequence[str], *, param: str) -> list[bytes]:
    """The bytes behind URLs, data: URLs and base64 texts, in order."""
    return [
        await read_source(text, fetcher=services.fetcher, limits=services.limits, principal=principal, param=param)
        for text in texts
    ]


def most_bytes(services: Services, texts: Sequence[str]) -> int:
    """The most bytes that can be behind such texts."""
    most = services.limits.max_bytes
    return sum(most if is_url(text) else min(most, len(text) * 3 // 4 + 3) for text in texts)


async def make_sources(
    services: Services,
    principal: str,
    fields: ImageFields,
    model: Model,
    images: Sequence[bytes],
    mask: bytes | None,
    *,
    holes: bool = True,
) -> tuple[tuple[int, int], Sources]:
    """Decode the pictures and bring them to the size of the job. Returns that size, and the sources.

    ``holes``: what is transparent may be what to repaint, where the model has it so. Every picture is a turn at the
    decoders, and brought to its size in that turn: only the first is kept whole meanwhile.
    """
    if not images:
        return target_size(fields, model, None), Sources()
    decoding = services.decoders.decoding(principal)
    decode = functools.partial(decode_image, limits=services.limits, param="image")
    fit = shrink if model.family.by_instruction else _cover
    # The whole first picture is gone when this returns: it would lie beside every one that is decoded after it.
    size, first, painted, kept = await _first(
        services, decoding, fields, model, images[0], mask, holes=holes and len(images) == 1
    )
    fitted = [first]
    for data in images[1:]:
        fitted.append(await decoding.run(functools.partial(_reference, decode, data, fit, size), param="image"))
    return size, Sources(tuple(fitted), painted, kept)


async def make_controls(
    services: Services, principal: str, files: Sequence[bytes], size: Size, window: Window | None
) -> tuple[Pixels, ...]:
    """The pictures that ControlNets steer by, each cut to the job's size as a source is: scaled to cover it, and the
    middle taken; and of that, the part that alone is drawn, where it is a ``window``."""
    decoding = services.decoders.decoding(principal)
    found = []
    for number, data in enumerate(files):
        param = control_fields.param(number, "image")
        decode = functools.partial(decode_image, limits=services.limits, param=param)
        found.append(await decoding.run(functools.partial(_steering, decode, data, size, window), param=param))
    return tuple(found)


def _steering(decode: Callable[[bytes], Decoded], data: bytes, size: Size, window: Window | None) -> Pixels:
    whole = cover(to_pil(decode(data).rgb), *size)
    return to_pixels(whole if window is None else whole.crop(window.box))


async def _first(
    services: Services,
    decoding: Decoding,
    fields: ImageFields,
    model: Model,
    image: bytes,
    mask: bytes | None,
    *,
    holes: bool,
) -> tuple[Size, Pixels, Pixels | None, Pixels | None]:
    """The job's size, the first picture at that size, what of it is repainted, and what shows where it is not."""
    limits = services.limits
    source = await decoding.run(lambda: decode_image(image, limits=limits, param="image"), param="image")
    size = target_size(fields, model, source.rgb)
    painted, kept = None, None
    if mask is not None:
        painted = await decoding.run(
            lambda: _mask_for(decode_mask(mask, limits=limits, param="mask"), source.rgb, size), param="mask"
        )
        if source.rgba is not None and fields.background != "opaque" and fields.output_format != "jpeg":
            kept = await decoding.run(functools.partial(_cover, source.rgba, size), param="image")
    elif holes:
        painted, kept = await decoding.run(lambda: _holes(source, model, size), param="image")
    # Cut like its mask, pixel by pixel.
    fit = shrink if model.family.by_instruction and painted is None else _cover
    return size, await decoding.run(lambda: fit(source.rgb, size), param="image"), painted, kept


def _reference(
    decode: Callable[[bytes], Decoded], data: bytes, fit: Callable[[Pixels, Size], Pixels], size: Size
) -> Pixels:
    return fit(decode(data).rgb, size)


def _mask_for(mask: Pixels, source: Pixels, size: tuple[int, int]) -> Pixels:
    """A mask of any size is brought to its picture's first, so that both are then cut alike."""
    whole = stretch(to_pil(mask), source.width, source.height)
    return to_pixels(feather(cover_mask(whole, *size)))


def _holes(source: Decoded, model: Model, size: tuple[int, int]) -> tuple[Pixels | None, Pixels | None]:
    """The transparency of a picture as its mask, and its colours, which go over what is drawn in the holes.

    Neither, if this model does not repaint what is transparent in a source, or nothing is transparent.
    """
    if not model.entry.alpha_mask or source.alpha is None or Task.INPAINTING not in model.family.tasks:
        return None, None
    assert source.rgba is not None
    alpha = clean(to_pil(source.alpha))
    if alpha.getextrema()[0] != 0:
        return None, None
    mask = cover_mask(ImageChops.invert(alpha), *size)
    return to_pixels(mask), to_pixels(cover(to_pil(source.rgba), *size).convert("RGB"))


def _cover(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return to_pixels(cover(to_pil(pixels), *size))


def shrink(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """A reference keeps its own shape; the pipeline brings it to the size it wants."""
    scale = (_MAX_REFERENCE_PIXELS / (pixels.width * pixels.height)) ** 0.5
    if scale >= 1:
        return pixels
    smaller = (max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale)))
    return to_pixels(to_pil(pixels).resize(smaller, Image.Resampling.LANCZOS))
