"""A call's arguments, or its output, as a tree: its tensors one after another, and the same tree with others.

Knows rows and the parts that leaves play; knows no devices.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from pipelines.engine.collate import Part, Parts, Path, is_each, is_row, same_kind, tensors

_PLAIN = (bool, int, float, str, type(None), torch.dtype)


class Untold(Exception):
    """A leaf is neither a tensor nor a plain value."""


class Leaf(NamedTuple):
    tensor: torch.Tensor
    has_rows: bool  # one of each of the call's rows; else it is one row's, or all rows' together


def joined_parts(first: Mapping[str, Any], parts: Parts) -> Parts:
    """The parts of a call that was put together of several, of which this is the ``first``: a number that each of them
    had for all its rows (a timestep) is one a row by now."""
    return {**parts, **dict.fromkeys(_numbers(first, ()), Part.ROW)}


def _numbers(value: Any, path: Path) -> Iterator[Path]:
    if isinstance(value, torch.Tensor):
        if value.numel() == 1:
            yield path
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _numbers(item, (*path, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _numbers(item, (*path, index))


def leaves(value: Any, rows: int, size: int, parts: Parts, path: Path = ()) -> Iterator[Leaf]:
    """The tensors of a call of so many rows, as they are to be at ``size`` rows: of lists with a tensor for each row,
    the last again for each row more."""
    if isinstance(value, torch.Tensor):
        yield Leaf(value, is_row(value, path, rows, parts))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(item, rows, size, parts, (*path, name))
    elif isinstance(value, list | tuple):
        items, are_rows = _items(value, rows, size, parts, path)
        for index, item in enumerate(items):
            if are_rows:
                yield Leaf(item, has_rows=False)
            else:
                yield from leaves(item, rows, size, parts, (*path, index))


def shape(value: Any, rows: int, size: int, parts: Parts, path: Path = ()) -> Hashable:
    """The plain values of a call, and its tensors' shapes and types, as they are at ``size`` rows. Raises Untold."""
    if isinstance(value, torch.Tensor):
        whole = tuple(value.shape)
        return value.dtype, (size, *whole[1:]) if is_row(value, path, rows, parts) else whole
    if isinstance(value, Mapping):
        return tuple((name, shape(item, rows, size, parts, (*path, name))) for name, item in value.items())
    if isinstance(value, list | tuple):
        items, are_rows = _items(value, rows, size, parts, path)
        if are_rows:
            return "each", tuple((item.dtype, tuple(item.shape)) for item in items)
        found = (shape(item, rows, size, parts, (*path, index)) for index, item in enumerate(items))
        return type(value).__name__, tuple(found)
    if isinstance(value, _PLAIN):
        return type(value).__name__, value
    raise Untold(f"an argument is a {type(value).__name__}")


def rebuilt(value: Any, rows: int, size: int, parts: Parts, others: Iterator[torch.Tensor], path: Path = ()) -> Any:
    """The same tree at ``size`` rows, with ``others`` in the place of its leaves."""
    if isinstance(value, torch.Tensor):
        return next(others)
    if isinstance(value, dict):
        items = value.items()
        return same_kind(value, {k: rebuilt(v, rows, size, parts, others, (*path, k)) for k, v in items})
    if isinstance(value, list | tuple):
        items, _ = _items(value, rows, size, parts, path)
        return type(value)([rebuilt(item, rows, size, parts, others, (*path, i)) for i, item in enumerate(items)])
    return value


def mapped(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same tree with what ``function`` makes of its tensors."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return same_kind(value, {name: mapped(item, function) for name, item in value.items()})
    if isinstance(value, list | tuple):
        return type(value)([mapped(item, function) for item in value])
    return value


def equal(one: Any, other: Any) -> bool:
    """Are the tensors of two trees equal, bit for bit? Waits for the device."""
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return all(a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bits(a), _bits(b)) for a, b in pairs)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _items(value: Any, rows: int, size: int, parts: Parts, path: Path) -> tuple[Any, bool]:
    """What is in a list, and is it one tensor for each row? Of these as many as there are to be."""
    if not value or not isinstance(value[0], torch.Tensor) or not is_each(value, path, rows, parts):
        return value, False
    return [*value, *[value[-1]] * (size - rows)], True
