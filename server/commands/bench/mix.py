"""The mix of requests that ``darkroom bench`` sends, drawn at random from a seed.

Knows request bodies; sends nothing. Two runs with one mix and one seed send the same requests.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

TASKS = ("t2i", "i2i", "inpaint")
_SUBJECTS = ("a red apple", "two dogs on a beach", "a cat", "a house in the snow", "a ship at sunset", "a green tree")
_SOURCE_SIDE = 64  # pixels


@dataclass(frozen=True)
class Mix:
    """The values to choose from: each request takes one of each, at random."""

    sizes: tuple[str, ...] = ("256x256",)
    steps: tuple[int, int] = (4, 30)  # least, most
    guidance: tuple[float, ...] = (1.0, 2.5, 5.0)
    tasks: tuple[str, ...] = ("t2i",)
    counts: tuple[int, ...] = (1,)  # pictures in a request: n
    model: str | None = None

    def __str__(self) -> str:
        listed = (f"{', '.join(map(str, values))}" for values in (self.sizes, self.guidance, self.tasks, self.counts))
        sizes, guidance, tasks, counts = listed
        least, most = self.steps
        return f"sizes {sizes}; steps {least} to {most}; guidance {guidance}; tasks {tasks}; n {counts}"


@dataclass(frozen=True)
class Ask:
    """One request to send."""

    number: int
    task: str
    body: Mapping[str, Any]

    @property
    def pictures(self) -> int:
        return int(self.body["n"])


def make_asks(mix: Mix, count: int, seed: int) -> list[Ask]:
    """``count`` requests: the same for the same mix and seed."""
    rng = random.Random(seed)  # noqa: S311, repeatable on purpose
    asks = []
    for number in range(count):
        task = rng.choice(mix.tasks)
        body: dict[str, Any] = {
            "prompt": rng.choice(_SUBJECTS),
            "size": rng.choice(mix.sizes),
            "num_inference_steps": rng.randint(*mix.steps),
            "guidance_scale": rng.choice(mix.guidance),
            "n": rng.choice(mix.counts),
            "seed": rng.randrange(2**32),
            "response_format": "b64_json",
            "stream": True,
            "stream_progress": True,
        }
        if mix.model is not None:
            body["model"] = mix.model
        if task != "t2i":
            body["image"] = _picture("RGB", number)
        if task == "inpaint":
            body["mask"] = _picture("L", number)
        asks.append(Ask(number, task, body))
    return asks


def _picture(mode: str, number: int) -> str:
    """A source of four coloured fields, or a mask that repaints its left half, as a data: URL."""
    if mode == "L":
        image = Image.new("L", (_SOURCE_SIDE, _SOURCE_SIDE))
        image.paste(255, (0, 0, _SOURCE_SIDE // 2, _SOURCE_SIDE))
    else:
        image = Image.new("RGB", (2, 2))
        image.putdata([((number * 53 + k * 70) % 256, (number * 97 + k * 40) % 256, k * 80) for k in range(4)])
        image = image.resize((_SOURCE_SIDE, _SOURCE_SIDE), Image.Resampling.NEAREST)
    out = io.BytesIO()
    image.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
