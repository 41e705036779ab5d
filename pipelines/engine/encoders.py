"""What each run gets of a text encoder's output, where several called it together.

Knows what encoders answer with; knows neither runs nor encoders by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipelines.engine import collate

_PLAIN = (bool, int, float, str, type(None))


def pieces(output: Any, rows: Sequence[int]) -> list[Any]:
    """The output of a call made for several, cut into one for each, of so many rows.

    Without the keys and values that language models make for writing on, which no pipeline reads. Raises Uncollatable
    where anything else has no rows: no run is given what another's prompt may be read from.
    """
    total = sum(rows)
    if isinstance(output, dict) and "past_key_values" in output:
        items = {name: value for name, value in output.items() if name != "past_key_values"}
        output = items if type(output) is dict else type(output)(**items)
    if not _has_rows(output, total):
        raise collate.Uncollatable("a text encoder's output has no rows: its prompts are encoded one by one")
    return collate.split(output, rows, {})


def _has_rows(value: Any, rows: int) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dim() > 0 and value.shape[0] == rows
    if isinstance(value, dict):
        return all(_has_rows(item, rows) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_has_rows(item, rows) for item in value)
    return isinstance(value, _PLAIN)
