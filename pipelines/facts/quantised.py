"""Weights that a library has quantised already, by the names that the model's class has for them.

Knows how bitsandbytes, torchao and quanto store what one weight has become, in several tensors; reads none of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.facts.headers import Stored

# bitsandbytes' statistics, beside a weight under its own name; quanto's of what goes through a layer.
_BESIDE = re.compile(
    r"\.(weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+)|SCB|weight_format"
    r"|input_scale|output_scale)$"
)
_TORCHAO = re.compile(r"(?P<module>.*\.)?_(?P<name>weight|bias)_\w+")
_QUANTO = re.compile(r"(?P<weight>.*\.weight)\._(data|scale|shift|zeropoint)(\..*)?")


@dataclass(frozen=True)
class Plain:
    """The tensors of a component as if nobody had quantised them."""

    tensors: Mapping[str, Stored]
    packed: frozenset[str]  # of these: those whose shape says nothing


def plain(tensors: Mapping[str, Stored]) -> Plain:
    """What a component's tensors are the weights of."""
    found: dict[str, Stored] = {}
    packed = set()
    for name, tensor in tensors.items():
        if _BESIDE.search(name):
            continue
        own = name
        if match := _QUANTO.fullmatch(name):
            own = match["weight"]
        elif match := _TORCHAO.fullmatch(name):
            own = f"{match['module'] or ''}{match['name']}"
        if own != name or tensor.dtype.startswith(("I", "U")) or tensor.is_float8:
            packed.add(own)
        found.setdefault(own, tensor)
    return Plain(found, frozenset(packed))
