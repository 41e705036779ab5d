"""The autoencoder's stage: 128x128 pixels to 16x16 latents of 4 channels and back.

Knows pictures and latents; knows neither words nor noise schedules. Both halves learn. Later the decoder alone does, in
a stage of its own (`decoder.py`), and the latents stay as they are, so that the UNet stays valid.

Half of the batches are made smaller between the two: the latents' mean over a part of the picture must be decoded to
the mean of its pixels. The UNet looks parts of objects up and lays them in other sizes than the code has them. With
such latents it need only mix what it has found, which is what attention does. (Latents that follow what is done to the
picture: Kouzelis et al., "EQ-VAE", 2025.)
"""

from typing import Any

import torch
from torch import Tensor

from . import muon
from .losses import edges, missing_steepness
from .nets.autoencoder import Autoencoder
from .stage import Course
from .windows import CELL, FINE, WINDOW, corner_in, counted, cut, shares

SEVERAL_SHARE = 0.47  # of samples that do not show one object alone
SMALLER_SHARE = 0.5  # of batches that are made smaller between encoder and decoder
SMALLER = (8, 9, 11, 13)  # their cells, of 16: about what the sides of objects in scenes are to those in the code
STEEPNESS_WEIGHT = 1.0


class AutoencoderStage:
    """Learns to give pictures back from latents that some noise has been added to."""

    name = network = "autoencoder"
    figures = ("dB", "steepness", "loss")

    def __init__(self, course: Course, net: Autoencoder) -> None:
        self.course, self.net = course, net
        self.random, self.plans = course.generator(), course.host_generator()
        net.requires_grad_(True)

    def groups(self) -> list[dict[str, Any]]:
        halves = self.net.encoder.layers, self.net.decoder.layers
        return muon.groups(self.net, *(half[end] for half in halves for end in (0, -1)))

    def draw(self, done: float) -> tuple[Tensor, ...]:
        """Pixels, what they should become, noise for the latents, and their resampling, (cells, 16).

        Last come the window of what they should become, and which of its pixels count: pixels cost most.
        """
        pixels = self.course.maker.draw(self.course.batch, several=SEVERAL_SHARE).pixels
        device, latents, whole = self.course.device, self.net.shape.latents, pixels.shape[2] // CELL
        cells = self.plans.choice(SMALLER) if self.plans.random() < SMALLER_SHARE else whole
        rows = shares(CELL * whole, CELL * cells).to(device)
        wanted = pixels if cells == whole else rows @ pixels @ rows.T
        strength = 0.05 + 0.1 * torch.rand(len(pixels), 1, 1, 1, generator=self.random, device=device)
        noise = torch.randn(len(pixels), latents, FINE * cells, FINE * cells, generator=self.random, device=device)
        corner = corner_in((cells, cells), self.plans)
        at, counts = torch.tensor(corner, device=device) * FINE, counted(corner, (cells, cells)).to(device)
        return pixels, cut(wanted, corner), strength * noise, shares(FINE * whole, FINE * cells).to(device), at, counts

    def loss(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        pixels, wanted, noise, rows, corner, counts = inputs
        latents = self.net.encoder(pixels).float()
        with torch.autocast(latents.device.type, enabled=False):
            smaller = rows @ latents @ rows.T
        side = min(FINE * WINDOW, noise.shape[2])
        made = self.net.decoder.window((smaller + noise).clamp(-6, 6), corner, side).float()
        share = counts.mean()
        off = (made - wanted) * counts
        squared = off.square().mean() / share
        mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        spread = mean.square().mean() + (std - 1).square().mean()
        steep = missing_steepness(made, wanted, CELL, counts[..., ::CELL, ::CELL])
        loss = (off.abs().mean() + edges(made * counts, wanted * counts)) / share + 2 * squared + 0.05 * spread
        loss = loss + STEEPNESS_WEIGHT * steep
        return loss, torch.stack((-10 * (squared / 4).log10(), steep, loss))

    def averaged(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights
