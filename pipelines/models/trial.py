"""Drawings that the check at load makes to learn something of a model, and the calls that are seen while they are made.

Knows the engine from outside; knows neither what is proved with them nor what is kept of it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from pipelines.engine import collate
from pipelines.engine.call import Call
from pipelines.engine.engine import Engine
from pipelines.engine.shared import SharedModule, Stage
from pipelines.engine.sink import KeepingSink
from pipelines.errors import Cancelled, DrawError, LoadRefused
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing
from pipelines.spec import ImageSpec, Pixels, Task

STEPS_A, STEPS_B = 2, 3  # different, so that the two are at different timesteps when they share a step
PROMPT_A, PROMPT_B = "a red apple", "two dogs on a beach"
PROMPT_LONG = " ".join(["a long row of old red boats"] * 7)  # of tokens, more than any multiple that prompts pad to
# How far a picture may be from itself drawn alone, against how far the two pictures are from each other. Measured
# on a dozen families: 1e-6 in float32; half precision rounds at every layer.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
_NOT_TOLD = frozenset({"sample", "hidden_states", "x", "timestep", "timesteps", "t"})  # of a denoiser's arguments


class Trial:
    """Drawings of one size with one model."""

    def __init__(self, model: LoadedModel, width: int, height: int) -> None:
        self.model = model
        self.width, self.height = width, height

    def drawing(self, prompt: str, seed: int, *, n: int = 1, steps: int = STEPS_A) -> Drawing:
        """A request of the model's first task, with a grey source and mask where it needs them."""
        model, tasks = self.model, self.model.family.tasks
        spec = ImageSpec(
            model=model.plan.key,
            prompt=prompt,
            width=self.width,
            height=self.height,
            draw_width=self.width,
            draw_height=self.height,
            steps=steps,
            guidance=model.family.guidance,
            sources=() if Task.TEXT_TO_IMAGE in tasks else (Pixels.grey(self.width, self.height, "RGB"),),
            mask=Pixels.grey(self.width, self.height, "L") if tasks == {Task.INPAINTING} else None,
        )
        return Drawing(f"check-{seed}", model.plan, spec, tuple(range(seed, seed + n)))

    def draw(self, drawings: Sequence[Drawing], calls: list[Call]) -> list[torch.Tensor]:
        """Their pictures, drawn all at once; ``calls`` gains the calls of their runs. Raises DrawError."""
        sink = KeepingSink()
        engine = Engine(sink, observe=calls.append)
        self._run(engine, sink, list(drawings))
        return [sink.pictures[drawing.job_id] for drawing in drawings]

    def begin(self, drawing: Drawing, *, forwards: int) -> list[Call]:
        """The calls of a run that is cancelled as soon as its denoiser was called so many times. The last is what it
        waits for then, and has no output. Raises DrawError."""
        calls: list[Call] = []

        def observe(call: Call) -> None:
            done = sum(each.shared.stage is Stage.DENOISE for each in calls)
            if done == forwards and (done or call.shared.stage not in (Stage.ENCODE, Stage.CONTROL)):
                engine.cancel(drawing.job_id)  # a run is dismissed where it waits: this call is not run
            calls.append(call)

        sink = KeepingSink()
        engine = Engine(sink, observe=observe)
        self._run(engine, sink, [drawing])
        return calls

    def begin_together(self, one: Drawing, other: Drawing, after: int) -> tuple[Call, Call] | None:
        """The calls of two runs that share one forward: ``one`` makes it after so many calls of the denoiser, and for
        ``other`` it is the first. None where the calls are not alike, and so never share one. Raises DrawError."""
        pair: dict[str, Call] = {}
        begun = [one] if after else [one, other]
        seen = 0

        def observe(call: Call) -> None:
            nonlocal seen
            if len(pair) == 2:  # and what they waited for is done
                cancel()
            elif call.shared.stage is Stage.DENOISE:
                seen += call.drawing is one
                if call.drawing is one and seen <= after:
                    if seen == after:  # the other will wait for its first call when this one waits for its next
                        begun.append(other)
                        engine.submit(self.model, other, done=left.release)
                    return
                pair.setdefault(call.drawing.job_id, call)
                if len(pair) == 2 and len({each.key for each in pair.values()}) == 2:
                    cancel()

        def cancel() -> None:
            engine.cancel(one.job_id)
            engine.cancel(other.job_id)

        sink, left = KeepingSink(), threading.Semaphore(0)
        engine = Engine(sink, observe=observe, encodes_first=True)  # else one would go on while the other is set up
        self._run(engine, sink, begun, left)
        if len(pair) < 2:
            raise DrawError("a run ended before it came to share a step")
        first, second = pair[one.job_id], pair[other.job_id]
        return (first, second) if first.key == second.key else None

    def _run(
        self, engine: Engine, sink: KeepingSink, drawings: list[Drawing], left: threading.Semaphore | None = None
    ) -> None:
        """Return when all have ended, those too that come to ``drawings`` meanwhile. Raises DrawError."""
        left = left or threading.Semaphore(0)
        engine.submit(self.model, *drawings, done=left.release)
        ended = 0
        while ended < len(drawings):
            left.acquire()
            ended += 1
        engine.close()
        for error in sink.errors.values():
            if not isinstance(error, Cancelled):
                raise error
        if engine.counts["retried_alone"]:
            raise DrawError("a shared step had to be tried again alone")


def first_calls(calls: Sequence[Call]) -> dict[SharedModule, Call]:
    """The first call of each module."""
    first: dict[SharedModule, Call] = {}
    for call in calls:
        first.setdefault(call.shared, call)
    return first


def first_step(calls: Sequence[Call]) -> Call:
    """The first call of a denoiser."""
    return next(call for call in calls if call.shared.stage is Stage.DENOISE)


def allowed(model: LoadedModel) -> float:
    """How far apart two forwards may be that should be equal, as a share of how far two others are."""
    dtype = next((p.dtype for t in model.shared_modules.values() if t.is_denoiser for p in t.module.parameters()), None)
    return _TOLERANCE.get(dtype or torch.float32, 1e-3)


def refuse_deaf(model: LoadedModel, one: dict[SharedModule, Call], other: dict[SharedModule, Call]) -> None:
    """Raise LoadRefused where the denoiser is told the same for two prompts: each would give the same picture, but
    for its seed. Compared exactly, so that no model is refused for prompts of little effect; what has no text encoder
    is told nothing anyway."""
    if not any(name.startswith("text_encoder") for name in model.components):
        return
    heard = [(told(one[shared]), told(other[shared])) for shared in one.keys() & other.keys() if shared.is_denoiser]
    if heard and all(left and _is_same(left, right) for left, right in heard):
        raise LoadRefused(
            "prompts have no effect: the text encoder makes the same of two of them; its weights or its"
            " tokenizer are not what they should be"
        )


def told(call: Call) -> dict[str, object]:
    """The arguments of a denoiser's call that come from the prompt, and some that are the same in all."""
    return {name: value for name, value in call.arguments.items() if name not in _NOT_TOLD and "residual" not in name}


def _is_same(one: object, other: object) -> bool:
    """Are two arguments equal in every number? What is neither tensor nor number nor a collection of them counts as
    equal."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_is_same(left, right) for left, right in zip(one, other, strict=True))
    if isinstance(one, bool | int | float | str | None) and isinstance(other, bool | int | float | str | None):
        return one == other
    return type(one) is type(other)


def distance(one: Any, other: Any) -> float:
    """The mean difference of the numbers of two outputs, as far as both have them: prompts may differ in length."""
    total, count = 0.0, 0
    for left, right in zip(collate.tensors(one), collate.tensors(other), strict=False):
        both = min(left.numel(), right.numel())
        total += float((left.flatten()[:both].float() - right.flatten()[:both].float()).abs().sum())
        count += both
    return total / max(1, count)
