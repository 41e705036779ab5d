"""The modules of a loaded model that runs meet at, and what is known of each.

Knows which component plays which part in a diffusers pipeline; knows neither runs nor threads.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import torch

from pipelines.engine import noise, residuals
from pipelines.engine.collate import Part, Path, Signature
from pipelines.engine.cost import BUCKETS, MAX_ROWS, StepCost, bucket, with_all
from pipelines.engine.graph_pool import GraphPool
from pipelines.engine.graphs import Form, StepGraphs
from pipelines.engine.kept import PromptWork
from pipelines.engine.learning import StepCosts
from pipelines.engine.ragged import RAGGED
from pipelines.engine.stopwatch import Stopwatch, stopwatch_for
from pipelines.engine.ways import Told, Ways

DENOISERS = ("unet", "transformer", "transformer_2")  # the largest component of a pipeline, called at every step
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")

# Their decode takes a generator and never draws from it; any other decoder's keeps its runs apart.
_PLAIN_DECODERS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")
_DECODE_ROWS = 8  # decoding takes far more memory a row than a denoiser step
_GROWTH_STEPS, _MAX_GROWTH_STEPS = 50, 1600  # without a shortage of memory, until one more row is tried
_DECODE_PIXELS = 2 * 1024 * 1024  # of all rows of a decode: 8 of 512 x 512, 2 of 1024 x 1024


class Stage(Enum):
    """Where in a run a shared module is called. Every stage but the denoiser's is short, and lets a run go on."""

    ENCODE = auto()  # before the first step, once or a few times for each of a run's prompts
    CONTROL = auto()  # before the denoiser: its output is an argument of the denoiser's next call
    DENOISE = auto()
    DECODE = auto()


_STAGES = {
    **dict.fromkeys(TEXT_ENCODERS, Stage.ENCODE),
    **dict.fromkeys(DENOISERS, Stage.DENOISE),
    "prior": Stage.DENOISE,
    "controlnet": Stage.CONTROL,
    "vae": Stage.DECODE,
}


class _Key:
    """Equal to itself alone."""

    __slots__ = ("__weakref__",)


@dataclass
class _Regrowth:
    """How rows that a shortage of memory bounded come back."""

    patience: int = _GROWTH_STEPS
    steps: int = 0  # that fitted since rows were last learned
    fitted: int = 0  # the most rows of these


@dataclass(eq=False)
class SharedModule:
    """One method of one module that several runs may call as one."""

    name: str
    module: torch.nn.Module
    function: Callable[..., Any]
    stage: Stage
    ignores_generator: bool = False
    # Where it computes; parameters that are offloaded lie elsewhere.
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    parts: dict[Path, Part] = field(default_factory=dict)  # of the arguments, from the trace at load
    output_parts: dict[Path, Part] = field(default_factory=dict)
    costs: StepCosts = field(default_factory=StepCosts)  # of its steps, learnt from them
    pixels: float = 0.0  # of the picture, for a latent element, from the trace at load
    fills: bool = field(init=False)  # may its calls with what ControlNets add meet those without? The check decides
    apart: bool = False  # are its calls made one by one, though runs share steps? The check at load decides
    learned_rows: dict[int, int] = field(default_factory=dict)  # area → rows that fitted, after an out-of-memory
    graphs: StepGraphs | None = None  # of its steps, where they are launched as such
    pool: GraphPool | None = None  # of its device: all graphs there, whatever module's
    warmed: int | None = None  # the most rows that it was compiled for at load; None: it need not be, or was not

    _stopwatch: Stopwatch | None = None
    _ways: Ways = field(default_factory=Ways)
    _regrowth: dict[int, _Regrowth] = field(default_factory=dict)  # by area
    _keys: weakref.WeakValueDictionary[Hashable, _Key] = field(default_factory=weakref.WeakValueDictionary)

    def __post_init__(self) -> None:
        self.signature = Signature(self.function if self.stage is Stage.DECODE else self.module.forward)
        modules = self.module.modules() if self.is_denoiser else ()
        self.compiled = any(module._compiled_call_impl is not None for module in modules)
        self.fills = self.takes_residuals
        self.ragged = RAGGED.get(type(self.module).__name__) if self.is_denoiser else None
        # Prompts that are padded for each company are other tensors at every change of it.
        keeps = self.is_denoiser and self.ragged is None
        self.prompt_work = PromptWork(self.module) if keeps else None

    @property
    def is_denoiser(self) -> bool:
        """Is it called at every step? So are ControlNets."""
        return self.stage in (Stage.CONTROL, Stage.DENOISE)

    @property
    def takes_residuals(self) -> bool:
        """May ControlNets add to it?"""
        return self.stage is Stage.DENOISE and residuals.takes(self.module)

    def keeps_state(self) -> bool:
        """Does a layer remember its last call (diffusers' step caches do)? Then another run's call must not follow."""
        registries = (getattr(module, "_diffusers_hook", None) for module in self.module.modules())
        hooks = (hook for registry in registries if registry is not None for hook in registry.hooks.values())
        return any(hook._is_stateful for hook in hooks)

    def forget(self) -> None:
        """Drop what a run that did not finish left in step caches."""
        reset = getattr(self.module, "_reset_stateful_cache", None)
        if reset is not None:
            reset()

    def intern(self, key: Hashable) -> Hashable:
        """One object for all equal keys, kept while a run has it: keys are compared far more often than made."""
        return self._keys.setdefault(key, _Key())

    @property
    def stopwatch(self) -> Stopwatch:
        """What times its forwards, but for those of a decoder."""
        if self._stopwatch is None:
            self._stopwatch = stopwatch_for(self.device, self._learn, self._held_by_graphs)
        return self._stopwatch

    def timed(
        self, rows: int, area: int, form: Form | None = None, *, replayed: bool = False
    ) -> contextlib.AbstractContextManager[None]:
        """Learn from the forward in the block what a step costs, and whether replays of its ``form`` are worth it."""

        def told(seconds: float) -> None:
            if form is not None and self.graphs is not None:
                if replayed:
                    self.graphs.replay_took(form, seconds)
                else:
                    form.took(seconds)
            self._learn(rows, area, seconds, replayed=replayed)

        return self.stopwatch.time(rows, area, told, allocates=not replayed)

    def _learn(self, rows: int, area: int, seconds: float, *, replayed: bool = False) -> None:
        says = self._ways.told(rows, area, replayed=replayed)
        if says is Told.NOTHING:
            return
        if says is Told.ANEW:
            self.costs.forget(rows, area)
        self.costs.learn(rows, area, seconds)

    def _held_by_graphs(self) -> int:
        return 0 if self.pool is None else self.pool.bytes

    @property
    def cost(self) -> StepCost | None:
        """What a step costs, as far as is known."""
        return self.costs.cost()

    def most_rows(self, area: int, waiting: int = 0) -> int:
        """The most rows of ``area`` latent elements that one call should have, where so many alike are ``waiting``."""
        if self.stage is Stage.DECODE:
            pixels = max(1, round(self.pixels * area))
            return self._allowed(max(1, min(_DECODE_ROWS, _DECODE_PIXELS // pixels)), area)
        worth = with_all(self.costs.most_rows(area), waiting)
        return self._allowed(self.stopwatch.fitting(worth, area), area)

    def rows_to_try(self, bound: int, waiting: int, area: int) -> int:
        """The most rows of the next call, where so many alike are ``waiting``: mostly ``bound``, now and then others,
        for their cost to be learnt."""
        tried = self.costs.to_try(bound, waiting, area)
        return self._allowed(self.stopwatch.fitting(tried, area), area) if tried > bound else self._compiled_for(tried)

    def _allowed(self, rows: int, area: int) -> int:
        """As many of these rows as memory is known to have room for, and as a compiled module has met."""
        return self._compiled_for(min(rows, self.learned_rows.get(area, rows)))

    def filled_up(self, rows: int) -> int:
        """The rows that the module is called with for so many: compiled, it is to see few shapes."""
        return bucket(rows) if self.compiled else rows

    def at_once(self, rows: int, area: int) -> int:
        """How many of one call's rows are run together: any call but a decoder's is made as its pipeline made it, as
        far as memory is known to allow."""
        if self.stage is Stage.DECODE:
            return min(rows, self.most_rows(area))
        fitting = self.learned_rows.get(area)
        return rows if fitting is None else min(rows, self._compiled_for(fitting))

    def note_full(self, rows: int, area: int) -> None:
        """Remember that the device had no room for a call of so many rows: half of them are tried next, or as many as
        fitted before one more was tried."""
        rows = self.at_once(rows, area)
        if area not in self.learned_rows:
            self._regrowth[area] = _Regrowth()
        regrowth = self._regrowth.setdefault(area, _Regrowth())
        if 0 < regrowth.fitted < rows:
            regrowth.patience = min(2 * regrowth.patience, _MAX_GROWTH_STEPS)
        else:
            regrowth.fitted = 0
        regrowth.steps = 0
        self.learned_rows[area] = max(1, rows // 2, regrowth.fitted)

    def note_fitted(self, rows: int, area: int) -> None:
        """Count a call of so many rows that fitted: what took the memory, another model's load perhaps, may be over."""
        learned = self.learned_rows.get(area)
        if learned is None:
            return
        regrowth = self._regrowth.setdefault(area, _Regrowth())
        regrowth.fitted = max(regrowth.fitted, min(rows, learned))
        regrowth.steps += 1
        if regrowth.steps >= regrowth.patience:
            regrowth.steps = 0
            self.learned_rows[area] = learned + 1
            if learned + 1 > MAX_ROWS:
                del self.learned_rows[area], self._regrowth[area]

    def _compiled_for(self, rows: int) -> int:
        """At most so many rows, as many as a compiled module has met."""
        if not self.compiled:
            return rows
        return max(size for size in BUCKETS if size <= min(rows, self.warmed or rows))


def find_shared_modules(components: dict[str, Any]) -> dict[int, SharedModule]:
    """The modules of a pipeline's components that its runs share, by the module's identity."""
    found: dict[int, SharedModule] = {}
    for name, component in components.items():
        stage = _STAGES.get(name)
        if stage is None or not isinstance(component, torch.nn.Module):
            continue
        if stage is not Stage.DECODE:
            found[id(component)] = SharedModule(name, component, component, stage)
        elif not casts_itself(component):
            decoder: Any = component
            plain = type(component).__name__.startswith(_PLAIN_DECODERS)
            decode = decoder.decode if plain else noise.drawing(decoder.decode)
            found[id(component)] = SharedModule(name, component, decode, stage, ignores_generator=plain)
    return found


def casts_itself(vae: torch.nn.Module) -> bool:
    """Do pipelines cast this VAE to float32 around its calls (SDXL's, in float16)? Then no run may meet another."""
    return _is_upcast(vae) and _dtype(vae) is torch.float16


@contextlib.contextmanager
def uncast(components: Iterable[object]) -> Iterator[None]:
    """After the block, which is a run's, components that its pipeline casts are in the precision that they had before.

    Pipelines cast a VAE to float32 to encode (in bfloat16, too) or to decode, and mostly cast it back, with nothing
    that does so where they are left in between. It is all runs' VAE. No run waits for another while it is cast: such
    encodes and decodes are made at once.
    """
    cast = [(each, _dtype(each)) for each in components if isinstance(each, torch.nn.Module) and _is_upcast(each)]
    try:
        yield
    except BaseException:
        for module, dtype in cast:  # all of it: a cast that found no room has come half-way
            module.to(dtype)
        raise
    for module, dtype in cast:
        if _dtype(module) is not dtype:
            module.to(dtype)


def _is_upcast(module: torch.nn.Module) -> bool:
    return bool(getattr(getattr(module, "config", None), "force_upcast", False))


def _dtype(module: torch.nn.Module) -> torch.dtype | None:
    parameter = next(module.parameters(), None)
    return None if parameter is None else parameter.dtype
