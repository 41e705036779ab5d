"""What pictures are compared by, besides their pixels.

Knows pixels alone.
"""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def edges(one: Tensor, other: Tensor) -> Tensor:
    """The mean difference of neighbouring pixels' differences, of (B, C, H, W)."""
    off = one - other
    return sum((off.diff(dim=d).abs().mean() for d in (2, 3)), off.new_zeros(()))


def steepness(pixels: Tensor, side: int) -> Tensor:
    """(B, 1, H / side, W / side): how steep the pixels' edges are, as the root of the mean square in each block.

    What is unsure where an edge lies pays least for a soft one, by any mean of pixels' differences. But a soft edge has
    less of this than a sharp one, wherever in the block it lies. So a network that is told how much is missing draws
    sharp edges at the likeliest place.
    """
    padded = F.pad(pixels, (0, 1, 0, 1), mode="replicate")
    down, across = padded[..., 1:, :-1] - pixels, padded[..., :-1, 1:] - pixels
    squares = (down.square() + across.square()).mean(1, keepdim=True)
    return (F.avg_pool2d(squares, side) + 1e-5).sqrt()


def missing_steepness(made: Tensor, true: Tensor, side: int, counts: Tensor | None = None) -> Tensor:
    """How much more or less steep than the true pictures those that were made are; ``counts`` are blocks' weights."""
    off = (steepness(made, side) - steepness(true, side)).abs()
    return off.mean() if counts is None else (off * counts).mean() / counts.mean()
