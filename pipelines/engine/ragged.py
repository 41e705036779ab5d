"""Prompts of different lengths in one batch, for denoisers that take a prompt's tokens with a mask.

Knows which arguments of which denoiser class those are: the one table per class that the engine needs. Most
families pad every prompt to one length themselves, and their calls fit as they are; a class that is not listed
only shares steps between prompts of equal length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Ragged:
    """``tokens`` names a (rows, length, features) argument, ``mask`` a (rows, length) one that tells padding from
    tokens, or is None where there is no padding. What the class makes of a token must not depend on its padding."""

    tokens: str
    mask: str

    def folded(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments without the prompt's length, for comparing calls."""
        tokens = arguments[self.tokens]
        if not isinstance(tokens, torch.Tensor) or tokens.dim() != 3:
            return dict(arguments)
        return {**arguments, self.tokens: tokens[:, :0], self.mask: None}

    def levelled(self, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The calls with their prompts padded to the longest, and masked where that or a call's own mask asks."""
        lengths = [call[self.tokens].shape[1] for call in calls]
        masks = [call[self.mask] for call in calls]
        if len(set(lengths)) == 1 and all(mask is None for mask in masks):
            return [dict(call) for call in calls]
        dtype = next((mask.dtype for mask in masks if mask is not None), torch.bool)
        return [self._padded(call, max(lengths), dtype) for call in calls]

    def _padded(self, call: Mapping[str, Any], length: int, dtype: torch.dtype) -> dict[str, Any]:
        tokens, mask = call[self.tokens], call[self.mask]
        if mask is None:
            mask = tokens.new_ones(tokens.shape[:2], dtype=dtype)
        missing = length - tokens.shape[1]
        pad = torch.nn.functional.pad
        return {**call, self.tokens: pad(tokens, (0, 0, 0, missing)), self.mask: pad(mask.to(dtype), (0, missing))}


RAGGED: dict[str, Ragged] = {
    # A prompt's tokens have their own positions after the picture's, and padding is masked in attention.
    "QwenImageTransformer2DModel": Ragged("encoder_hidden_states", "encoder_hidden_states_mask"),
}
