"""Sizes of memory as people write them. Knows units; the worker reads them too, and has no use for settings."""

from __future__ import annotations

import re
from typing import Final

MIB: Final = 1024 * 1024
_UNITS = {"MiB": MIB, "GiB": 1024 * MIB, "MB": 10**6, "GB": 10**9}
_MEMORY = re.compile(rf"(?P<amount>\d{{1,9}}(\.\d{{1,6}})?) ?(?P<unit>{'|'.join(_UNITS)}|%|)", re.ASCII)


def memory_of(text: str, whole: int) -> int:
    """Bytes that a text like 12GiB, 900MiB, 50% or 0.5 stands for, of ``whole``. Raises ValueError."""
    match = _MEMORY.fullmatch(text.strip())
    amount = float(match["amount"]) if match is not None else 0.0
    if match is None or amount == 0:
        raise ValueError("must be like 12GiB, 900MiB, 50% or 0.5")
    unit = match["unit"]
    if unit in ("", "%"):
        share = amount / (100 if unit else 1)
        if share > 1:
            raise ValueError("is more than the whole device; must be like 12GiB, 900MiB, 50% or 0.5")
        return int(share * whole)
    return int(amount * _UNITS[unit])
