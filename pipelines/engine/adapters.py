"""The LoRA adapters of a loaded model: which of its modules each one changes, and which are switched on now.

Knows how diffusers loads adapters and what peft's layers hold; knows neither runs nor requests. Adapters lie on
modules that all runs share, so only the engine's thread says which are on, right before a forward. Where a module's
adapters are all plain LoRA, that is said row by row, and runs with different adapters share steps: the layers compute
base(x) for all rows together, and what an adapter adds for the rows that want it. Other kinds (DoRA, LoKr, quantised
layers) are switched as a whole, by peft's own means. Our own code imports peft only for a model that has adapters.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pipelines.engine.collate import Uncollatable
from pipelines.errors import AdapterRefused, LoadRefused
from pipelines.facts import folder
from pipelines.plan import AdapterFile
from pipelines.spec import Adapter

log = logging.getLogger("darkroom.adapters")


class Share(NamedTuple):
    """So many rows of a call, and the adapters they want."""

    rows: int
    wanted: tuple[Adapter, ...]


class _Plan:
    """What the layers of one module are to do in the next forward: which rows get which adapters."""

    def __init__(self) -> None:
        self.rows = 0
        self.parts: list[tuple[slice | None, list[tuple[str, float]]]] = []  # None: all rows


class _Adapted:
    """One module that adapters change."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module  # kept, so that its id() stays its own
        self.inner_names: dict[str, str] = {}  # of the adapters that change it: theirs → peft's
        self.by_rows = False  # do its layers take other adapters for other rows?
        self.plan = _Plan()
        self.layers: list[Any] = []  # peft's, where they are switched as a whole
        self.on: tuple[Adapter, ...] | None = None

    def named(self, wanted: Sequence[Adapter]) -> list[tuple[str, float]]:
        return [(self.inner_names[a.name], a.weight) for a in wanted if a.name in self.inner_names]


class Adapters:
    """What a model's adapters do to its modules. ``use`` is the engine's thread's alone."""

    def __init__(self) -> None:
        self.mixed = True  # may runs with different adapters share a step? The check at load decides
        self.names: list[str] = []
        self.broken: dict[str, str] = {}  # name → why
        self._adapted: dict[int, _Adapted] = {}  # by the module's identity

    def __bool__(self) -> bool:
        return bool(self._adapted)

    def require(self, wanted: Iterable[Adapter]) -> None:
        """Raises AdapterRefused for one that could not be loaded."""
        for name in (adapter.name for adapter in wanted):
            if name not in self.names:
                raise AdapterRefused(f"{name}: {self.broken.get(name, 'the model has no such adapter')}")

    def of(self, module: torch.nn.Module, wanted: tuple[Adapter, ...]) -> tuple[Adapter, ...]:
        """Those of ``wanted`` that change ``module``: where they are equal, it makes the same of the same arguments."""
        if not wanted or (adapted := self._adapted.get(id(module))) is None:
            return ()
        return tuple(adapter for adapter in wanted if adapter.name in adapted.inner_names)

    def apart(self, module: torch.nn.Module, wanted: tuple[Adapter, ...]) -> tuple[Adapter, ...]:
        """What must be equal for two runs to share a call of ``module``."""
        adapted = self._adapted.get(id(module))
        return () if adapted is None or (self.mixed and adapted.by_rows) else self.of(module, wanted)

    def use(self, module: torch.nn.Module, shares: Sequence[Share]) -> bool:
        """Have the next forwards of ``module`` give each share of its rows what it wants. True if it was switched."""
        adapted = self._adapted.get(id(module))
        if adapted is None:
            return False
        if adapted.by_rows:
            _plan(adapted, shares)
            return False
        return _switch(adapted, self.of(module, shares[0].wanted))

    def rest(self) -> None:
        """Switch every adapter off: whoever calls a module past the engine gets the base model's."""
        for adapted in self._adapted.values():
            self.use(adapted.module, [Share(0, ())])

    def _add(self, name: str, inner: str, modules: Iterable[torch.nn.Module]) -> None:
        self.names.append(name)
        for module in modules:
            self._adapted.setdefault(id(module), _Adapted(module)).inner_names[name] = inner

    def _finish(self) -> None:
        """All are loaded: find their layers."""
        from peft.tuners import lora
        from peft.tuners.tuners_utils import BaseTunerLayer

        for adapted in self._adapted.values():
            adapted.module.eval().requires_grad_(False)  # a file may say dropout
            layers: list[Any] = [layer for layer in adapted.module.modules() if isinstance(layer, BaseTunerLayer)]
            plain = (lora.Linear, lora.Conv2d)
            adapted.by_rows = all(type(layer) in plain and not layer.lora_variant for layer in layers)
            if adapted.by_rows:
                for layer in layers:
                    layer.forward = functools.partial(_forward, layer, adapted.plan)
            else:
                adapted.layers = layers


def _plan(adapted: _Adapted, shares: Sequence[Share]) -> None:
    plan, start = adapted.plan, 0
    plan.rows = sum(share.rows for share in shares)
    plan.parts = []
    for wanted, group in itertools.groupby(shares, lambda share: share.wanted):
        stop = start + sum(share.rows for share in group)
        named = adapted.named(wanted)
        if named:
            plan.parts.append((None if stop - start == plan.rows else slice(start, stop), named))
        start = stop


def _forward(layer: Any, plan: _Plan, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """A LoRA layer's forward, as peft's own, but for other adapters on other rows: base(x) + B(A(x)) × scale."""
    result: torch.Tensor = layer.base_layer(x, *args, **kwargs)
    for rows, named in plan.parts:
        if rows is not None and x.shape[0] != plan.rows:
            raise Uncollatable("an adapted layer's input has no rows: it is run for one set of adapters at a time")
        part, shared = (x, result) if rows is None else (x[rows], result[rows])
        for name, weight in named:
            if name in layer.lora_A:
                down, up = layer.lora_A[name], layer.lora_B[name]
                # Three kernels a group of rows and layer: with several groups the host launches more than it computes.
                shared.add_(up(down(part.to(down.weight.dtype))), alpha=weight * layer.scaling[name])
    return result


def _switch(adapted: _Adapted, chosen: tuple[Adapter, ...]) -> bool:
    """Switch on just these, by peft's own means, for all rows. False if that is how they were."""
    if adapted.on == chosen:
        return False
    adapted.on = None  # until all layers are switched
    named = adapted.named(chosen)
    for layer in adapted.layers:
        layer.enable_adapters(bool(named))
        if named:
            layer.set_adapter([name for name, _ in named], inference_mode=True)
            for name, weight in named:
                layer.set_scale(name, weight)
    adapted.on = chosen
    return True


def load(pipeline: Any, files: Sequence[AdapterFile]) -> Adapters:
    """Load adapters onto a pipeline's modules. One that cannot be is left out, and ``broken`` says why."""
    adapters = Adapters()
    for index, file in enumerate(files):
        inner = f"adapter_{index:03}"  # peft keeps adapters by name where some names mean something else, or may not be
        try:
            adapters._add(file.name, inner, _load(pipeline, Path(file.path), inner))
        except Exception as error:  # whatever is wrong with the file, the model serves without it
            reason = str(error) if isinstance(error, LoadRefused) else f"{type(error).__name__}: {error}"
            adapters.broken[file.name] = reason
            log.error("adapter cannot be used", extra={"adapter": file.name, "file": file.path, "reason": reason})
            with contextlib.suppress(Exception):  # what was loaded of it before it failed, if anything was
                pipeline.delete_adapters(inner)
    if adapters:
        adapters._finish()
        adapters.rest()
    return adapters


def _load(pipeline: Any, path: Path, inner: str) -> list[torch.nn.Module]:
    """Load one file under the name ``inner``; the modules that it changes."""
    reason = folder.adapter_problem(path)
    if reason is not None:
        raise LoadRefused(reason)
    if not hasattr(pipeline, "load_lora_weights"):
        raise LoadRefused(f"{type(pipeline).__name__} takes no adapters")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are what we want
        pipeline.load_lora_weights(
            str(path.parent), weight_name=path.name, adapter_name=inner, local_files_only=True, use_safetensors=True
        )
    changed = [name for name, inners in pipeline.get_list_adapters().items() if inner in inners]
    if not changed:
        raise LoadRefused("it has no weights for this model: it was made for another kind")
    modules: list[torch.nn.Module] = [getattr(pipeline, name) for name in changed]
    empty = [name for module in modules for name, weight in module.named_parameters() if weight.is_meta]
    if empty:
        raise LoadRefused(f"its weights do not fit this model: {len(empty)} have no place, or no value: {empty[0]}")
    return modules
