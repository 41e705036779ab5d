"""The check at load of a large model on a slow device: what selfcheck proves, with a smaller picture and few forwards.

Knows what to prove; not what becomes of it. Most steps of a check prove nothing new. Here runs are cancelled as soon as
they have shown what they are there for, and what one has computed another is given:

    A        one picture: the model draws numbers; two forwards, and one decode
    A twice  its first step: what is a row; and what a row costs
    B        its first step: the second prompt is heard
    A and B  A's first step is given, its second shares a forward with B's first, at another timestep
    decode   another latent alone, and both together

Five forwards, or six where a scheduler takes a step more, and three decodes; two forwards more for a model that has
adapters. Where a pipeline calls its denoiser twice a step, A takes four.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from pipelines.engine import collate
from pipelines.engine.batch import Batch
from pipelines.engine.call import Call, History
from pipelines.engine.learning import StepCosts
from pipelines.engine.shared import SharedModule, Stage
from pipelines.errors import DrawError
from pipelines.models import controlcheck, encodercheck
from pipelines.models.loader import LoadedModel
from pipelines.models.trial import PROMPT_A, PROMPT_B, Trial, allowed, distance, first_calls, first_step, refuse_deaf
from pipelines.spec import Adapter

log = logging.getLogger("darkroom.selfcheck")

_PIXELS = 256 * 256
_MULTIPLE = 64  # pixels: of both sides, whatever the family
_SLOW_S = 0.5  # a request's step at the native size: the whole check has as many rows as twenty of them, and decodes
_TIMESTEPS = ("timestep", "timesteps", "t")


@dataclass
class _Forward:
    """One forward of a denoiser, or of a ControlNet, and what came out."""

    shared: SharedModule
    rows: int
    seconds: float  # of the clock or of the process, whichever is less: a busy machine is no slow device
    output: Any


class ShortCheck:
    """A check with a smaller picture, for one model."""

    def __init__(self, trial: Trial, native_pixels: int) -> None:
        self.trial = trial
        self._model = trial.model
        self._growth = native_pixels / (trial.width * trial.height)
        self._calls: list[Call] = []  # of A
        self._forwards: list[_Forward] = []  # all that were computed
        self._of_a: list[_Forward] = []

    @staticmethod
    def of(native: Trial) -> ShortCheck | None:
        """None where a smaller picture would save little, or cost more: each size is another to compile for."""
        if any(shared.compiled for shared in native.model.shared_modules.values()):
            return None
        pixels = native.width * native.height
        scale = math.sqrt(_PIXELS / pixels)
        width, height = (max(1, round(side * scale / _MULTIPLE)) * _MULTIPLE for side in (native.width, native.height))
        return ShortCheck(Trial(native.model, width, height), pixels) if 2 * width * height <= pixels else None

    def finds_slow(self) -> bool:
        """Draw A, begin it twice, and tell from the seconds whether the device is slow for this model. False also where
        the model draws nothing of this size."""
        try:
            with _watched(self._model) as self._of_a:
                self.trial.draw([self.trial.drawing(PROMPT_A, 1)], self._calls)
            note_pixels(self._calls)
            with _watched(self._model) as of_two:
                trace(self._calls, self.trial.begin(self.trial.drawing(PROMPT_A, 1, n=2), forwards=1))
        except DrawError:
            return False
        self._forwards = [*self._of_a, *of_two]
        return max((self._native_s(shared) for shared in self._steps()), default=0.0) >= _SLOW_S

    def prove(self) -> list[Call]:
        """Decide what selfcheck decides, and leave it with the model. The calls of A. Raises DrawError for a model that
        cannot draw at all."""
        model = self._model
        encodercheck.set_apart(model)  # what a launch more takes is nothing beside such steps
        with _watched(model) as forwards:
            of_b = self.trial.begin(self.trial.drawing(PROMPT_B, 2), forwards=1)
        self._forwards += forwards
        refuse_deaf(model, first_calls(self._calls), first_calls(of_b))
        stateful = [shared.name for shared in model.shared_modules.values() if shared.keeps_state()]
        if stateful:
            model.shares, model.reason = False, f"the {stateful[0]} has a step cache"
            return self._calls
        try:
            self._compare_steps(of_b)
            self._compare_decodes()
        except DrawError as error:
            model.shares, model.reason = False, f"together fails: {error}"
        if model.shares and model.adapters:
            self._check_adapters(of_b)
        controlcheck.prove(self.trial, self._calls, of_b)
        # Some of the forwards computed nothing, and a busy machine is no slow device.
        for shared in {forward.shared for forward in self._forwards}:
            shared.costs = StepCosts()
        for forward in self._forwards:
            area = first_calls(self._calls)[forward.shared].area
            forward.shared.costs.learn(forward.rows, area, forward.seconds)
        return self._calls

    def _steps(self) -> dict[SharedModule, dict[int, float]]:
        """The least seconds of a forward by its rows, of each module that is called at every step."""
        steps: dict[SharedModule, dict[int, float]] = defaultdict(dict)
        for forward in self._forwards:
            best = steps[forward.shared]
            best[forward.rows] = min(forward.seconds, best.get(forward.rows, math.inf))
        return steps

    def _native_s(self, shared: SharedModule) -> float:
        """What a request's step would take at the native size: what rows take grows with it, the rest does not. Told
        from the forwards with the fewest and with the most rows."""
        times = self._steps()[shared]
        fewest, most = min(times), max(times)
        row_s = times[fewest] / fewest
        if most > fewest:
            row_s = min(row_s, max(0.0, times[most] - times[fewest]) / (most - fewest))
        return times[fewest] + fewest * row_s * (self._growth - 1)

    def _compare_steps(self, of_b: list[Call]) -> None:
        """A step that A shares with B gives each what it gives alone."""
        steps_of_a = [call for call in self._calls if call.shared.stage is Stage.DENOISE]
        step_of_b = first_step(of_b)
        after = _index(steps_of_a, step_of_b)
        given = deque(forward.output for forward in self._of_a if forward.shared.stage is Stage.DENOISE)
        answers = deque(given.popleft() for _ in range(after))
        one, other = self.trial.drawing(PROMPT_A, 1), self.trial.drawing(PROMPT_B, 2)
        with _watched(self._model, answers) as forwards:
            pair = self.trial.begin_together(one, other, after)
        self._forwards += forwards
        if pair is not None:
            alone = steps_of_a[after].output, step_of_b.output
            self._compare(alone, (pair[0].output, pair[1].output), "forwards")

    def _compare_decodes(self) -> None:
        """Two latents decoded together are what they are alone."""
        decode = next((call for call in self._calls if call.shared.stage is Stage.DECODE), None)
        if decode is None or not self._model.shares:
            return
        shared = decode.shared
        one = _again(decode, decode.args, decode.kwargs)
        other = _again(decode, (), {k: _mirrored(k, v, decode) for k, v in decode.arguments.items()})
        if one.key != other.key or shared.most_rows(one.area) < one.rows + other.rows:
            return  # they never meet
        merger, counts = collate.Merger(), Counter[str]()
        with torch.no_grad():
            Batch([other], merger, counts).run()
            alone = decode.output, other.output
            Batch([one, other], merger, counts).run()
        error = one.error or other.error
        if error is not None or counts["retried_alone"]:
            raise DrawError(f"two decodes: {error or 'they had to be tried again alone'}")
        self._compare(alone, (one.output, other.output), "decodes")

    def _compare(self, alone: tuple[Any, Any], together: tuple[Any, Any], what: str) -> None:
        apart = distance(*alone)
        off = max(distance(left, right) for left, right in zip(alone, together, strict=True))
        # Not a number, or two prompts that look alike, prove nothing: such a model runs unshared.
        if not off <= allowed(self._model) * apart:
            reason = f"together differs from alone by {off:.2g}, of {apart:.2g} between two {what}"
            self._model.shares, self._model.reason = False, reason

    def _check_adapters(self, of_b: list[Call]) -> None:
        """May runs with different adapters share steps? As selfcheck asks it, of one step."""
        model = self._model
        drawing = self.trial.drawing(PROMPT_A, 1)
        spec = msgspec.structs.replace(drawing.spec, adapters=(Adapter(model.adapters.names[0], 1.0),))
        adapted = msgspec.structs.replace(drawing, job_id="check-adapter", spec=spec)
        base, other = first_step(self._calls).output, first_step(of_b).output
        try:
            alone = first_step(self.trial.begin(adapted, forwards=1)).output
            pair = self.trial.begin_together(drawing, adapted, 0)
            if pair is not None:  # else they never share a step
                model.adapters.mixed = are_mixed(
                    max(distance(base, pair[0].output), distance(alone, pair[1].output)),
                    effect=distance(base, alone),
                    allowed=allowed(model) * distance(base, other),
                )
        except DrawError:
            model.adapters.mixed = False
        model.adapters.rest()
        if not model.adapters.mixed:
            log.warning("adapters do not share steps", extra={"model": model.plan.key})


def are_mixed(off: float, *, effect: float, allowed: float) -> bool:
    """Does a run with an adapter beside one without give what it gives alone? Up to the rounding that any batch has,
    and nearer to that than to what it would be without the adapter."""
    return off <= allowed and off <= effect / 2


def note_pixels(calls: list[Call]) -> None:
    """How large are the pictures that decoders make, and that denoisers' rows stand for? Needed before two are decoded:
    at once they may be too many."""
    for shared, call in first_calls(calls).items():
        if shared.is_denoiser:
            spec = call.drawing.spec
            shared.pixels = spec.draw_width * spec.draw_height / call.area
        elif shared.stage is Stage.DECODE:
            shared.pixels = math.prod(call.output[0].shape[-2:]) / call.area


def trace(calls: list[Call], doubled: list[Call]) -> None:
    """Tell rows from the rest by the calls of one picture and of two."""
    first = first_calls(calls)
    for shared, call in first_calls(doubled).items():
        if shared.stage is Stage.ENCODE:  # a prompt is encoded once, however many pictures are asked for
            continue
        shared.parts.update(collate.trace_parts(first[shared].arguments, call.arguments))
        if call.output is not None:
            shared.output_parts.update(collate.trace_parts(first[shared].output, call.output))


def is_on_cuda(shared: SharedModule) -> bool:
    """Is the module on a device that computes while the host goes on?"""
    return shared.device.type == "cuda"


def synchronise(shared: SharedModule) -> None:
    """Wait for what the module's device has to do."""
    if is_on_cuda(shared):
        torch.cuda.synchronize(shared.device)


@contextlib.contextmanager
def _watched(model: LoadedModel, answers: deque[Any] | None = None) -> Iterator[list[_Forward]]:
    """See what is computed at every step in the block. The first calls of the denoiser are given ``answers``, and
    compute nothing."""
    forwards: list[_Forward] = []

    def watch(shared: SharedModule, real: Callable[..., Any]) -> Callable[..., Any]:
        def function(*args: Any, **kwargs: Any) -> Any:
            if answers and shared.stage is Stage.DENOISE:
                return answers.popleft()
            arguments = shared.signature.normalise(args, kwargs)
            synchronise(shared)
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            output = real(*args, **kwargs)
            synchronise(shared)
            seconds = min(time.perf_counter() - wall_s, time.process_time() - cpu_s)
            rows = collate.count_rows(arguments, shared.parts)
            forwards.append(_Forward(shared, rows, seconds, copy.deepcopy(output)))  # its run may write to it
            return output

        return function

    before = {shared: shared.function for shared in model.shared_modules.values() if shared.is_denoiser}
    for shared, real in before.items():
        shared.function = watch(shared, real)
    try:
        yield forwards
    finally:
        for shared, real in before.items():
            shared.function = real


def _index(steps: list[Call], other: Call) -> int:
    """Which of the steps to share with ``other``: the first at another timestep, for a module that reads one timestep
    for all its rows gives the same as alone at equal ones."""
    candidates = [index for index, call in enumerate(steps) if call.shared is other.shared]
    apart = [index for index in candidates if _timestep(steps[index]) != _timestep(other)]
    return (apart or candidates[-1:] or [0])[0]


def _timestep(call: Call) -> list[float]:
    value = next((call.arguments[name] for name in _TIMESTEPS if call.arguments.get(name) is not None), 0.0)
    numbers: list[float] = torch.as_tensor(value).flatten().float().tolist()
    return numbers


def _again(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    return Call(call.model, call.drawing, History(1), call.shared, args, kwargs, call.autocast)


def _mirrored(name: str, value: Any, call: Call) -> Any:
    """Another argument with as many numbers of the same size."""
    is_row = isinstance(value, torch.Tensor) and collate.is_row(value, (name,), call.rows, call.shared.parts)
    return torch.flip(value, dims=(-1,)) if is_row else value
