"""Drawings for the doctor, and an engine that draws them.

Knows a loaded model and the engine; measures nothing but the time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pipelines.doctor.probe import Probe
from pipelines.engine.call import Call
from pipelines.engine.embeddings import EmbeddingCache
from pipelines.engine.engine import Engine
from pipelines.engine.sink import KeepingSink
from pipelines.errors import DrawError
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing
from pipelines.spec import ImageSpec, Pixels, Task


@dataclass
class Drawn:
    """What came of some drawings."""

    pictures: dict[str, torch.Tensor]
    errors: dict[str, DrawError]
    counts: dict[str, int]
    seconds: float

    @property
    def forwards(self) -> int:
        """Of the denoiser."""
        others = ("vae", "text_encoder")
        made = {name: n for name, n in self.counts.items() if name.endswith("_forwards")}
        return max(1, sum(n for name, n in made.items() if not name.startswith(others)))


def drawing(model: LoadedModel, number: int, steps: int, n: int = 1) -> Drawing:
    """One request at the model's native size; ``number`` is its seed and stands in its prompt."""
    width, height = model.plan.native_width, model.plan.native_height
    spec = ImageSpec(
        model=model.plan.key,
        prompt=f"picture number {number}",
        width=width,
        height=height,
        draw_width=width,
        draw_height=height,
        steps=steps,
        guidance=model.family.guidance,
        sources=() if Task.TEXT_TO_IMAGE in model.family.tasks else (Pixels.grey(width, height, "RGB"),),
        mask=Pixels.grey(width, height, "L") if model.family.tasks == {Task.INPAINTING} else None,
    )
    return Drawing(f"doctor-{number}", model.plan, spec, tuple(range(number, number + n)))


def draw(
    probe: Probe, model: LoadedModel, drawings: Sequence[Drawing], observe: Callable[[Call], None] = lambda call: None
) -> Drawn:
    """Draw them at once on an engine of their own."""
    sink = KeepingSink()
    engine = Engine(sink, embeddings=EmbeddingCache(), observe=observe)
    ended = threading.Semaphore(0)

    def work() -> None:
        engine.submit(model, *drawings, done=ended.release)
        for _ in drawings:
            ended.acquire()

    seconds = probe.once(work)
    engine.close()
    return Drawn(sink.pictures, sink.errors, dict(engine.counts), seconds)


def denoiser_call(probe: Probe, model: LoadedModel) -> Call:
    """The first call of the denoiser that a short run makes. Raises DrawError."""
    calls: list[Call] = []
    made = draw(probe, model, [drawing(model, 1, 2)], calls.append)
    for error in made.errors.values():
        raise error
    return next(call for call in calls if call.shared.is_denoiser)
