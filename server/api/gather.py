"""From what a request carries as pictures to decoded pixels of the size that the job needs.

Knows where pictures come from and how large they must be; decoding runs on threads, off the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio.to_thread
from PIL import Image

from pipelines.fitting import cover, to_pil, to_pixels
from pipelines.spec import Pixels
from server.api.services import Services
from server.api.specs import Sources, target_size
from server.api.wire import ImageRequest
from server.catalog import Model
from server.inputs.decode import decode_image, decode_mask
from server.inputs.source import read_source

_MAX_REFERENCE_PIXELS = 4 * 1024 * 1024  # a reference larger than this is shrunk before it goes to the worker


async def read_sources(services: Services, texts: Sequence[str], *, param: str) -> list[bytes]:
    """The bytes behind URLs, data: URLs and base64 texts, in order."""
    return [await read_source(text, fetcher=services.fetcher, limits=services.limits, param=param) for text in texts]


async def make_sources(
    services: Services, request: ImageRequest, model: Model, images: Sequence[bytes], mask: bytes | None
) -> tuple[tuple[int, int], Sources]:
    """Decode the pictures and bring them to the size of the job. Returns that size, and the sources."""
    if not images:
        return target_size(request, model, None), Sources()
    return await anyio.to_thread.run_sync(_make, services, request, model, images, mask, limiter=services.decoding)


def _make(
    services: Services, request: ImageRequest, model: Model, images: Sequence[bytes], mask: bytes | None
) -> tuple[tuple[int, int], Sources]:
    decoded = [decode_image(data, limits=services.limits, param="image").rgb for data in images]
    size = target_size(request, model, decoded[0])
    fit = _shrink if model.family.by_instruction else _cover
    painted = None
    if mask is not None:
        pixels = decode_mask(mask, limits=services.limits, param="mask")
        # Any size of mask is brought to its picture's first, so that both are then cut alike.
        whole = to_pil(pixels).resize((decoded[0].width, decoded[0].height), Image.Resampling.BILINEAR)
        painted = _cover(to_pixels(whole), size)
    return size, Sources(tuple(fit(pixels, size) for pixels in decoded), painted)


def _cover(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return to_pixels(cover(to_pil(pixels), *size))


def _shrink(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """A reference keeps its own shape; the pipeline brings it to the size it wants."""
    scale = (_MAX_REFERENCE_PIXELS / (pixels.width * pixels.height)) ** 0.5
    if scale >= 1:
        return pixels
    smaller = (max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale)))
    return to_pixels(to_pil(pixels).resize(smaller, Image.Resampling.LANCZOS))
