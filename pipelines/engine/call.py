"""A parked call: what the policy reads, what a batch runs, and whether it is like the run's last one.

Knows arguments and their parts; knows neither greenlets nor threads. Step after step, a run's calls differ in nothing
but the numbers in their tensors: seeing that at a glance saves describing each anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import torch

from pipelines.engine import residuals
from pipelines.engine.collate import Fingerprints, Parts, Uncollatable, count_rows, group_key, is_row, keeps_key
from pipelines.engine.kept import Kept
from pipelines.engine.model import Model
from pipelines.engine.shared import SharedModule, Stage
from pipelines.engine.step_cache import StepCache
from pipelines.plan import Drawing

_PLAIN = frozenset({bool, int, float, str, type(None)})


@dataclass(eq=False)
class History:
    """What a run has done so far, as far as its next call needs it."""

    steps_of: int
    steps_done: int = 0
    passed_over: int = 0  # steps that went without the run, while it waited for one
    prints: Fingerprints = field(default_factory=Fingerprints)
    last: dict[SharedModule, LastCall] = field(default_factory=dict)
    cache: StepCache | None = None  # of a run that leaves out steps
    _kept: dict[SharedModule, Kept] = field(default_factory=dict)

    @property
    def steps_left(self) -> int:
        """How many more are to be computed, as far as that is known."""
        left = self.steps_of - self.steps_done
        return max(1, left if self.cache is None else self.cache.computed_left(left))

    def kept(self, shared: SharedModule) -> Kept:
        """What is kept for the run of this module's work."""
        return self._kept.setdefault(shared, Kept())

    def forget(self) -> None:
        """Let go of the last calls' tensors, and of what is kept."""
        self.last.clear()
        self.cache = None
        for kept in self._kept.values():
            kept.forget()
        self.prints = Fingerprints()


class Call:
    """One call of a shared module that a run waits for.

    ``key`` says who may share it: calls with equal keys fit one batch. It has ``rows`` rows of ``area`` latent
    elements. When it was run, it holds ``output`` or ``error``, and in ``company`` how many calls were run as one.
    ``known``, while it waits, gives its output if that has come from elsewhere, or None.
    """

    def __init__(
        self,
        model: Model,
        drawing: Drawing,
        history: History,
        shared: SharedModule,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        autocast: torch.dtype | None,
        known: Callable[[], Any] | None = None,
    ) -> None:
        self.model = model
        self.drawing = drawing
        self.history = history
        self.shared = shared
        self.args = args
        self.kwargs = kwargs
        self.autocast = autocast
        self.known = known
        self.company = 1
        self.first = shared.stage is not Stage.DENOISE
        self.principal = drawing.principal
        self.output: Any = None
        self.error: BaseException | None = None
        last = history.last.get(shared)
        alike = None if last is None else last.alike(args, kwargs, autocast, history.prints)
        if last is not None and alike is not None:
            self.arguments = alike
        else:
            last = history.last[shared] = self._look()
        if shared.ignores_generator and "generator" in self.arguments:
            self.arguments["generator"] = None
        self.rows, self.area, self.key = last.rows, last.area, last.key

    @property
    def passed_over(self) -> int:
        return self.history.passed_over

    @property
    def steps_left(self) -> int:
        return self.history.steps_left

    def _look(self) -> LastCall:
        """Find this call's rows, its latent elements a row, and the key under which it may be merged."""
        shared = self.shared
        self.arguments = shared.signature.normalise(self.args, self.kwargs)
        rows, area, key = self._measure()
        return LastCall(
            self.args,
            self.kwargs,
            self.arguments,
            names=shared.signature.names(self.args, self.kwargs),
            autocast=self.autocast,
            rows=rows,
            area=area,
            key=key,
            parts=shared.parts,
        )

    def _measure(self) -> tuple[int, int, Hashable]:
        shared, alone = self.shared, (id(self.shared), id(self.history))
        try:
            rows = count_rows(self.arguments, shared.parts)
        except Uncollatable:
            return 1, 1, alone
        area = _area(self.arguments, rows)
        if not self.model.shares or shared.apart:
            return rows, area, alone
        arguments = self.arguments if shared.ragged is None else shared.ragged.folded(self.arguments)
        if shared.fills:
            arguments = residuals.folded(arguments)
        if shared.ignores_generator and "generator" in arguments:
            arguments = {**arguments, "generator": None}
        apart = self.model.adapters.apart(shared.module, self.drawing.spec.adapters)
        key = group_key(arguments, rows, shared.parts, self.history.prints)
        return rows, area, shared.intern((area, self.autocast, apart, key))


def _area(arguments: dict[str, Any], rows: int) -> int:
    for value in arguments.values():
        if isinstance(value, torch.Tensor) and value.dim() > 1 and value.shape[0] == rows:
            return int(value.numel()) // rows
        if isinstance(value, list) and len(value) == rows and value and isinstance(value[0], torch.Tensor):
            return sum(int(item.numel()) for item in value) // rows
    return 1


class _Check(Enum):
    """What must be the same in the next call's argument."""

    VALUE = auto()
    SHAPE = auto()  # of a tensor with rows, or with one element for all of them
    CONTENT = auto()  # anything else: looked at again


class LastCall:
    """What was found of a run's last call of a module, and what its next one must keep to be like it."""

    def __init__(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        arguments: dict[str, Any],
        *,
        names: tuple[str, ...],
        autocast: torch.dtype | None,
        rows: int,
        area: int,
        key: Hashable,
        parts: Parts,
    ) -> None:
        """``arguments`` are ``args`` and ``kwargs`` by name, in the signature's order, with its defaults; ``names``
        are those of ``args``."""
        self.autocast, self.rows, self.area, self.key = autocast, rows, area, key
        self._arguments, self._parts = arguments, parts
        self._positional, self._keywords = len(args), tuple(kwargs)
        self._names = (*names, *kwargs)
        values = (*args, *kwargs.values())
        self._checks = [self._check(name, value) for name, value in zip(self._names, values, strict=True)]
        self._values = [_copy(value) for value in values]

    def _check(self, name: str, value: Any) -> _Check:
        if type(value) in _PLAIN:
            return _Check.VALUE
        if isinstance(value, torch.Tensor) and (value.numel() == 1 or is_row(value, (name,), self.rows, self._parts)):
            return _Check.SHAPE
        return _Check.CONTENT

    def alike(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], autocast: torch.dtype | None, prints: Fingerprints
    ) -> dict[str, Any] | None:
        """The new call's arguments by name if it surely has this one's rows, area and key, else None."""
        if len(args) != self._positional or tuple(kwargs) != self._keywords or autocast is not self.autocast:
            return None
        values = (*args, *kwargs.values())
        for name, value, old, check in zip(self._names, values, self._values, self._checks, strict=True):
            if check is _Check.CONTENT:
                if not keeps_key(value, old, (name,), self.rows, self._parts, prints):
                    return None
            elif value is old:
                continue
            elif check is _Check.SHAPE:
                # Of a class of its own, or of another kind altogether: looked at with care.
                if type(value) is not type(old) or value.shape != old.shape or value.dtype is not old.dtype:
                    return None
            elif type(value) is not type(old) or value != old:
                return None
        return {**self._arguments, **dict(zip(self._names, values, strict=True))}


def _copy(value: Any) -> Any:
    """The same tensors and numbers in containers of our own: a pipeline may write to its."""
    if type(value) is dict:
        return {name: _copy(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copy(item) for item in value)
    return value
