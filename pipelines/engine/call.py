"""What was found of a run's last call of a shared, and whether its next one is alike.

Knows arguments and their parts; knows neither runs nor threads. Step after step, a run's calls differ in nothing
but the numbers in their tensors: seeing that at a glance saves describing each anew.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum, auto
from typing import Any

import torch

from pipelines.engine.collate import Fingerprints, Parts, is_row, keeps_key

_PLAIN = frozenset({bool, int, float, str, type(None)})


class _Check(Enum):
    """What must be the same in the next call's argument."""

    VALUE = auto()
    SHAPE = auto()  # of a tensor with rows, or with one element for all of them
    CONTENT = auto()  # anything else: looked at again


class LastCall:
    """``key`` says who may share the call, which has ``rows`` rows of ``area`` latent elements."""

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
