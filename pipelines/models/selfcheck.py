"""Proof at load: do this model's runs give together what they give alone?

Knows the engine from outside. Two short runs are drawn alone and together and compared; the same call at one and
at two pictures tells which arguments are rows; steps of growing batches tell what a row costs. A model that does
not pass is served all the same, one run at a time.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence

import msgspec
import torch

from pipelines.engine import collate
from pipelines.engine.call import Call
from pipelines.engine.cost import BUCKETS, MIN_ROWS, StepCost, fit_cost
from pipelines.engine.engine import Engine
from pipelines.engine.shared import SharedModule
from pipelines.engine.sink import KeepingSink
from pipelines.errors import DrawError, LoadRefused, is_out_of_memory
from pipelines.models.loader import LoadedModel
from pipelines.models.verdict import Verdict
from pipelines.plan import Drawing
from pipelines.spec import Adapter, ImageSpec, Pixels, Task

log = logging.getLogger("darkroom.selfcheck")

_STEPS_A, _STEPS_B = 2, 3  # different, so that the two are at different timesteps when they share a step
# How far a picture may be from itself drawn alone, against how far the two pictures are from each other. Measured
# on a dozen families: 1e-6 in float32; half precision rounds at every layer.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
_NOT_TOLD = frozenset({"sample", "hidden_states", "x", "timestep", "timesteps", "t"})  # of a denoiser's arguments
_COST_BUDGET_S = 2.5  # for measuring what a row costs
_COST_COPIES = (1, 2, 4, 8, 16)
_MIN_COPIES = 4  # sizes, for a cost
_COST_ROUNDS = 4
_ROOM_SHARE = 0.8  # of the free device memory, for what is tried: kernels want workspaces, and others draw meanwhile


def check(model: LoadedModel, known: Verdict | None = None) -> Verdict:
    """Decide whether ``model`` may share steps, and measure its step cost; the model keeps both. Raises DrawError
    if it cannot draw at all.

    What an earlier check of the same plan on the same device found is taken as ``known``: one step then shows that the
    model draws numbers.
    """
    started = time.monotonic()
    calls: list[Call] = []
    believed = known is not None and known.fits(model) and _still_draws(model, known, calls)
    if not believed:
        calls.clear()
        model.shares, model.reason = True, ""
        _find_out(model, calls)
    first = _first_calls(calls)
    for shared, call in first.items():
        if shared.is_denoiser and model.shares:
            if not believed:
                _measure(shared, call)
            if shared.compiled:
                _warm(shared, call)
    log.info(
        "model checked",
        extra={
            "model": model.plan.key,
            "shared": model.shares,
            "reason": model.reason,
            "known": believed,
            "most_rows": {t.name: t.most_rows(c.area) for t, c in first.items() if t.is_denoiser},
            "seconds": round(time.monotonic() - started, 2),
        },
    )
    return Verdict.of(model)


def _still_draws(model: LoadedModel, known: Verdict, calls: list[Call]) -> bool:
    """Give the model what is known of it, and see whether it draws a picture of numbers."""
    known.give(model)
    steps = 1 if Task.TEXT_TO_IMAGE in model.family.tasks else _STEPS_A  # of one step an edit makes none
    try:
        (picture,) = _draw(model, [_drawing(model, "a red apple", 1, steps=steps)], calls)
    except DrawError as error:
        log.warning("checked anew", extra={"model": model.plan.key, "reason": str(error)})
        return False
    return bool(torch.isfinite(picture).all())


def _find_out(model: LoadedModel, calls: list[Call]) -> None:
    """Draw alone and together, and decide. ``calls`` are those of the first run in the end."""
    drawing_a, drawing_b = _drawing(model, "a red apple", 1), _drawing(model, "two dogs on a beach", 2, steps=_STEPS_B)
    alone_a = _draw(model, [drawing_a], calls)[0]
    first = _first_calls(calls)
    for shared, call in first.items():
        if not shared.is_denoiser:  # before two are decoded: of large pictures, two at once may be too many
            shared.pixels = math.prod(call.output[0].shape[-2:]) / call.area
    doubled: list[Call] = []
    _draw(model, [_drawing(model, "a red apple", 1, n=2)], doubled)
    for shared, call in _first_calls(doubled).items():
        shared.parts.update(collate.trace_parts(first[shared].arguments, call.arguments))
        shared.output_parts.update(collate.trace_parts(first[shared].output, call.output))
    of_b: list[Call] = []
    alone_b = _draw(model, [drawing_b], of_b)[0]
    _refuse_deaf(model, first, _first_calls(of_b))
    stateful = [shared.name for shared in model.shared_modules.values() if shared.keeps_state()]
    if stateful:
        _unshare(model, f"the {stateful[0]} has a step cache")
    else:
        try:
            together_a, together_b = _draw(model, [drawing_a, drawing_b], [])
            _compare(model, (alone_a, alone_b), (together_a, together_b))
        except DrawError as error:
            _unshare(model, f"together fails: {error}")
    if model.shares and model.adapters:
        _check_adapters(model, drawing_a, alone_a, alone_b)


def _check_adapters(model: LoadedModel, drawing: Drawing, base: torch.Tensor, other: torch.Tensor) -> None:
    """May runs with different adapters share steps? They must give together what they give alone, up to the rounding
    that any batch has, and nearer to that than to the picture without the adapter."""
    name = model.adapters.names[0]
    spec = msgspec.structs.replace(drawing.spec, adapters=(Adapter(name, 1.0),))
    adapted = msgspec.structs.replace(drawing, job_id="check-adapter", spec=spec)
    try:
        alone = _draw(model, [adapted], [])[0]
        together = _draw(model, [drawing, adapted], [])
        off = max(float((a - b).abs().mean()) for a, b in zip((base, alone), together, strict=True))
        allowed = _allowed(model) * float((base - other).abs().mean())
        effect = float((base - alone).abs().mean())
        model.adapters.mixed = off <= allowed and off <= effect / 2
        reason = f"together differs from alone by {off:.2g}, of {effect:.2g} that {name} changes"
    except DrawError as error:
        model.adapters.mixed, reason = False, str(error)
    model.adapters.rest()
    if not model.adapters.mixed:
        log.warning("adapters do not share steps", extra={"model": model.plan.key, "reason": reason})


def _drawing(model: LoadedModel, prompt: str, seed: int, *, n: int = 1, steps: int = _STEPS_A) -> Drawing:
    width, height = model.plan.native_width, model.plan.native_height
    tasks = model.family.tasks
    spec = ImageSpec(
        model=model.plan.key,
        prompt=prompt,
        width=width,
        height=height,
        draw_width=width,
        draw_height=height,
        steps=steps,
        guidance=model.family.guidance,
        sources=() if Task.TEXT_TO_IMAGE in tasks else (_grey(width, height, "RGB"),),
        mask=_grey(width, height, "L") if tasks == {Task.INPAINTING} else None,
    )
    return Drawing(f"check-{seed}", model.plan, spec, tuple(range(seed, seed + n)))


def _grey(width: int, height: int, mode: str) -> Pixels:
    return Pixels(width, height, mode, bytes([160]) * (width * height * len(mode)))


def _draw(model: LoadedModel, drawings: Sequence[Drawing], calls: list[Call]) -> list[torch.Tensor]:
    sink = KeepingSink()
    engine = Engine(sink, observe=calls.append)
    left = threading.Semaphore(0)
    engine.submit(model, *drawings, done=left.release)
    for _ in drawings:
        left.acquire()
    engine.close()
    for error in sink.errors.values():
        raise error
    if engine.counts["retried_alone"]:
        raise DrawError("a shared step had to be tried again alone")
    return [sink.pictures[drawing.job_id] for drawing in drawings]


def _refuse_deaf(model: LoadedModel, one: dict[SharedModule, Call], other: dict[SharedModule, Call]) -> None:
    """Raise LoadRefused where the denoiser is told the same for two prompts: each would give the same picture, but
    for its seed. Compared exactly, so that no model is refused for prompts of little effect; what has no text encoder
    is told nothing anyway."""
    if not any(name.startswith("text_encoder") for name in model.components):
        return
    told = [(_told(one[shared]), _told(other[shared])) for shared in one.keys() & other.keys() if shared.is_denoiser]
    if told and all(left and _is_same(left, right) for left, right in told):
        raise LoadRefused(
            "prompts have no effect: the text encoder makes the same of two of them; its weights or its"
            " tokenizer are not what they should be"
        )


def _told(call: Call) -> dict[str, object]:
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


def _first_calls(calls: Sequence[Call]) -> dict[SharedModule, Call]:
    first: dict[SharedModule, Call] = {}
    for call in calls:
        first.setdefault(call.shared, call)
    return first


def _compare(
    model: LoadedModel, alone: tuple[torch.Tensor, torch.Tensor], together: tuple[torch.Tensor, torch.Tensor]
) -> None:
    apart = float((alone[0] - alone[1]).abs().mean())
    off = max(float((a - b).abs().mean()) for a, b in zip(alone, together, strict=True))
    allowed = _allowed(model)
    # Not a number, or two prompts that look alike, prove nothing: such a model runs unshared.
    if not off <= allowed * apart:
        _unshare(model, f"together differs from alone by {off:.2g}, of {apart:.2g} between two pictures")


def _allowed(model: LoadedModel) -> float:
    dtype = next((p.dtype for t in model.shared_modules.values() if t.is_denoiser for p in t.module.parameters()), None)
    return _TOLERANCE.get(dtype or torch.float32, 1e-3)


def _unshare(model: LoadedModel, reason: str) -> None:
    model.shares, model.reason = False, reason


def _measure(shared: SharedModule, call: Call) -> None:
    """Time the call with its rows once, twice, four times …, in rounds, until the budget is spent.

    The best of several rounds counts, and rounds go through all sizes: a busy machine then slows every size alike.
    Where the budget is spent before there are sizes enough for a line, all that the largest took is taken for its
    rows': so slow a step has no fixed cost to speak of. On CUDA no size is tried that the device has no room for:
    another model may be drawing, and would find none.
    """
    best: dict[int, float] = {}
    room = _Room(shared)
    fitting = list(_COST_COPIES)
    spent_s = 0.0
    for copies in _COST_COPIES * _COST_ROUNDS:
        if spent_s > _COST_BUDGET_S:
            break
        if copies > fitting[-1]:
            continue
        rows = [call.rows] * copies
        if not room.allows(sum(rows)):
            fitting = [fewer for fewer in fitting if fewer < copies] or [0]
            continue
        try:
            arguments = collate.merge([call.arguments] * copies, rows, shared.parts)
            if sum(rows) not in best and _is_on_cuda(shared):
                with room.watched(sum(rows)):
                    _seconds(shared, arguments)  # a shape's first forward chooses kernels, and compiles: no step's cost
            seconds = _seconds(shared, arguments)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            fitting = [fewer for fewer in fitting if fewer < copies] or [0]
            torch.cuda.empty_cache()
            continue
        best[sum(rows)] = min(seconds, best.get(sum(rows), seconds))
        spent_s += seconds
    on_cuda = _is_on_cuda(shared)  # and so waited for: a busy host does not blur the figures
    if len(best) >= _MIN_COPIES:
        shared.cost = fit_cost(sorted(best.items()), call.area, request_rows=call.rows if on_cuda else None)
    elif spent_s > _COST_BUDGET_S or (on_cuda and best):
        most = max(best)
        shared.cost = StepCost(0.0, best[most] / most, call.area, min_rows=call.rows if on_cuda else MIN_ROWS)
    if fitting[-1] < _COST_COPIES[-1]:
        shared.learned_rows[call.area] = max(1, call.rows * fitting[-1])


class _Room:
    """The device memory that a forward may take, told from what one with fewer rows took. A CPU always has room."""

    def __init__(self, shared: SharedModule) -> None:
        self._device = next(shared.module.parameters()).device if _is_on_cuda(shared) else None
        self._row_bytes = 0.0

    def allows(self, rows: int) -> bool:
        if self._device is None:
            return True
        free, _ = torch.cuda.mem_get_info(self._device)
        cached = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return rows * self._row_bytes <= _ROOM_SHARE * (free + cached)

    @contextlib.contextmanager
    def watched(self, rows: int) -> Iterator[None]:
        """See what a forward of so many rows takes."""
        if self._device is None:
            yield
            return
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        yield
        self._row_bytes = (torch.cuda.max_memory_allocated(self._device) - before) / rows


def _warm(shared: SharedModule, call: Call) -> None:
    """Run a compiled module once with each number of rows that it will be called with: it compiles before anybody
    waits for it."""
    row = collate.take_rows(call.arguments, 0, 1, call.rows, shared.parts)
    for rows in (size for size in BUCKETS if size <= shared.most_rows(call.area)):
        try:
            _seconds(shared, collate.merge([row] * rows, [1] * rows, shared.parts))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            shared.learned_rows[call.area] = max(1, rows // 2)
            torch.cuda.empty_cache()
            break


def _seconds(shared: SharedModule, arguments: dict[str, object]) -> float:
    _synchronise(shared)
    started = time.perf_counter()
    with torch.no_grad():
        shared.function(**arguments)
    _synchronise(shared)
    return time.perf_counter() - started


def _synchronise(shared: SharedModule) -> None:
    if _is_on_cuda(shared):
        torch.cuda.synchronize(next(shared.module.parameters()).device)


def _is_on_cuda(shared: SharedModule) -> bool:
    parameter = next(shared.module.parameters(), None)
    return parameter is not None and parameter.is_cuda
