"""Calls of one module by several runs → one call, and its output → one piece for each run.

Knows arguments, rows and shapes; knows neither runs, nor models by name, nor when anything happens.

A call's arguments are a tree (arguments, dicts and lists in them); a leaf plays one of these parts:

    row      a tensor whose first length is the call's number of rows: concatenated
    expand   a 0-d or one-element tensor (a timestep): repeated to one element a row, then concatenated
    each     a list with one tensor a row (Z-Image's latents): joined
    same     a tensor without rows (FLUX's position ids): must be equal in all calls
    plain    anything else: must be equal in all calls

Which part a leaf plays is found by tracing the same pipeline call at one and at two pictures (``trace_parts``):
what doubles is a row. For a leaf that the trace did not see, its shape decides.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
import operator
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import torch

Path = tuple[str | int, ...]


class Part(StrEnum):
    ROW = "row"
    EACH = "each"
    SAME = "same"


Parts = Mapping[Path, Part]
_PLAIN = frozenset({bool, int, float, str})
_MISSING = object()


class Uncollatable(Exception):
    """The call has no rows that this module can tell: it is run alone."""


class Signature:
    """Brings a callable's arguments into one order, with defaults filled in, so that calls can be compared."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._signature = inspect.signature(function)
        self._forms: dict[tuple[int, tuple[str, ...]], tuple[tuple[str, ...], dict[str, Any]]] = {}

    def normalise(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments by name. ``**kwargs`` of the callable are lifted to the top level."""
        names, defaults = self._form(args, kwargs)
        return {**defaults, **dict(zip(names, args, strict=True)), **kwargs}

    def names(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, ...]:
        """The names of the positional arguments."""
        return self._form(args, kwargs)[0]

    def _form(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
        form = (len(args), tuple(kwargs))
        if form not in self._forms:  # a pipeline makes all its calls in one form or two
            self._forms[form] = self._learn(args, kwargs)
        return self._forms[form]

    def _learn(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
        """The names of the positional arguments, and all names in order with their defaults, None where given."""
        parameters = self._signature.parameters.values()
        bound = self._signature.bind(*args, **kwargs)
        given = set(bound.arguments)
        bound.apply_defaults()
        named = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        defaults = {n: None if n in given else value for n, value in bound.arguments.items() if n in named}
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        # What goes to *args gets names that no call can be made with: it is compared, and runs alone.
        return tuple([*positional, *(f"*{i}" for i in range(len(args)))][: len(args)]), defaults


def count_rows(arguments: Mapping[str, Any], parts: Parts) -> int:
    """The number of rows in a call. Raises Uncollatable."""
    for path, part in parts.items():
        value = _at(arguments, path)
        if part is Part.ROW and isinstance(value, torch.Tensor) and value.dim() > 0:
            return value.shape[0]
        if part is Part.EACH and isinstance(value, list | tuple):
            return len(value)
    # Not traced: a denoiser's first tensor, or first list of tensors, is what it denoises.
    for value in arguments.values():
        if isinstance(value, torch.Tensor) and value.dim() > 1:
            return value.shape[0]
        if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
            return len(value)
    raise Uncollatable("no argument has rows")


class Fingerprints:
    """Tells equal tensors without comparing them at every step: each is hashed once, by identity and version."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[torch.Tensor, float, bytes]] = {}

    def knows(self, tensor: torch.Tensor) -> bool:
        """Was this tensor hashed as it is now?"""
        known = self._known.get(id(tensor))
        return known is not None and known[0] is tensor and known[1] == version(tensor)

    def of(self, tensor: torch.Tensor) -> bytes:
        if self.knows(tensor):
            return self._known[id(tensor)][2]
        data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        digest = hashlib.sha256(data).digest()
        self._known[id(tensor)] = (tensor, version(tensor), digest)
        return digest


def version(tensor: torch.Tensor) -> float:
    """Equal as long as nobody writes to the tensor. Inference tensors do not count writes: theirs is never equal."""
    return math.nan if tensor.is_inference() else tensor._version


def group_key(arguments: Mapping[str, Any], rows: int, parts: Parts, prints: Fingerprints) -> Hashable:
    """Calls of one module whose keys are equal may be merged."""
    return tuple(_key(name, value, (name,), rows, parts, prints) for name, value in arguments.items())


def _key(name: str | int, value: Any, path: Path, rows: int, parts: Parts, prints: Fingerprints) -> Hashable:
    if isinstance(value, torch.Tensor):
        part = _part_of_tensor(value, path, rows, parts)
        if part is Part.ROW:
            return name, "row", _dtype(value) if value.dim() == 1 else value.dtype, value.shape[1:]
        if value.numel() == 1:
            return name, "row", _dtype(value), ()  # expands to what a row tensor of shape (rows,) already is
        return name, "same", value.dtype, value.shape, prints.of(value)
    if isinstance(value, dict):
        return name, tuple(_key(k, v, (*path, k), rows, parts, prints) for k, v in value.items())
    if isinstance(value, list | tuple):
        if is_each(value, path, rows, parts):
            return name, "each", tuple(sorted({_kind(item) for item in value}))
        return name, tuple(_key(i, v, (*path, i), rows, parts, prints) for i, v in enumerate(value))
    try:
        hash(value)
    except TypeError:
        return name, "object", id(value)
    return name, type(value), value


def keeps_key(new: Any, old: Any, path: Path, rows: int, parts: Parts, prints: Fingerprints) -> bool:
    """Has ``new`` surely the key that ``old`` had? Tells without making it: a run's next call is like its last."""
    kind = type(new)
    if kind is not type(old):
        return False
    if kind is dict:
        for name, value in new.items():
            last = old.get(name, _MISSING)
            if value is last and (value is None or type(value) in _PLAIN):
                continue  # most arguments, at every step: not worth a call
            if not keeps_key(value, last, (*path, name), rows, parts, prints):
                return False
        return len(new) == len(old)
    if isinstance(new, torch.Tensor):
        if new.dtype is not old.dtype or new.shape != old.shape:
            return False
        joined = _part_of_tensor(new, path, rows, parts) is Part.ROW or new.numel() == 1
        return joined or (new is old and prints.knows(new))
    if kind in (list, tuple):
        return len(new) == len(old) and all(
            keeps_key(item, old[i], (*path, i), rows, parts, prints) for i, item in enumerate(new)
        )
    return new is None or (kind in _PLAIN and bool(new == old))


def _dtype(number: torch.Tensor) -> torch.dtype:
    """Some schedulers count timesteps in integers, others in floats; joined they become floats, exactly."""
    return torch.float32 if number.dtype is torch.int64 else number.dtype


def merge(calls: Sequence[Mapping[str, Any]], rows: Sequence[int], parts: Parts) -> dict[str, Any]:
    """One call's arguments out of several with equal keys, their rows one after another."""
    return {name: _merge([call[name] for call in calls], (name,), rows, parts) for name in calls[0]}


class Merger:
    """Merges, and remembers the last merge: as long as the same runs share steps, their prompts need joining once."""

    def __init__(self) -> None:
        self._last: dict[str, _Joined] = {}

    def merge(self, calls: Sequence[Mapping[str, Any]], rows: Sequence[int], parts: Parts) -> dict[str, Any]:
        """As the function does."""
        merged: dict[str, Any] = {}
        for name, first in calls[0].items():
            if first is None or type(first) in _PLAIN:
                merged[name] = first
                continue
            values = [call[name] for call in calls]
            if isinstance(first, torch.Tensor):
                merged[name] = self._tensor(name, values, rows, parts)
            else:
                merged[name] = _merge(values, (name,), rows, parts)
        return merged

    def _tensor(self, name: str, values: list[torch.Tensor], rows: Sequence[int], parts: Parts) -> Any:
        last = self._last.get(name)
        if last is not None and last.still(values, rows):
            return last.merged
        merged = _merge(values, (name,), rows, parts)
        if values[0].dim() > 0:  # timesteps are new at every step
            self._last[name] = _Joined(values, list(rows), _versions(values), merged, version(merged))
        return merged


class _Joined(NamedTuple):
    values: list[torch.Tensor]
    rows: list[int]
    versions: list[float]
    merged: torch.Tensor
    written: float

    def still(self, values: list[torch.Tensor], rows: Sequence[int]) -> bool:
        """Are these the tensors that were joined, and has nobody written to them or to what came of it?"""
        same = len(values) == len(self.values) and all(map(operator.is_, values, self.values))
        same = same and self.rows == list(rows) and self.written == version(self.merged)
        return same and self.versions == _versions(values)


def _versions(tensors: Sequence[torch.Tensor]) -> list[float]:
    return [version(tensor) for tensor in tensors]


def _merge(values: Sequence[Any], path: Path, rows: Sequence[int], parts: Parts) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        if _part_of_tensor(first, path, rows[0], parts) is Part.ROW or first.numel() == 1:
            return _join(values, rows)
        return first
    if isinstance(first, dict):
        return same_kind(first, {k: _merge([value[k] for value in values], (*path, k), rows, parts) for k in first})
    if isinstance(first, list | tuple):
        if is_each(first, path, rows[0], parts):
            return type(first)(item for value in values for item in value)
        merged = (_merge([value[i] for value in values], (*path, i), rows, parts) for i in range(len(first)))
        return type(first)(merged)
    return first


def _join(tensors: Sequence[torch.Tensor], rows: Sequence[int]) -> torch.Tensor:
    """Tensors with their rows, or with one element for all of a call's rows, one after another."""
    if all(tensor.dim() == 0 for tensor in tensors):
        stacked = torch.stack(list(tensors))
        if min(rows) == max(rows):
            return stacked.repeat_interleave(rows[0])
        return torch.cat([stacked[i].expand(count) for i, count in enumerate(rows)])
    return torch.cat([_with_rows(tensor, count) for tensor, count in zip(tensors, rows, strict=True)])


def _with_rows(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    if tensor.dim() > 0 and tensor.shape[0] == rows:
        return tensor
    return tensor.reshape(1).expand(rows)


def take_rows(arguments: Mapping[str, Any], start: int, stop: int, rows: int, parts: Parts) -> dict[str, Any]:
    """The same call for some of its rows only: how a call that is too large for the device is cut."""
    return {name: _take(value, (name,), start, stop, rows, parts) for name, value in arguments.items()}


def _take(value: Any, path: Path, start: int, stop: int, rows: int, parts: Parts) -> Any:
    if isinstance(value, torch.Tensor):
        whole = _part_of_tensor(value, path, rows, parts) is not Part.ROW
        return value if whole else value[start:stop]
    if isinstance(value, dict):
        return same_kind(value, {k: _take(v, (*path, k), start, stop, rows, parts) for k, v in value.items()})
    if isinstance(value, list | tuple):
        if is_each(value, path, rows, parts):
            return value[start:stop]
        return type(value)(_take(v, (*path, i), start, stop, rows, parts) for i, v in enumerate(value))
    return value


def same_kind(like: dict[Any, Any], items: dict[Any, Any]) -> dict[Any, Any]:
    """Diffusers' outputs are dicts with attributes, made from keyword arguments."""
    return items if type(like) is dict else type(like)(**items)


def split(output: Any, rows: Sequence[int], parts: Parts) -> list[Any]:
    """A merged call's output as one output for each call: tensors and lists are cut by rows, the rest is shared."""
    return _split(output, (), list(rows), sum(rows), parts)


def _split(value: Any, path: Path, rows: list[int], total: int, parts: Parts) -> list[Any]:
    if isinstance(value, torch.Tensor) and _part_of_tensor(value, path, total, parts) is Part.ROW:
        return list(torch.split(value, rows))
    if isinstance(value, dict):
        pieces = [_split(v, (*path, k), rows, total, parts) for k, v in value.items()]
        return [same_kind(value, dict(zip(value, piece, strict=True))) for piece in zip(*pieces, strict=True)]
    if isinstance(value, list | tuple):
        if is_each(value, path, total, parts):
            ends = list(itertools.accumulate(rows))
            return [value[end - count : end] for end, count in zip(ends, rows, strict=True)]
        pieces = [_split(item, (*path, i), rows, total, parts) for i, item in enumerate(value)]
        return [type(value)(piece) for piece in zip(*pieces, strict=True)]
    return [value] * len(rows)


def join(outputs: Sequence[Any], rows: Sequence[int], parts: Parts) -> Any:
    """The outputs of a call that was cut by rows, put together again."""
    return _merge(outputs, (), rows, parts)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Those of an output or of arguments, in their order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def trace_parts(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[Path, Part]:
    """The part each leaf plays, from the same call made for one and for two pictures: what doubled is a row."""
    return dict(_compare(one, two, ()))


def _compare(one: Any, two: Any, path: Path) -> Iterator[tuple[Path, Part]]:
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        if one.dim() > 0 and two.dim() == one.dim() and two.shape[0] == 2 * one.shape[0]:
            yield path, Part.ROW
        elif one.shape == two.shape:
            yield path, Part.SAME
    elif isinstance(one, Mapping) and isinstance(two, Mapping):
        for key in one.keys() & two.keys():
            yield from _compare(one[key], two[key], (*path, key))
    elif isinstance(one, list | tuple) and isinstance(two, list | tuple):
        if one and len(two) == 2 * len(one):
            yield path, Part.EACH
        elif len(one) == len(two):
            for index, (left, right) in enumerate(zip(one, two, strict=True)):
                yield from _compare(left, right, (*path, index))


def is_row(tensor: torch.Tensor, path: Path, rows: int, parts: Parts) -> bool:
    """Does this tensor have one item a row?"""
    return _part_of_tensor(tensor, path, rows, parts) is Part.ROW


def _part_of_tensor(tensor: torch.Tensor, path: Path, rows: int, parts: Parts) -> Part:
    traced = parts.get(path)
    # A trace at one row cannot tell a shared one-element tensor from a row; the shape at hand can.
    if traced is not None and (traced is Part.SAME or (tensor.dim() > 0 and tensor.shape[0] == rows)):
        return traced
    return Part.ROW if tensor.dim() > 0 and tensor.shape[0] == rows else Part.SAME


def is_each(value: list[Any] | tuple[Any, ...], path: Path, rows: int, parts: Parts) -> bool:
    traced = parts.get(path)
    if traced is not None:
        return traced is Part.EACH
    if any((*path, index) in parts for index in range(len(value))):
        return False
    # A list of anything but tensors is compared, not joined: of Qwen-Image's shapes only the first is read.
    tensors = isinstance(value, list) and all(isinstance(item, torch.Tensor) for item in value)
    return tensors and len(value) == rows and not _rows_inside(value, rows)


def _rows_inside(items: Sequence[Any], rows: int) -> bool:
    """Are these tensors with the rows inside each, rather than one tensor a row?"""
    return bool(items) and all(
        isinstance(item, torch.Tensor) and item.dim() > 0 and item.shape[0] == rows for item in items
    )


def _kind(item: Any) -> str:
    return f"{item.dtype}/{item.dim()}" if isinstance(item, torch.Tensor) else repr(item)


def _at(arguments: Mapping[str, Any], path: Path) -> Any:
    value: Any = arguments
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value
