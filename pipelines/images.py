"""Tensors ↔ pixels, pixels ↔ bytes, and the guard against NaN and black.

Knows colours and codecs; knows neither models nor HTTP.
"""

from __future__ import annotations

import io
import json

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, PngImagePlugin

from pipelines.errors import BadPicture
from pipelines.fitting import cover
from pipelines.spec import Encoding, ImageSpec, Picture

# Measured at 1024×1024 (bench/encode.py, docs/bench.md): against Pillow's default of 6, level 1 takes a third to
# a half of the time, and its files are 15 % (photograph-like) to 40 % (smooth, drawn) larger.
PNG_LEVEL = 1

_MIMES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
_RAW_ARRAY = npt.NDArray[np.uint8]


def to_uint8(images: torch.Tensor) -> _RAW_ARRAY:
    """Turn finished pictures into bytes on their own device, then copy: a quarter of the traffic.

    ``images`` is (B, 3, H, W), 0..1; the result (B, H, W, 3), 0..255, rounded as diffusers rounds.
    Raises BadPicture for NaN, infinity, or a picture with nothing but black in it.
    """
    if not bool(torch.isfinite(images).all()):
        raise BadPicture("the picture has NaN or infinite pixels")
    pixels = (images.float() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    if bool((pixels.flatten(1).amax(dim=1) == 0).any()):
        raise BadPicture("the picture is black all over")
    array: _RAW_ARRAY = pixels.cpu().numpy()
    return array


def finish(array: _RAW_ARRAY, spec: ImageSpec) -> Image.Image:
    """Bring drawn pixels (H, W, 3) to exactly the size that the client asked for.

    Lanczos; what the drawn aspect has too much of is cut off evenly on both sides.
    """
    image = Image.fromarray(array)
    return cover(image, spec.width, spec.height)


def encode(image: Image.Image, spec: ImageSpec, encoding: Encoding, index: int) -> Picture:
    """Encode a finished picture, with its parameters inside if ``encoding`` says so."""
    out = io.BytesIO()
    parameters = _parameters(spec) if encoding.metadata else None
    if encoding.format == "png":
        info = PngImagePlugin.PngInfo()
        if parameters is not None:
            # iTXt, so that a prompt in any script survives.
            info.add_itxt("parameters", parameters)
        image.save(out, "PNG", compress_level=PNG_LEVEL, pnginfo=info)
    else:
        exif = Image.Exif()
        if parameters is not None:
            exif[0x010E] = parameters.encode("ascii", "backslashreplace").decode()  # ImageDescription is ASCII
        image.save(out, encoding.format.upper(), quality=encoding.quality, exif=exif)
    return Picture(index, out.getvalue(), _MIMES[encoding.format], image.width, image.height, spec.seed)


def _parameters(spec: ImageSpec) -> str:
    """What is needed to draw this picture again, as JSON."""
    values: dict[str, object] = {
        "software": "Darkroom",
        "model": spec.model,
        "prompt": spec.prompt,
        "seed": spec.seed,
        "steps": spec.steps,
        "guidance": spec.guidance,
        "size": f"{spec.width}x{spec.height}",
        "task": str(spec.task),
    }
    if spec.negative_prompt is not None:
        values["negative_prompt"] = spec.negative_prompt
    if spec.scheduler is not None:
        values["scheduler"] = spec.scheduler
    if spec.sources:
        values["strength"] = spec.strength
    return json.dumps(values, ensure_ascii=False)
