"""The upscaler's stage: soft pictures to clean ones of twice the size.

Knows pictures, and the networks that make them soft; knows neither words nor noise schedules. It learns where the art
is crisp, and is applied again to what it made. So it sees three things: what the decoder gives of 128 pixels, drawn or
encoded, with the clean 256 as its target; clean 128 with clean 256; and clean 64 with clean 128. A picture costs as
much to make as several pieces of it cost to learn from, so pictures are kept, and a new piece is cut out of each.
"""

from collections import deque
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from . import critic, runtime
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
QUARTER_SHARE = 0.5  # of clean pictures, which are seen at half their size once more
SQUARE = (16, 16)  # cells
FRESH_SHARE = 0.125  # of the pictures that pieces are cut out of; the others were made for earlier batches
POOL = 384  # pictures that are kept, of about a megabyte each
LINEAR = ((0.25, 0.75, 0.0), (0.0, 0.75, 0.25))  # of three pixels, for the two in the middle one's place


@torch.no_grad()
def initialise_smoothly(net: Upscaler) -> None:
    """Begin with what bilinear interpolation gives, exactly: three channels carry the picture to the last layer.

    The network adds to the nearest pixels. From random weights it took 6,600 pieces to be no better than those alone.
    """
    colours, scale = 3, net.shape.scale
    if scale != len(LINEAR):
        raise ValueError(f"scale {scale}: the interpolation that it begins with is for {len(LINEAR)}")
    *inner, last = [layer for layer in net.body if isinstance(layer, nn.Conv2d)]
    for convolution in inner:
        convolution.weight[:colours] = 0
        for colour in range(colours):
            convolution.weight[colour, colour, 1, 1] = 1
        cast(Tensor, convolution.bias)[:colours] = 0
    for layer in net.body:
        if isinstance(layer, nn.PReLU):
            layer.weight[:colours] = 1
    last.weight.zero_()
    cast(Tensor, last.bias).zero_()
    nearest = torch.zeros(3, 3)
    nearest[1, 1] = 1
    weights = torch.tensor(LINEAR)
    for colour in range(colours):
        for down in range(scale):
            for across in range(scale):
                kernel = torch.outer(weights[down], weights[across]) - nearest
                last.weight[scale**2 * colour + scale * down + across, colour] = kernel


class UpscalerStage:
    """Learns what the decoder left out, and edges."""

    network = name = "upscaler"
    figures = ("dB", "dB of interpolation", "steepness", "loss", "critic's")

    def __init__(self, course: Course, net: Upscaler, autoencoder: Autoencoder, drawer: Drawer | None = None) -> None:
        self.course, self.net, self.autoencoder, self.drawer = course, net, autoencoder.eval(), drawer
        self.random, self.places = course.generator(), course.host_generator()
        self.pool: deque[tuple[Tensor, Tensor]] = deque(maxlen=POOL)
        self.critic = critic.fresh(course.device)

    def groups(self) -> list[dict[str, Any]]:
        own, critics = critic.groups(self.net, self.critic)
        return [{**own, "weight_decay": 0.0}, critics]

    @torch.no_grad()
    def draw(self, done: float) -> tuple[Tensor, ...]:
        size = self.course.batch
        fresh = max(1, round(FRESH_SHARE * size)) if len(self.pool) >= size else size
        made = self._pictures(fresh)
        rows = made + self.places.sample(self.pool, size - fresh)
        self.pool.extend(made)
        pieces = [self._piece(seen, clean) for seen, clean in rows]
        small, large = (torch.stack(column) for column in zip(*pieces, strict=True))
        return (small + 1) / 2, (large + 1) / 2, critic.heard(done, small.device)

    def _pictures(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Pictures as the network will see them, (3, h, w), and what they stand for, (3, 2h, 2w); h = w = 128 or 64."""
        soft = sum(self.places.random() < SOFT_SHARE for _ in range(size))
        drawn = 0 if self.drawer is None else sum(self.places.random() < DRAWN_SHARE for _ in range(soft))
        made: list[tuple[Tensor, Tensor]] = []
        if self.drawer is not None and drawn:
            latents, targets = self.drawer.draw(drawn, SQUARE, 2)
            made += zip(self._decoded(latents), targets, strict=True)
        if size > drawn:
            large = self.course.maker.draw(size - drawn, scale=2, several=SEVERAL_SHARE).pixels
            small, encoded = F.avg_pool2d(large, 2), soft - drawn
            if encoded:
                made += zip(self._soften(small[:encoded]), large[:encoded], strict=True)
            for half, whole in zip(small[encoded:], large[encoded:], strict=True):
                quarter = self.places.random() < QUARTER_SHARE
                made.append((F.avg_pool2d(half[None], 2)[0], half) if quarter else (half, whole))
        return made

    def _piece(self, seen: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """(3, CROP, CROP) of a picture, and the same of what is twice as large."""
        top, left = (self.places.randrange(side - CROP + 1) for side in seen.shape[1:])
        return (
            seen[:, top : top + CROP, left : left + CROP],
            clean[:, 2 * top : 2 * (top + CROP), 2 * left : 2 * (left + CROP)],
        )

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
        small, large, heard = inputs
        made = self.net(small).float()
        squared = F.mse_loss(made, large)
        smooth = F.mse_loss(F.interpolate(small, scale_factor=2, mode="bilinear"), large)
        steep = missing_steepness(made, large, BLOCK)
        loss = F.l1_loss(made, large) + edges(made, large) + STEEPNESS_WEIGHT * steep
        last = cast(Tensor, self.net.body[-1].weight)
        judged, sure = critic.judged(self.critic, (2 * made - 1, 2 * large - 1), loss, last, heard)
        return loss + judged, torch.stack((-10 * squared.log10(), -10 * smooth.log10(), steep, loss, sure))

    def averaged(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights
