"""A bounded cache of what text encoders made of token ids.

Knows module identities, integer inputs and bytes; knows nothing of prompts or models by name. A prompt that
comes again costs no encoder call.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import torch

from pipelines.engine.collate import tensors

MAX_BYTES = 256 << 20  # on the device; the room for a model's work counts them
_MAX_ELEMENTS = 65_536  # of one argument: what is larger are no tokens, and not worth hashing
_PLAIN = (bool, int, float, str, type(None))


def _not_kept() -> Any:
    raise LookupError("the layer's states were not kept")


def tells_in_tokens(arguments: Mapping[str, Any]) -> bool:
    """Does an encoder's call say all in token ids, masks and plain values? Then what it makes depends on nothing else.

    A language model that writes is called with what it has written so far too, and a vision-language model with
    pictures.
    """
    return all(
        not value.is_floating_point() and value.numel() <= _MAX_ELEMENTS
        if isinstance(value, torch.Tensor)
        else isinstance(value, _PLAIN)
        for value in arguments.values()
    )


class HiddenStates(Sequence[torch.Tensor]):
    """All layers' hidden states, as a run sees them: tells which it reads, and makes anew what was not kept."""

    def __init__(
        self,
        states: Mapping[int, torch.Tensor],
        count: int,
        *,
        make: Callable[[], Any] = _not_kept,
        read: Callable[[int, torch.Tensor], None],
    ) -> None:
        """``make`` calls the encoder again. ``read`` is told of each state that is read."""
        self._states = dict(states)
        self._count = count
        self._make = make
        self._read = read

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[torch.Tensor, ...]: ...
    def __getitem__(self, at: int | slice) -> torch.Tensor | tuple[torch.Tensor, ...]:
        if isinstance(at, slice):
            return tuple(self[index] for index in range(*at.indices(self._count)))
        index = at + self._count if at < 0 else at
        if not 0 <= index < self._count:
            raise IndexError(at)
        if index not in self._states:
            self._states = dict(enumerate(self._make()["hidden_states"]))
        self._read(index, self._states[index])
        return self._states[index]


@dataclass(eq=False)
class _Kept:
    """An encoder's output without its hidden states, and those of these that were read."""

    output: Any
    layers: int = 0
    states: dict[int, torch.Tensor] = field(default_factory=dict)
    size: int = 0


class EmbeddingCache:
    """Least recently used first out, bounded in bytes of the tensors it keeps on their device."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    def key(self, owner: object, arguments: Mapping[str, Any], adapters: Hashable = ()) -> Hashable | None:
        """A key for a call of ``owner``, with these adapters on it, whose only tensors are token ids and masks; None
        for any other call.

        Holds its owner weakly: an id() is given out again once a module is gone, and another model's module must
        not find what that one made.
        """
        if not tells_in_tokens(arguments):
            return None
        parts: list[Hashable] = [weakref.ref(owner), adapters]
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor):
                parts.append((name, value.dtype, tuple(value.shape), value.cpu().numpy().tobytes()))
            else:
                parts.append((name, value))
        return tuple(parts)

    @property
    def size(self) -> int:
        """Bytes of the tensors that it keeps on their device."""
        return self._bytes

    def get(self, key: Hashable, make: Callable[[], Any] = _not_kept, *, again: bool = False) -> Any:
        """The output kept under ``key``, or None. ``make`` makes it anew, should the run read of it what was not kept:
        another pipeline's run made the same call, and read other layers. Whoever looks ``again`` has missed once."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                self.misses += not again
                return None
            self.hits += 1
            self._kept.move_to_end(key)
            states = dict(kept.states)
        return self._shown(key, kept, kept.output, states, make)

    def put(self, key: Hashable, output: Any) -> Any:
        """Keep ``output``, but for what language models make for writing on, and of its hidden states only those that
        are read of what this returns: it is the output for the run. One that takes more than half of all the room, or
        whose bytes cannot be told, is not kept."""
        kept = _Kept(_for_drawing(output), layers=_layers(output))
        if kept.layers:
            kept.output = _with(kept.output, hidden_states=None)
        kept.output = _apart(kept.output)
        size = _size(kept.output)
        if size is None or size > self._max_bytes // 2:
            return output
        with self._lock:
            if key not in self._kept:
                self._drop_dead()
                self._kept[key] = kept
                self._resize(kept, size)
        states = dict(enumerate(output["hidden_states"])) if kept.layers else {}
        return self._shown(key, kept, output, states, _not_kept)

    def _shown(
        self, key: Hashable, kept: _Kept, output: Any, states: dict[int, torch.Tensor], make: Callable[[], Any]
    ) -> Any:
        if not kept.layers:
            return output

        def read(index: int, state: torch.Tensor) -> None:
            self._keep_state(key, kept, index, state)

        return _with(output, hidden_states=HiddenStates(states, kept.layers, make=make, read=read))

    def _keep_state(self, key: Hashable, kept: _Kept, index: int, state: torch.Tensor) -> None:
        with self._lock:
            if self._kept.get(key) is not kept or index in kept.states:
                return
            kept.states[index] = _apart(state)
            size = _size((kept.output, kept.states)) or 0
            if size > self._max_bytes // 2:
                del self._kept[key]
                self._bytes -= kept.size
            else:
                self._resize(kept, size)

    def _resize(self, kept: _Kept, size: int) -> None:
        self._bytes += size - kept.size
        kept.size = size
        while self._bytes > self._max_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].size

    def _drop_dead(self) -> None:
        """Drop what modules made that are gone: their weights have left the device."""
        for key in [key for key in self._kept if isinstance(key, tuple) and key[0]() is None]:
            self._bytes -= self._kept.pop(key).size


def _for_drawing(output: Any) -> Any:
    """An encoder's output without what only serves to write on: no pipeline of diffusers that makes pictures reads its
    keys and values, nor, where it asked a language model for hidden states, its logits or its last state beside."""
    if not isinstance(output, dict) or (not hasattr(output, "past_key_values") and "past_key_values" not in output):
        return output
    unread = {"past_key_values"}
    if output.get("hidden_states") is not None:
        unread |= {"logits", "last_hidden_state"}
    return _with(output, **dict.fromkeys(unread & output.keys()))


def _with(output: Any, **changes: Any) -> Any:
    items = {name: value for name, value in {**output, **changes}.items() if value is not None}
    return items if type(output) is dict else type(output)(**items)


def _apart(value: Any) -> Any:
    """The same, copied where it shows parts of larger tensors: the rows of others would be kept with it."""
    size = _size(value)
    if size is None or size <= sum(tensor.nbytes for tensor in tensors(value)):
        return value
    return _copy(value)


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        items = {name: _copy(item) for name, item in value.items()}
        return items if type(value) is dict else type(value)(**items)
    if isinstance(value, list | tuple):
        return type(value)(_copy(item) for item in value)
    return value


def _layers(output: Any) -> int:
    """How many layers' hidden states an output holds."""
    states = output.get("hidden_states") if isinstance(output, dict) else None
    tensors = isinstance(states, tuple) and all(isinstance(state, torch.Tensor) for state in states)
    return len(states) if tensors and states is not None else 0


def _size(output: Any) -> int | None:
    """Bytes of all storages that the output holds; None where it holds what is no tensor, number or text."""
    sizes: dict[tuple[torch.device, int], int] = {}
    rest = [output]
    while rest:
        item = rest.pop()
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            sizes[item.device, storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, dict):
            rest += item.values()
        elif isinstance(item, list | tuple):
            rest += item
        elif item is not None and not isinstance(item, bool | int | float | str):
            return None
    return sum(sizes.values())
