"""Plans: which networks, in what time, in what batches, on which machine.

Knows numbers alone. `training/README.md` says what each plan costs and which of them has been run.
"""

from dataclasses import dataclass, field

from .nets.autoencoder import AutoencoderShape
from .nets.unet import UNetShape
from .nets.upscaler import UpscalerShape

STAGES = ("autoencoder", "text", "unet", "decoder", "upscaler")  # in this order
NEW = STAGES  # where there are no weights yet
MORE = STAGES[1:]  # the latents stay as they are, so that the UNet stays valid
SQUARE, WIDE, TALL = (16, 16), (12, 22), (22, 12)  # rows and columns of latents


@dataclass(frozen=True)
class StagePlan:
    """One stage's share of the time, its batch and its highest learning rate."""

    share: float
    batch: int
    rate: float


@dataclass(frozen=True)
class Plan:
    """All that a run does not learn from its data."""

    stages: dict[str, StagePlan]
    autoencoder: AutoencoderShape = field(default_factory=AutoencoderShape)
    unet: UNetShape = field(default_factory=UNetShape)
    upscaler: UpscalerShape = field(default_factory=UpscalerShape)
    cells: tuple[tuple[tuple[int, int], float], ...] = ((SQUARE, 0.7), (WIDE, 0.15), (TALL, 0.15))  # and their shares
    step: str = "eager"  # or "compile" or "graph"
    channels_last: bool = True  # how convolutions keep their pixels
    margin_s: float = 60.0  # kept back for the last writing
    save_s: float = 60.0  # between two checkpoints
    sheet_s: float = 600.0  # between two contact sheets


PLANS = {
    "cpu": Plan(
        {
            "autoencoder": StagePlan(0.08, 8, 1e-3),
            "text": StagePlan(0.12, 64, 1e-3),
            "unet": StagePlan(0.5, 32, 1.2e-3),
            "decoder": StagePlan(0.25, 16, 8e-4),
            "upscaler": StagePlan(0.05, 16, 1e-3),
        }
    ),
    "rehearsal": Plan(
        {
            "autoencoder": StagePlan(0.15, 8, 1e-3),
            "text": StagePlan(0.2, 64, 1.5e-3),
            "unet": StagePlan(0.5, 16, 6e-4),
            "decoder": StagePlan(0.2, 16, 3e-4),
            "upscaler": StagePlan(0.07, 16, 5e-4),
        },
        margin_s=45,
        sheet_s=420,
    ),
    "h200": Plan(
        {
            "autoencoder": StagePlan(0.1, 256, 2e-3),
            "text": StagePlan(0.14, 2048, 2e-3),
            "unet": StagePlan(0.5, 1024, 2e-3),
            "decoder": StagePlan(0.2, 256, 1.2e-3),
            "upscaler": StagePlan(0.07, 128, 1e-3),
        },
        step="graph",
        channels_last=False,
        margin_s=20,
        sheet_s=420,
    ),
}
