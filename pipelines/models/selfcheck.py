"""Proof at load: do this model's runs give together what they give alone?

Knows the engine from outside. Two short runs are drawn alone and together and compared; the same call at one and
at two pictures tells which arguments are rows. What these steps took is a first guess at what steps cost. A model that
does not pass is served all the same, one run at a time. For a large model on a slow device shortcheck.py does the same
with less.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import torch

from pipelines.engine import collate
from pipelines.engine.call import Call
from pipelines.engine.cost import BUCKETS
from pipelines.engine.shared import SharedModule, Stage
from pipelines.errors import DrawError, is_out_of_memory
from pipelines.models import controlcheck, encodercheck
from pipelines.models.loader import LoadedModel
from pipelines.models.shortcheck import ShortCheck, are_mixed, is_on_cuda, note_pixels, synchronise, trace
from pipelines.models.trial import (
    PROMPT_A,
    PROMPT_B,
    PROMPT_LONG,
    STEPS_A,
    STEPS_B,
    Trial,
    allowed,
    first_calls,
    refuse_deaf,
)
from pipelines.models.verdict import Verdict
from pipelines.plan import Drawing
from pipelines.spec import Adapter, Task

log = logging.getLogger("darkroom.selfcheck")


def check(
    model: LoadedModel,
    known: Verdict | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Verdict:
    """Decide whether ``model`` may share steps, and guess what a step costs; the model keeps both. Raises DrawError
    if it cannot draw at all.

    What an earlier check of the same plan on the same device found, and what was learnt of its steps since, is taken as
    ``known``: one step then shows that the model draws numbers, and that it hears two prompts. ``alive`` is told of
    every forward and every decode.
    """
    started = time.monotonic()
    with _counted(model, alive), _kernel_by_kernel(model):
        native = Trial(model, model.plan.native_width, model.plan.native_height)
        short = ShortCheck.of(native)
        calls: list[Call] = []
        trial = short.trial if short is not None and known is not None and known.small else native
        believed = known is not None and known.fits(model) and _still_draws(trial, known, calls)
        if not believed:
            trial, calls = _find_out(native, short)
        first = first_calls(calls)
        for shared, call in first.items():
            if shared.stage is not Stage.DECODE:
                _guess_costs(shared, call.rows)
        rows = max((call.rows for shared, call in first.items() if shared.is_denoiser), default=1)
        for shared in model.shared_modules.values():
            if shared.stage is Stage.CONTROL and shared not in first:
                _guess_costs(shared, rows)
        if believed and known is not None:
            known.give(model)  # anew: the first forward of a process is slower than any other
        denoisers = [shared for shared in first if shared.is_denoiser and model.shares]
        _warm_all([shared for shared in denoisers if shared.compiled], native, timed=not believed)
    log.info(
        "model checked",
        extra={
            "model": model.plan.key,
            "shared": model.shares,
            "reason": model.reason,
            "known": believed,
            "size": f"{trial.width}x{trial.height}",
            "most_rows": {t.name: t.most_rows(c.area) for t, c in first.items() if t.is_denoiser},
            "seconds": round(time.monotonic() - started, 2),
        },
    )
    return Verdict.of(model, small=trial is not native)


@contextlib.contextmanager
def _counted(model: LoadedModel, alive: Callable[[], None]) -> Iterator[None]:
    """Say after each forward and each decode in the block that there was one."""

    def told(real: Callable[..., Any]) -> Callable[..., Any]:
        def function(*args: Any, **kwargs: Any) -> Any:
            output = real(*args, **kwargs)
            alive()
            return output

        return function

    before = {shared: shared.function for shared in model.shared_modules.values()}
    for shared, real in before.items():
        shared.function = told(real)
    try:
        yield
    finally:
        for shared, real in before.items():
            shared.function = real


@contextlib.contextmanager
def _kernel_by_kernel(model: LoadedModel) -> Iterator[None]:
    """Have no step in the block be a CUDA graph: the model is checked, on a thread that draws for nobody."""
    graphs = [shared.graphs for shared in model.shared_modules.values() if shared.graphs is not None]
    for each in graphs:
        each.is_paused = True
    try:
        yield
    finally:
        for each in graphs:
            each.is_paused = False


def _forget(model: LoadedModel) -> None:
    model.shares, model.reason = True, ""
    for shared in model.shared_modules.values():
        shared.apart = False
        shared.fills = shared.takes_residuals
        shared.parts.clear()
        shared.output_parts.clear()


def _still_draws(trial: Trial, known: Verdict, calls: list[Call]) -> bool:
    """Give the model what is known of it, and see whether it draws a picture of numbers. Raises LoadRefused where it
    hears no prompt."""
    model = trial.model
    known.give(model)
    steps = 1 if Task.TEXT_TO_IMAGE in model.family.tasks else STEPS_A  # of one step an edit makes none
    try:
        (picture,) = trial.draw([trial.drawing(PROMPT_A, 1, steps=steps)], calls)
        other = trial.begin(trial.drawing(PROMPT_B, 1, steps=steps), forwards=0)
    except DrawError as error:
        log.warning("checked anew", extra={"model": model.plan.key, "reason": str(error)})
        return False
    refuse_deaf(model, first_calls(calls), first_calls(other))
    return bool(torch.isfinite(picture).all())


def _find_out(native: Trial, short: ShortCheck | None) -> tuple[Trial, list[Call]]:
    """Decide, with the smaller picture where the device is slow. Which it was, and the calls of its first run."""
    _forget(native.model)
    if short is not None and short.finds_slow():
        return short.trial, short.prove()
    _forget(native.model)
    return native, _compare_pictures(native)


def _compare_pictures(trial: Trial) -> list[Call]:
    """Draw alone and together, and decide. The calls of the first run."""
    model, calls = trial.model, list[Call]()
    drawing_a, drawing_b = trial.drawing(PROMPT_A, 1), trial.drawing(PROMPT_B, 2, steps=STEPS_B)
    alone_a = trial.draw([drawing_a], calls)[0]
    note_pixels(calls)
    doubled: list[Call] = []
    trial.draw([trial.drawing(PROMPT_A, 1, n=2)], doubled)
    trace(calls, doubled)
    of_b: list[Call] = []
    alone_b = trial.draw([drawing_b], of_b)[0]
    refuse_deaf(model, first_calls(calls), first_calls(of_b))
    stateful = [shared.name for shared in model.shared_modules.values() if shared.keeps_state()]
    if stateful:
        _unshare(model, f"the {stateful[0]} has a step cache")
    else:
        try:
            together_a, together_b = _draw_together(trial, (drawing_a, drawing_b), calls, of_b)
            _compare(model, (alone_a, alone_b), (together_a, together_b))
        except DrawError as error:
            _unshare(model, f"together fails: {error}")
    if model.shares and model.adapters:
        _check_adapters(trial, drawing_a, alone_a, alone_b)
    controlcheck.prove(trial, calls, of_b)
    return calls


def _draw_together(
    trial: Trial, drawings: tuple[Drawing, Drawing], one: list[Call], other: list[Call]
) -> list[torch.Tensor]:
    """Both drawings' pictures, drawn at once; where that fails, or prompts are not what they were alone, with text
    encoders that encode them one by one. Raises DrawError."""
    together: list[Call] = []
    try:
        pictures = trial.draw(drawings, together)
        if encodercheck.prove(trial.model, one, other, together):
            return pictures
    except DrawError:
        if not encodercheck.set_apart(trial.model):
            raise
    return trial.draw(drawings, [])


def _check_adapters(trial: Trial, drawing: Drawing, base: torch.Tensor, other: torch.Tensor) -> None:
    """May runs with different adapters share steps? They must give together what they give alone."""
    model = trial.model
    name = model.adapters.names[0]
    spec = msgspec.structs.replace(drawing.spec, adapters=(Adapter(name, 1.0),))
    adapted = msgspec.structs.replace(drawing, job_id="check-adapter", spec=spec)
    try:
        alone = trial.draw([adapted], [])[0]
        together = trial.draw([drawing, adapted], [])
        off = max(float((a - b).abs().mean()) for a, b in zip((base, alone), together, strict=True))
        effect = float((base - alone).abs().mean())
        bound = allowed(model) * float((base - other).abs().mean())
        model.adapters.mixed = are_mixed(off, effect=effect, allowed=bound)
        reason = f"together differs from alone by {off:.2g}, of {effect:.2g} that {name} changes"
    except DrawError as error:
        model.adapters.mixed, reason = False, str(error)
    model.adapters.rest()
    if not model.adapters.mixed:
        log.warning("adapters do not share steps", extra={"model": model.plan.key, "reason": reason})


def _compare(
    model: LoadedModel, alone: tuple[torch.Tensor, torch.Tensor], together: tuple[torch.Tensor, torch.Tensor]
) -> None:
    apart = float((alone[0] - alone[1]).abs().mean())
    off = max(float((a - b).abs().mean()) for a, b in zip(alone, together, strict=True))
    # Not a number, or two prompts that look alike, prove nothing: such a model runs unshared.
    if not off <= allowed(model) * apart:
        _unshare(model, f"together differs from alone by {off:.2g}, of {apart:.2g} between two pictures")


def _unshare(model: LoadedModel, reason: str) -> None:
    model.shares, model.reason = False, reason


def _guess_costs(shared: SharedModule, request_rows: int) -> None:
    """What the check's own forwards took is a guess from now on: they were made on another thread, beside others."""
    shared.stopwatch.read()
    shared.costs = shared.costs.guessed()
    if is_on_cuda(shared) and shared.is_denoiser:  # which keeps its own time: a busy host does not blur the figures
        shared.costs.min_rows = request_rows


def _warm_all(modules: list[SharedModule], native: Trial, *, timed: bool) -> None:
    """Run compiled modules with all that they will be called with: they compile before anybody waits for them. What
    they take once they are compiled is a guess at their cost, where it is to be ``timed``."""
    if not modules:
        return
    short, long = (
        first_calls(native.begin(native.drawing(prompt, 1), forwards=0)) for prompt in (PROMPT_A, PROMPT_LONG)
    )
    for shared in modules:
        if shared in short:
            _warm(shared, short[shared], long.get(shared), timed=timed)


def _warm(shared: SharedModule, call: Call, longer: Call | None, *, timed: bool) -> None:
    """Run a compiled module with each number of rows that it will be called with: rows alike, and, where prompts
    of different lengths share steps, rows of which one is longer. Some denoisers give their blocks a mask only then,
    and a mask where there was none is another graph."""
    row = collate.take_rows(call.arguments, 0, 1, call.rows, shared.parts)
    long = None
    if longer is not None and longer.key == call.key and _shapes(longer) != _shapes(call):
        long = collate.take_rows(longer.arguments, 0, 1, longer.rows, shared.parts)
    shared.warmed = None
    warmed = 1
    for rows in BUCKETS:
        if rows > shared.most_rows(call.area):
            break
        try:
            alike = collate.merge([row] * rows, [1] * rows, shared.parts)
            _seconds(shared, alike)
            if long is not None and rows > 1:
                mixed = [*[row] * (rows - 1), long]
                mixed = mixed if shared.ragged is None else shared.ragged.levelled(mixed)
                _seconds(shared, collate.merge(mixed, [1] * rows, shared.parts))
            if timed:
                shared.costs.guess(rows, call.area, _seconds(shared, alike))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            shared.learned_rows[call.area] = max(1, rows // 2)
            torch.cuda.empty_cache()
            break
        warmed = rows
    shared.warmed = warmed


def _shapes(call: Call) -> list[torch.Size]:
    return [tensor.shape for tensor in collate.tensors(call.arguments)]


def _seconds(shared: SharedModule, arguments: dict[str, object]) -> float:
    synchronise(shared)
    started = time.perf_counter()
    with torch.no_grad():
        shared.function(**arguments)
    synchronise(shared)
    return time.perf_counter() - started
