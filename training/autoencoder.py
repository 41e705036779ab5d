"""The autoencoder's stage: 128x128 pixels to 16x16 latents of 4 channels and back.

Knows pictures and latents; knows neither words nor noise schedules. Both halves learn. Later the decoder alone does, in
a stage of its own (`decoder.py`), and the latents stay as they are, so that the UNet stays valid.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .losses import edges
from .nets.autoencoder import Autoencoder
from .stage import Course

SEVERAL_SHARE = 0.47  # of samples that do not show one object alone


class AutoencoderStage:
    """Learns to give pictures back from latents that some noise has been added to."""

    name = network = "autoencoder"
    figures = ("dB", "loss")

    def __init__(self, course: Course, net: Autoencoder) -> None:
        self.course, self.net = course, net
        self.random = course.generator()
        net.requires_grad_(True)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.net.parameters())}]

    def draw(self, done: float) -> tuple[Tensor, ...]:
        pixels = self.course.maker.draw(self.course.batch, several=SEVERAL_SHARE).pixels
        count, height, width = len(pixels), pixels.shape[2] // 8, pixels.shape[3] // 8
        device, latents = self.course.device, self.net.shape.latents
        strength = 0.05 + 0.1 * torch.rand(count, 1, 1, 1, generator=self.random, device=device)
        return pixels, strength * torch.randn(count, latents, height, width, generator=self.random, device=device)

    def loss(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        pixels, noise = inputs
        latents = self.net.encoder(pixels)
        made = self.net.decoder((latents + noise).clamp(-6, 6)).float()
        squared = F.mse_loss(made, pixels)
        mean, std = latents.float().mean((0, 2, 3)), latents.float().std((0, 2, 3))
        spread = mean.square().mean() + (std - 1).square().mean()
        loss = F.l1_loss(made, pixels) + 2 * squared + edges(made, pixels) + 0.05 * spread
        return loss, torch.stack((-10 * (squared / 4).log10(), loss))

    def averaged(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights
