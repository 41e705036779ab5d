"""A bounded cache of what text encoders made of token ids.

Knows module identities, integer inputs and bytes; knows nothing of prompts or models by name. A prompt that
comes again costs no encoder call.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

import torch


class EmbeddingCache:
    """Least recently used first out, bounded in bytes of the tensors it keeps on their device."""

    def __init__(self, max_bytes: int = 256 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
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
        parts: list[Hashable] = [weakref.ref(owner), adapters]
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor):
                if value.is_floating_point() or value.numel() > 65_536:
                    return None  # pictures for a vision-language encoder: not worth hashing
                parts.append((name, value.dtype, tuple(value.shape), value.cpu().numpy().tobytes()))
            elif value is None or isinstance(value, bool | int | float | str):
                parts.append((name, value))
            else:
                return None
        return tuple(parts)

    def get(self, key: Hashable) -> Any:
        """The output kept under ``key``, or None."""
        with self._lock:
            if key not in self._kept:
                self.misses += 1
                return None
            self.hits += 1
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, output: Any) -> None:
        """Keep ``output``, but for what language models make for writing on. One that takes more than half of all the
        room, or whose bytes cannot be told, is not kept."""
        output = _for_drawing(output)
        size = _size(output)
        if size is None or size > self._max_bytes // 2:
            return
        with self._lock:
            if key in self._kept:
                return
            self._drop_dead()
            self._kept[key] = (output, size)
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._bytes -= self._kept.popitem(last=False)[1][1]

    def _drop_dead(self) -> None:
        """Drop what modules made that are gone: their weights have left the device."""
        for key in [key for key in self._kept if isinstance(key, tuple) and key[0]() is None]:
            self._bytes -= self._kept.pop(key)[1]


def _for_drawing(output: Any) -> Any:
    """An encoder's output without what only serves to write on: no pipeline of diffusers that makes pictures reads its
    keys and values, nor its logits where it asked for hidden states."""
    if not isinstance(output, dict):
        return output
    unread = {"past_key_values"} if output.get("hidden_states") is None else {"past_key_values", "logits"}
    items = {name: value for name, value in output.items() if name not in unread}
    return items if type(output) is dict else type(output)(**items)


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
