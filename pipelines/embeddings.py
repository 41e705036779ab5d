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
        size = _size(output)
        if size > self._max_bytes // 4:
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


def _size(output: Any) -> int:
    if isinstance(output, torch.Tensor):
        return output.numel() * output.element_size()
    if isinstance(output, dict):
        return sum(_size(item) for item in output.values())
    if isinstance(output, list | tuple):
        return sum(_size(item) for item in output)
    return 0
