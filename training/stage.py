"""What a stage of the training is, and what it is given to learn from.

Knows forms alone: the stages themselves are in `autoencoder`, `text_encoder`, `unet`,
`decoder` and `upscaler`.
"""

import random
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .codes import Cards


class Samples(Protocol):
    """Pictures with what they show."""

    @property
    def pixels(self) -> Tensor:
        """(B, 3, 8 * rows * scale, 8 * columns * scale), -1..1."""

    @property
    def labels(self) -> Tensor:
        """(B, 6): layout, ground, first, first's colour, second, second's colour; -1 for none or the own colour."""

    @property
    def boxes(self) -> Tensor:
        """(B, MAX_OBJECTS, 4): which of the two, left, top, side, in cells; rows of -1 for none."""

    @property
    def hues(self) -> Tensor:
        """(B,): angles of the hues of grounds that no prompt names, 0..2 pi; NaN for other grounds."""


class Maker(Cards, Protocol):
    """Maker of samples, on the device that trains."""

    def draw(
        self, size: int, cells: tuple[int, int] = (16, 16), scale: int = 1, several: float | None = None
    ) -> Samples: ...
    def captions(self, labels: Tensor) -> Tensor: ...
    def labels(self, size: int) -> Tensor: ...


@dataclass
class Course:
    """What every stage shares: the device, the samples, the seed, and the batch and the rate of its plan."""

    device: torch.device
    maker: Maker
    batch: int
    rate: float
    seed: int = 0

    def generator(self) -> torch.Generator:
        """A generator of the device's, in the same state in every run from the same seed."""
        return torch.Generator(self.device).manual_seed(self.seed)

    def host_generator(self) -> random.Random:
        """A generator for what is chosen once a batch."""
        return random.Random(self.seed)  # noqa: S311 - nothing secret


class Stage(Protocol):
    """A network that learns. ``loss`` is a function of its inputs alone, so that it can be compiled or captured."""

    @property
    def course(self) -> Course: ...
    @property
    def name(self) -> str: ...
    @property
    def network(self) -> str:
        """What the weights are called in a checkpoint."""

    @property
    def net(self) -> nn.Module: ...
    @property
    def figures(self) -> tuple[str, ...]:
        """The names of what is printed."""

    def groups(self) -> list[dict[str, Any]]:
        """The parameters that learn, in groups for the optimizer; `share` is a group's share of the rate."""

    def draw(self, done: float) -> tuple[Tensor, ...]:
        """A batch, of one of few shapes; ``done`` is the share of the stage's time that has passed."""

    def loss(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and what is printed, in the order of `figures`."""

    def averaged(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the checkpoint keeps of the averaged weights."""
