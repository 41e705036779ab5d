"""The upscaler's stage: soft pictures to clean ones of twice the size.

Knows pictures, and the networks that make them soft; knows neither words nor noise schedules. It learns where the art
is crisp, and is applied again to what it made. So it sees three things: what the decoder gives of 128 pixels, drawn or
encoded, with the clean 256 as its target; clean 128 with clean 256; and clean 64 with clean 128.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from . import runtime
from .decoder import Drawer
from .losses import edges, missing_steepness
from .nets.autoencoder import Autoencoder
from .nets.upscaler import Upscaler
from .stage import Course

BLOCK, STEEPNESS_WEIGHT = 8, 1.0  # pixels of the larger picture
CROP = 64  # pixels of what it sees
SOFT_SHARE = 0.6  # of samples that the decoder made
DRAWN_SHARE = 0.5  # of those, which the UNet drew, where there is one
SEVERAL_SHARE = 0.4
SQUARE = (16, 16)  # cells


class UpscalerStage:
    """Learns what the decoder left out, and edges."""

    network = name = "upscaler"
    figures = ("dB", "dB of the nearest pixels", "steepness", "loss")

    def __init__(self, course: Course, net: Upscaler, autoencoder: Autoencoder, drawer: Drawer | None = None) -> None:
        self.course, self.net, self.autoencoder, self.drawer = course, net, autoencoder.eval(), drawer
        self.random, self.places = course.generator(), course.host_generator()

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.net.parameters()), "weight_decay": 0.0}]

    @torch.no_grad()
    def draw(self, done: float) -> tuple[Tensor, ...]:
        size = self.course.batch
        count = max(1, round(SOFT_SHARE * size))
        drawn = 0 if self.drawer is None else round(DRAWN_SHARE * count)
        clean = self.course.maker.draw(size - drawn, scale=2, several=SEVERAL_SHARE).pixels
        soft, sharp = torch.split(F.avg_pool2d(clean, 2), [count - drawn, size - count])
        seen = torch.cat((self._soften(soft), sharp))
        if self.drawer is not None and drawn:
            latents, targets = self.drawer.draw(drawn, SQUARE, 2)
            clean, seen = torch.cat((targets, clean)), torch.cat((self._decoded(latents), seen))
        top, left = (self.places.randrange(side - CROP + 1) for side in seen.shape[2:])
        small = seen[:, :, top : top + CROP, left : left + CROP]
        large = clean[:, :, 2 * top : 2 * (top + CROP), 2 * left : 2 * (left + CROP)]
        quarter = F.avg_pool2d(sharp, 2)[:, :, :CROP, :CROP]
        several = len(quarter) // 2  # of the clean ones, half are seen at a quarter of the size
        if several:
            small = torch.cat((small[:-several], quarter[-several:]))
            large = torch.cat((large[:-several], sharp[-several:, :, : 2 * CROP, : 2 * CROP]))
        return (small + 1) / 2, (large + 1) / 2

    def _soften(self, pixels: Tensor) -> Tensor:
        with runtime.autocast(self.course.device):
            latents = self.autoencoder.encoder(pixels).float()
            strength = 0.1 * torch.rand(len(pixels), 1, 1, 1, generator=self.random, device=pixels.device)
            noise = torch.randn(latents.shape, generator=self.random, device=pixels.device)
        return self._decoded(latents + strength * noise)

    def _decoded(self, latents: Tensor) -> Tensor:
        with runtime.autocast(self.course.device):
            made: Tensor = self.autoencoder.decoder(latents)
        return made.float().clamp(-1, 1)

    def loss(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        small, large = inputs
        made = self.net(small).float()
        squared = F.mse_loss(made, large)
        nearest = F.mse_loss(F.interpolate(small, scale_factor=2), large)
        steep = missing_steepness(made, large, BLOCK)
        loss = F.l1_loss(made, large) + edges(made, large) + STEEPNESS_WEIGHT * steep
        return loss, torch.stack((-10 * squared.log10(), -10 * nearest.log10(), steep, loss))

    def averaged(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights
