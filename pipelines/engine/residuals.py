"""What ControlNets add to a denoiser's layers, in one batch with calls to which nothing is added.

Knows the two arguments in which diffusers' UNets take it; knows neither runs nor ControlNets. To add zeros changes no
number, so that a call without them may stand beside others with zeros in their place. Calls among themselves are never
given any: what is drawn without a ControlNet pays nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

DOWN: Final = "down_block_additional_residuals"  # a list of (rows, C, h, w), or (rows, C, 1, 1) for every place
MIDDLE: Final = "mid_block_additional_residual"  # one of these


def takes(module: torch.nn.Module) -> bool:
    """Is it a denoiser to which a ControlNet may add?"""
    return {DOWN, MIDDLE} <= inspect.signature(module.forward).parameters.keys()


def folded(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without what is added, for comparing calls."""
    return {**arguments, DOWN: None, MIDDLE: None}


def levelled(calls: Sequence[Mapping[str, Any]], rows: Sequence[int]) -> list[Mapping[str, Any]]:
    """The calls, of so many rows each, with zeros where another has something that is added, and one number spread
    over all places where another has one for each."""
    given = [_leaves(call) for call in calls]
    some = [leaves for leaves in given if leaves]
    if not some or (len(some) == len(calls) and all(_shapes(leaves) == _shapes(some[0]) for leaves in some)):
        return list(calls)
    wanted = [max(alike, key=lambda leaf: leaf.shape[1:].numel()) for alike in zip(*some, strict=True)]
    return [_filled(call, leaves, wanted, count) for call, leaves, count in zip(calls, given, rows, strict=True)]


def _leaves(call: Mapping[str, Any]) -> list[torch.Tensor]:
    return [] if call[DOWN] is None else [*call[DOWN], call[MIDDLE]]


def _shapes(leaves: Sequence[torch.Tensor]) -> list[torch.Size]:
    return [leaf.shape[1:] for leaf in leaves]


def _filled(
    call: Mapping[str, Any], leaves: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], rows: int
) -> dict[str, Any]:
    if leaves:
        filled = [leaf.expand(rows, *like.shape[1:]) for leaf, like in zip(leaves, wanted, strict=True)]
    else:
        filled = [like.new_zeros(()).expand(rows, *like.shape[1:]) for like in wanted]
    return {**call, DOWN: filled[:-1], MIDDLE: filled[-1]}
