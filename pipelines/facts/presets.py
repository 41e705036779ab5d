"""From what a client asks (quality, style, size) to what a pipeline is told (steps, guidance, drawn size).

Knows arithmetic on presets and sizes; knows neither models.yaml nor torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from pipelines.facts.spacing import Spacing

# The names that requests and models.yaml use. A request that names none has the first of each.
Quality = Literal["standard", "hd", "low", "medium", "high", "xhigh", "max", "auto"]
Style = Literal["vivid", "natural"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)
STYLES: tuple[Style, ...] = get_args(Style)


@dataclass(frozen=True)
class Preset:
    """Parameters that a quality or a style stands for; None leaves a parameter to the preset before it."""

    steps: int | None = None
    guidance: float | None = None
    scheduler: str | None = None  # a name of pipelines.facts.schedulers
    spacing: Spacing | None = None
    step_cache: float | None = None  # 0..1
    prompt_suffix: str | None = None  # added to the prompt as it stands
    negative_prompt: str | None = None


def overlay(*presets: Preset) -> Preset:
    """Lay presets over each other: what a later one sets wins."""
    chosen: dict[str, object] = {}
    for preset in presets:
        for field in fields(Preset):
            value = getattr(preset, field.name)
            if value is not None:
                chosen[field.name] = value
    return Preset(**chosen)  # type: ignore[arg-type]


@dataclass(frozen=True)
class DrawingArea:
    """What a model draws well: near ``native_width × native_height`` pixels, sides divisible by ``multiple``."""

    native_width: int
    native_height: int
    multiple: int
    min_pixels: int  # fewer than this are drawn larger and resampled
    max_pixels: int  # more than this is drawn smaller and resampled

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """The size to draw, in pixels, for a picture of ``width × height``.

        A size that the model draws directly is kept. Any other keeps its aspect as nearly as ``multiple``
        allows, at the model's native area; the finished picture is then resampled to the size asked for.
        """
        native_pixels = self.native_width * self.native_height
        fits = self.min_pixels <= width * height <= self.max_pixels
        if fits and width % self.multiple == 0 and height % self.multiple == 0:
            return width, height
        scale = 1.0 if fits else math.sqrt(native_pixels / (width * height))
        # Very long pictures would round one side to nothing: a side has at least one multiple.
        return self._round(width * scale), self._round(height * scale)

    def _round(self, side: float) -> int:
        return max(1, round(side / self.multiple)) * self.multiple
