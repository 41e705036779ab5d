"""Pictures for requests and from answers."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image


def scene(width: int, height: int) -> Image.Image:
    """A smooth picture with colours of its own in every corner."""
    x = np.linspace(0, 1, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 1, height)[:, None].repeat(width, 1)
    bands = (0.2 + 0.7 * x, 0.9 - 0.6 * y, 0.5 + 0.4 * np.sin(6 * x * y))
    return Image.fromarray((np.stack(bands, -1) * 255).round().astype(np.uint8))


def noise(width: int, height: int) -> Image.Image:
    """What no encoder makes small."""
    rng = np.random.default_rng(7)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def right_half(width: int, height: int) -> Image.Image:
    """A mask: white, which is what to repaint, on the right."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 2, 0, width, height))
    return mask


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def files(answer: httpx.Response) -> list[bytes]:
    """The pictures of a 200 answer, in whichever form they came."""
    assert answer.status_code == 200, answer.text[:500]
    found = []
    for item in answer.json()["data"]:
        if "b64_json" in item:
            found.append(base64.b64decode(item["b64_json"], validate=True))
        else:
            found.append(httpx.get(item["url"], trust_env=False, verify=False).raise_for_status().content)
    return found


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def pixels(data: bytes) -> npt.NDArray[np.int16]:
    return np.asarray(opened(data).convert("RGB")).astype(np.int16)


def parameters(data: bytes) -> dict[str, Any]:
    """What a PNG says of how it was drawn."""
    found: dict[str, Any] = json.loads(opened(data).info["parameters"])
    return found
