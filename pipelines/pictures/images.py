"""Tensors ↔ pixels, pixels ↔ bytes, and the guard against NaN and black.

Knows colours and codecs; knows neither models nor HTTP.
"""

from __future__ import annotations

import io
import json

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, PngImagePlugin

from pipelines.errors import BadPicture, is_out_of_memory
from pipelines.pictures import provenance
from pipelines.pictures.fitting import cover, to_pil
from pipelines.pictures.matting import FLAT_GROUND, cut_out
from pipelines.pictures.repaint import put_back
from pipelines.spec import LANCZOS, Control, Encoding, ImageSpec, Picture, Window

# Measured at 1024×1024 (bench/encode.py, docs/bench.md): against Pillow's default of 6, level 1 takes a third to
# a half of the time, and its files are 15 % (photograph-like) to 40 % (smooth, drawn) larger.
PNG_LEVEL = 1

_MAX_EXIF = 65_000  # bytes; a JPEG segment holds 65,533, its header and EXIF's own included
_MAX_EXIF_PROMPT = 2_500  # characters of each prompt where more is too much; JSON in ASCII takes up to 12 bytes for one

_MIMES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
Array = npt.NDArray[np.uint8]


class Frames:
    """Drawn pixels on their way to host memory: uint8 (B, H, W, 3), and whether each picture is usable."""

    def __init__(self, pixels: torch.Tensor, usable: torch.Tensor, copied: torch.cuda.Event | None) -> None:
        self._pixels = pixels
        self._usable = usable
        self._copied = copied

    def arrays(self) -> Array:
        """Wait for the copy. Raises BadPicture if a picture has NaN in it, or nothing but black."""
        if self._copied is not None:
            self._copied.synchronize()
        if not bool(self._usable.all()):
            raise BadPicture("a picture has NaN or infinite pixels, or is black all over")
        array: Array = self._pixels.numpy()
        return array


def to_frames(drawn: torch.Tensor) -> Frames:
    """Turn finished pictures (B, 3, H, W), 0..1, into bytes, rounded as diffusers rounds; waits for nothing.

    The conversion is done where the pictures are, so that a quarter of the bytes travels. On CUDA the copy goes
    through pinned memory on a stream of its own: the denoiser's next step does not wait for it.
    """
    pixels = (drawn.float() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    finite = torch.isfinite(drawn).flatten(1).all(dim=1)
    usable = finite & (pixels.flatten(1).amax(dim=1) > 0)
    if not drawn.is_cuda:
        return Frames(pixels, usable, None)
    stream = torch.cuda.Stream(drawn.device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(drawn.device))
    with torch.cuda.stream(stream):
        host = []
        for tensor in (pixels, usable):
            host.append(_host_memory(tensor).copy_(tensor, non_blocking=True))
            tensor.record_stream(stream)  # or its memory is handed out again while the copy still reads it
    return Frames(host[0], host[1], stream.record_event())


def _host_memory(tensor: torch.Tensor) -> torch.Tensor:
    """Room for a copy, pinned where that can be had: without, the copy waits, and the picture is not lost."""
    try:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return torch.empty(tensor.shape, dtype=tensor.dtype)


def as_drawn(array: Array, spec: ImageSpec) -> Image.Image:
    """Drawn pixels (H, W, 3) as a picture of that size; without its ground, where the client wants none."""
    image = Image.fromarray(array)
    return cut_out(image) if spec.matting == FLAT_GROUND and spec.window is None else image


def factor(size: tuple[int, int], spec: ImageSpec) -> float:
    """How many times as large as it was drawn a picture of this ``size`` (width, height) is wanted."""
    wanted = (spec.width, spec.height) if spec.window is None else (spec.window.width, spec.window.height)
    return max(wanted[0] / size[0], wanted[1] / size[1])


def finish(drawn: Array | Image.Image, spec: ImageSpec) -> Image.Image:
    """Bring drawn pixels (H, W, 3), or what ``as_drawn`` and maybe a network have made of them, to exactly the size
    that the client asked for.

    Lanczos; what the drawn aspect has too much of is cut off evenly on both sides. Where the client wants no ground
    there is none, and what the mask does not cover is the source's own pixels. What is drawn of a part of a picture
    alone is laid into that picture.
    """
    image = drawn if isinstance(drawn, Image.Image) else as_drawn(drawn, spec)
    if spec.window is not None and spec.kept is not None:
        return _laid_in(image, spec.window, spec)
    image = cover(image, spec.width, spec.height)
    if spec.mask is not None:
        image = put_back(image, to_pil(spec.kept or spec.sources[0]), to_pil(spec.mask))
    return image


def _laid_in(drawn: Image.Image, window: Window, spec: ImageSpec) -> Image.Image:
    """The whole picture with its window drawn anew: stretched, as that was when it was brought to the size to draw."""
    assert spec.kept is not None
    whole = to_pil(spec.kept)
    part = drawn.resize((window.width, window.height), Image.Resampling.LANCZOS)
    if spec.mask is not None:
        part = put_back(part, whole.crop(window.box), to_pil(spec.mask))
    whole.paste(part, window.box)
    return whole


def encode(image: Image.Image, spec: ImageSpec, encoding: Encoding, *, index: int, seed: int) -> Picture:
    """Encode a finished picture, with its parameters and whence it comes inside if ``encoding`` says so."""
    out = io.BytesIO()
    parameters = None
    if encoding.metadata:
        parameters = encoding.texts[index] if encoding.texts else _parameters(spec, seed)
    # Resampling alone is no model's doing.
    made = encoding.provenance and (spec.upscaler or not spec.only_enlarges)
    packet = provenance.xmp(spec, of_ours=encoding.of_ours) if made else None
    if encoding.format == "png":
        info = PngImagePlugin.PngInfo()
        if parameters is not None:
            # iTXt, so that a prompt in any script survives.
            info.add_itxt("parameters", parameters)
        if packet is not None:
            info.add_itxt(provenance.PNG_KEYWORD, packet)
        image.save(out, "PNG", compress_level=PNG_LEVEL, pnginfo=info)
    else:
        exif = Image.Exif()
        if parameters is not None:
            exif[0x010E] = _ascii(spec, seed)  # ImageDescription
        xmp = {} if packet is None else {"xmp": packet.encode()}
        image.save(out, encoding.format.upper(), quality=encoding.quality, exif=exif, **xmp)
    transparent = image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)
    return Picture(
        index, out.getvalue(), _MIMES[encoding.format], image.width, image.height, seed, transparent, spec.upscaler
    )


def _ascii(spec: ImageSpec, seed: int) -> str:
    """The parameters as EXIF takes them, JSON in ASCII; of prompts for which it has no room, the beginning."""
    written = _parameters(spec, seed, ascii_only=True)
    if len(written) > _MAX_EXIF:
        negative = spec.negative_prompt
        shorter = msgspec.structs.replace(
            spec, prompt=_beginning(spec.prompt), negative_prompt=None if negative is None else _beginning(negative)
        )
        written = _parameters(shorter, seed, ascii_only=True)
    return written


def _beginning(prompt: str) -> str:
    return prompt if len(prompt) <= _MAX_EXIF_PROMPT else prompt[:_MAX_EXIF_PROMPT] + "…"


def _told(control: Control) -> dict[str, object]:
    """All of it but the picture."""
    made = {} if control.preprocess == "none" else {"preprocess": control.preprocess}
    return {"name": control.name, "weight": control.weight, "start": control.start, "end": control.end, **made}


def _parameters(spec: ImageSpec, seed: int, *, ascii_only: bool = False) -> str:
    """What is needed to draw this picture again, as JSON; of one that was not drawn, what enlarged it."""
    if spec.only_enlarges:
        size = f"{spec.width}x{spec.height}"
        return json.dumps({"software": "Darkroom", "upscaler": spec.upscaler or LANCZOS, "size": size})
    values: dict[str, object] = {
        "software": "Darkroom",
        "model": spec.model,
        "prompt": spec.prompt,
        "seed": seed,
        "steps": spec.steps,
        "guidance": spec.guidance,
        "size": f"{spec.width}x{spec.height}",
        "task": str(spec.task),
    }
    if spec.negative_prompt is not None:
        values["negative_prompt"] = spec.negative_prompt
    if spec.scheduler is not None:
        values["scheduler"] = spec.scheduler
    if spec.spacing != "default":
        values["spacing"] = spec.spacing
    if spec.sigmas != "default":
        values["sigmas"] = spec.sigmas
    if spec.step_cache:
        values["step_cache"] = spec.step_cache
    if spec.upscaler is not None:
        values["upscaler"] = spec.upscaler
    if spec.sources:
        values["strength"] = spec.strength
    if spec.adapters:
        values["loras"] = [{"name": adapter.name, "weight": adapter.weight} for adapter in spec.adapters]
    if spec.controls:
        values["controls"] = [_told(control) for control in spec.controls]
    return json.dumps(values, ensure_ascii=ascii_only)
