"""What sharing steps and leaving steps out cost on this device: the same pictures drawn in several ways, and compared.

Knows a loaded model and the engine, which it drives as a worker does; knows neither models.yaml nor who reads what it
finds. Nothing is timed.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import NamedTuple, Protocol

import msgspec
import torch

from pipelines.engine.call import Call
from pipelines.engine.embeddings import EmbeddingCache
from pipelines.engine.engine import Engine
from pipelines.engine.shared import Stage
from pipelines.engine.sink import KeepingSink
from pipelines.errors import BadPicture
from pipelines.facts import spacing
from pipelines.facts.comparison import (
    CONVERGED,
    MAX_CONVERGED_STEPS,
    Company,
    Comparison,
    Difference,
    Found,
    LeftOut,
    Likeness,
    Shared,
)
from pipelines.models.loader import LoadedModel
from pipelines.pictures import likeness
from pipelines.plan import Drawing
from pipelines.spec import Adapter, ImageSpec, Pixels, Task

_SEED, _PASSING_SEED = 1000, 5000  # of the first prompt's picture, and of the first that only keeps others company
_PASSING_STEPS = (0.75, 0.5, 0.25)  # of the compared pictures' steps, in turn: the company changes as they leave


class Progress(Protocol):
    """Who is told how far a comparison is."""

    def begun(self, name: str, steps: int) -> None:
        """A part has begun that draws so many steps, those that are left out included."""

    def stepped(self) -> None:
        """One of them is done. Called on the engine's thread."""


def compare(model: LoadedModel, comparison: Comparison, progress: Progress, *, device: str, dtype: str) -> Found:
    """Draw and compare. The model has passed its check, and shares steps. Raises DrawError where a picture cannot be
    drawn. ``device`` and ``dtype`` are for who reads it."""
    engine = _CountedEngine(model, progress)
    try:
        with torch.inference_mode():
            found = _Comparing(engine, comparison, progress).found()
    finally:
        engine.close()
    return msgspec.structs.replace(found, device=device, dtype=dtype)


class _Drawn(NamedTuple):
    """What came of groups of drawings."""

    pictures: list[torch.Tensor]  # of each group (B, 3, H, W), 0..1
    calls: Counter[str]  # of the denoiser, by job
    rows: float  # a forward of the denoiser


class _Sink(KeepingSink):
    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def progress(self, drawing: Drawing, done: int, of: int) -> None:
        self._progress.stepped()


class _CountedEngine:
    """An engine that draws for one model, and counts what its denoisers are asked."""

    def __init__(self, model: LoadedModel, progress: Progress) -> None:
        self.model = model
        self._calls: Counter[str] = Counter()
        self._sink = _Sink(progress)
        self._engine = Engine(self._sink, embeddings=EmbeddingCache(), observe=self._count)
        self._denoisers = {each.name for each in model.shared_modules.values() if each.stage is Stage.DENOISE}

    def close(self) -> None:
        """Finish what was begun, and end the thread."""
        self._engine.close()

    def count(self, name: str) -> int:
        """One of the engine's counters."""
        return self._engine.counts[name]

    def alone(self, drawings: Sequence[Drawing]) -> _Drawn:
        """Each drawn when the one before has ended. Raises DrawError."""
        return self._draw([[drawing] for drawing in drawings], [drawings])

    def together(self, *groups: Sequence[Drawing]) -> _Drawn:
        """All drawn at once. The engine admits a few a step, in their order: one of each group in turn. Raises
        DrawError."""
        mixed = chain.from_iterable(zip_longest(*groups))
        return self._draw([[drawing for drawing in mixed if drawing is not None]], groups)

    def _draw(self, rounds: Sequence[Sequence[Drawing]], groups: Sequence[Sequence[Drawing]]) -> _Drawn:
        self._calls.clear()
        rows, forwards = self._denoised("rows"), self._denoised("forwards")
        ended = threading.Semaphore(0)
        for drawings in rounds:
            for drawing in drawings:
                self.model.prepare(drawing.spec.task)
            self._engine.submit(self.model, *drawings, done=ended.release)
            for _ in drawings:
                ended.acquire()
            for error in self._sink.errors.values():
                raise error
        pictures = [torch.cat([self._take(drawing) for drawing in group]) for group in groups]
        made = max(1, self._denoised("forwards") - forwards)
        return _Drawn(pictures, self._calls.copy(), (self._denoised("rows") - rows) / made)

    def _take(self, drawing: Drawing) -> torch.Tensor:
        picture = self._sink.pictures.pop(drawing.job_id)
        if not torch.isfinite(picture).all() or not picture.any():
            raise BadPicture("a picture has NaN or infinite pixels, or is black all over")
        return picture

    def _denoised(self, what: str) -> int:
        return sum(self._engine.counts[f"{name}_{what}"] for name in self._denoisers)

    def _count(self, call: Call) -> None:
        if call.shared.stage is Stage.DENOISE:
            self._calls[call.drawing.job_id] += 1


class _Comparing:
    """One comparison, part by part."""

    def __init__(self, engine: _CountedEngine, comparison: Comparison, progress: Progress) -> None:
        self._engine = engine
        self._model = engine.model
        self._comparison = comparison
        self._progress = progress
        self._steps = comparison.steps
        self._plain = self._drawings("plain", comparison.specs)
        self._shared: list[Shared] = []

    def found(self) -> Found:
        self._begin("each alone", self._plain)
        alone = self._engine.alone(self._plain)
        pictures, loras = alone.pictures[0], self._model.adapters
        self._in_company(pictures)
        wanted = self._comparison.adapters
        used = tuple(adapter for adapter in wanted if adapter.name in loras.names)[: len(self._plain)]
        if used:
            self._with_adapters(pictures, used)
        left_out = self._without_steps(pictures) if self._comparison.step_cache else None
        return Found(
            device="",
            dtype="",
            rows_alone=alone.rows,
            shared=tuple(self._shared),
            left_out=left_out,
            adapters=used,
            broken={a.name: loras.broken.get(a.name, "not loaded") for a in wanted if a.name not in loras.names},
            mixed=loras.mixed,
            retried=self._engine.count("retried_alone"),
            out_of_memory=self._engine.count("out_of_memory"),
        )

    def _in_company(self, alone: torch.Tensor) -> None:
        """Beside others of fewer steps, whose pictures are of no interest."""
        fewest = min(2, self._steps)  # some schedulers take no single step
        shares = (_PASSING_STEPS[n % len(_PASSING_STEPS)] for n in range(len(self._plain)))
        counts = [max(fewest, round(self._steps * share)) for share in shares]
        passing = self._drawings("passing", self._of_steps(counts), seed=_PASSING_SEED)
        self._begin("in company", self._plain, passing)
        self._note(Company.PLAIN, alone, self._engine.together(self._plain, passing))

    def _with_adapters(self, alone: torch.Tensor, used: Sequence[Adapter]) -> None:
        specs = [
            msgspec.structs.replace(spec, adapters=(used[n % len(used)],))
            for n, spec in enumerate(self._comparison.specs)
        ]
        adapted = self._drawings("adapted", specs)
        self._begin("LoRAs, each alone", adapted)
        adapted_alone = self._engine.alone(adapted).pictures[0]
        self._begin("LoRAs, in company", adapted, self._plain)
        drawn = self._engine.together(adapted, self._plain)
        self._note(Company.WITHOUT, adapted_alone, drawn)
        self._note(Company.ADAPTED, alone, drawn, group=1)

    def _without_steps(self, full: torch.Tensor) -> LeftOut | None:
        """The step cache beside runs without, and as many plain steps; None where it left out no step."""
        strength = self._comparison.step_cache
        specs = [msgspec.structs.replace(spec, step_cache=strength) for spec in self._comparison.specs]
        cached = self._drawings("cached", specs)
        self._begin("step cache", self._plain, cached)
        drawn = self._engine.together(self._plain, cached)
        self._note(Company.CACHED, full, drawn)
        computed = [
            math.ceil(self._steps * drawn.calls[some.job_id] / drawn.calls[all_.job_id])
            for some, all_ in zip(cached, self._plain, strict=True)
        ]
        if min(computed) == self._steps:
            return None
        fewer = self._drawings("fewer", self._of_steps(computed))
        self._begin("as many plain steps", fewer)
        plain = self._engine.together(fewer).pictures[0]
        most = min(CONVERGED * self._steps, MAX_CONVERGED_STEPS)
        longest = self._drawings("converged", self._of_steps([most] * len(fewer)))
        self._begin("converged", longest)
        converged = self._engine.together(longest).pictures[0]
        pictures = drawn.pictures[1]
        return LeftOut(
            computed=tuple(computed),
            cached=_difference(pictures, full),
            plain=_difference(plain, full),
            cached_to_full=_likeness(pictures, full),
            plain_to_full=_likeness(plain, full),
            converged_steps=most,
            full=_likeness(full, converged),
            cached_near=_likeness(pictures, converged),
            plain_near=_likeness(plain, converged),
        )

    def _begin(self, name: str, *groups: Sequence[Drawing]) -> None:
        self._progress.begun(name, sum(drawing.spec.steps for group in groups for drawing in group))

    def _note(self, company: Company, alone: torch.Tensor, drawn: _Drawn, group: int = 0) -> None:
        self._shared.append(Shared(company, _difference(drawn.pictures[group], alone), drawn.rows))

    def _of_steps(self, counts: Sequence[int]) -> list[ImageSpec]:
        """The prompts' specs with other numbers of steps."""
        return [
            msgspec.structs.replace(
                spec, steps=steps, spacing=spec.spacing if steps >= spacing.MIN_DENSE_STEPS else "default"
            )
            for spec, steps in zip(self._comparison.specs, counts, strict=True)
        ]

    def _drawings(self, way: str, specs: Sequence[ImageSpec], seed: int = _SEED) -> list[Drawing]:
        plan = self._comparison.plan
        return [Drawing(f"{way}-{n}", plan, self._with_source(spec), (seed + n,)) for n, spec in enumerate(specs)]

    def _with_source(self, spec: ImageSpec) -> ImageSpec:
        """A grey source, and a mask, where the model needs them; all of its steps are drawn."""
        tasks, (width, height) = self._model.family.tasks, (spec.draw_width, spec.draw_height)
        if Task.TEXT_TO_IMAGE in tasks:
            return spec
        mask = Pixels.grey(width, height, "L") if tasks == {Task.INPAINTING} else None
        return msgspec.structs.replace(spec, sources=(Pixels.grey(width, height, "RGB"),), mask=mask, strength=1.0)


def _difference(pictures: torch.Tensor, others: torch.Tensor) -> Difference:
    return Difference(*likeness.levels_apart(pictures, others))


def _likeness(pictures: torch.Tensor, others: torch.Tensor) -> Likeness:
    return Likeness(tuple(likeness.psnr(pictures, others)), tuple(likeness.ssim(pictures, others)))
