"""Driving the engine from a test: requests in, pictures and forward counts out."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.engine.embeddings import EmbeddingCache
from pipelines.engine.engine import Engine
from pipelines.engine.sink import KeepingSink
from pipelines.models import selfcheck
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing
from pipelines.spec import ImageSpec, Pixels
from tests.fixed_rows import FixedRows


@dataclass(frozen=True)
class Drawn:
    pictures: dict[str, torch.Tensor]  # by drawing
    forwards: int  # of the denoiser, and of the ControlNet if there is one
    fallbacks: int  # steps that failed together and were tried alone


def check(model: LoadedModel) -> None:
    """The check at load, and room for 16 rows a step: learnt, it would differ from run to run, and forwards too."""
    selfcheck.check(model)
    for shared in model.shared_modules.values():
        shared.costs = FixedRows(16)


def run(
    model: LoadedModel, drawings: Sequence[Drawing], sink: KeepingSink, embeddings: EmbeddingCache | None = None
) -> Engine:
    """Draw the drawings, all at once, into ``sink``. The engine has ended, and kept its counts."""
    engine = Engine(sink, embeddings=embeddings)
    ended = threading.Semaphore(0)
    engine.submit(model, *drawings, done=ended.release)
    for _ in drawings:
        ended.acquire()
    engine.close()
    return engine


def draw(model: LoadedModel, drawings: Sequence[Drawing]) -> Drawn:
    """Draw the drawings, all at once."""
    sink = KeepingSink()
    engine = run(model, drawings, sink)
    assert not sink.errors, sink.errors
    denoisers = {shared.name for shared in model.shared_modules.values() if shared.is_denoiser}
    forwards = sum(engine.counts[f"{name}_forwards"] for name in denoisers)
    return Drawn(sink.pictures, forwards, engine.counts["retried_alone"])


def drawing(
    model: LoadedModel, number: int, prompt: str, *, n: int = 1, size: tuple[int, int] | None = None, **fields: Any
) -> Drawing:
    """One request. ``size`` is width × height in pixels, the model's native size if not given."""
    width, height = size or (model.plan.native_width, model.plan.native_height)
    sizes = {"width": width, "height": height, "draw_width": width, "draw_height": height}
    values = {"steps": 4, "guidance": model.family.guidance, **sizes, **fields}
    spec = ImageSpec(model=model.plan.key, prompt=prompt, **values)
    return Drawing(f"{number}", model.plan, spec, tuple(range(number, number + n)))


def picture(width: int, height: int, seed: int = 0) -> Pixels:
    """A source: coarse random squares, so that scaling it keeps something."""
    rng = random.Random(seed)
    squares = [[bytes(rng.randrange(256) for _ in range(3)) for _ in range(8)] for _ in range(8)]
    data = b"".join(squares[y * 8 // height][x * 8 // width] for y in range(height) for x in range(width))
    return Pixels(width, height, "RGB", data)


def half_mask(width: int, height: int) -> Pixels:
    """The left half is repainted."""
    return Pixels(width, height, "L", (b"\xff" * (width // 2) + b"\x00" * (width - width // 2)) * height)
