"""Muon: steps that turn a matrix of weights evenly in all its directions, however small their gradients are.

Knows weights and gradients alone. (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the
steps' size after Liu et al., "Muon is scalable for LLM training", 2025, so that AdamW's rates serve both.) A
convolution counts as a matrix of outputs by all that one output sees. First and last layers, embeddings, and all that
is no matrix stay with AdamW, as there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

WEIGHT_DECAY = 0.01


class Muon:
    """torch's optimizer on views of weights, (O, I) or (O, I, H, W)."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = list(weights)
        self.matrices = [nn.Parameter(_matrix(weight.detach())) for weight in self.weights]
        self.optimizer = torch.optim.Muon(
            self.matrices, lr=0.0, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
        )

    def step(self, gradients: Sequence[Tensor | None], rate: float) -> None:
        """One step, with the ``gradients`` of all weights."""
        for matrix, weight, gradient in zip(self.matrices, self.weights, gradients, strict=True):
            matrix.grad = None if gradient is None else _matrix(gradient.to(memory_format=_format(weight)))
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()  # type: ignore[no-untyped-call]


def groups(net: nn.Module, *others: nn.Module) -> list[dict[str, Any]]:
    """Groups for a learner's optimizers: matrices of ``net``, and the rest, to which all of ``others`` belongs."""
    apart = {id(weight) for other in others for weight in other.parameters()}
    learning = [weight for weight in net.parameters() if weight.requires_grad]
    matrices = [weight for weight in learning if weight.dim() in (2, 4) and id(weight) not in apart]
    apart = {id(weight) for weight in matrices}
    return [
        {"params": [weight for weight in learning if id(weight) not in apart]},
        {"params": matrices, "matrices": True},
    ]


def _format(weight: Tensor) -> torch.memory_format:
    return torch.contiguous_format if weight.is_contiguous() else torch.channels_last


def _matrix(weight: Tensor) -> Tensor:
    """The same memory as (O, everything else); an error if it does not lie so."""
    if weight.is_contiguous():
        return weight.view(len(weight), -1)
    return weight.permute(0, 2, 3, 1).view(len(weight), -1)
