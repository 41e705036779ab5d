"""The decoder's stage: pixels from the latents that the UNet draws.

Knows pictures, latents and the UNet that draws them; knows no words. The latents stay as they are, so that the UNet
stays valid. What the UNet draws is blurred: it is the mean of what it cannot tell apart. A decoder that has seen only
the encoder's latents shows that blur. This one sees drawn latents beside the clean picture that they stand for, and
most of its layers see the whole picture, so it can tell which object is meant and paint the one that it has learnt.
"""

from collections import deque
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from . import codes, critic, runtime
from .losses import edges, missing_steepness
from .nets.autoencoder import Autoencoder
from .nets.unet import UNet
from .sampling import alphas, sample, time_of
from .stage import Course
from .text_encoder import PromptCodes
from .windows import CELL, FINE, WINDOW, Cells, corner_in, counted, cut

TRUE_SHARE = 0.25  # of samples whose latents are the encoder's, as in image-to-image and inpainting
NOISE = 0.5  # at most, that is added to the encoder's latents: little mostly, much in some
FRESH_SHARE = 0.25  # of samples whose latents are drawn for this batch; the rest were drawn for an earlier one
POOL = 768  # drawn samples of each shape that are kept: drawing costs more than learning
SEVERAL_SHARE = 0.5
COURSES = ((8, 1), (6, 1), (4, 1))  # steps, and the first of them: see `Drawer.draw`
GUIDANCES = (1.0, 1.2)
STEEPNESS_WEIGHT = 1.0


class Drawer:
    """The UNet at work: clean pictures and the latents that it draws of them."""

    def __init__(
        self,
        course: Course,
        unet: UNet,
        autoencoder: Autoencoder,
        table: codes.Codes,
        prompt_codes: PromptCodes | None = None,
    ) -> None:
        self.course, self.unet, self.encoder = course, unet, autoencoder.encoder
        self.table, self.prompt_codes = table, prompt_codes
        self.random, self.plans, self.alphas = course.generator(), course.host_generator(), alphas()
        for attention in unet.looking():
            attention.recorded = False

    @torch.no_grad()
    def draw(self, size: int, cells: Cells, scale: int = 1) -> tuple[Tensor, Tensor]:
        """(B, 4, h, w) drawn latents and the pixels that they should have become, (B, 3, 4h, 4w) times ``scale``.

        It begins some steps after pure noise, from the clean latents under all the noise of that time: so little of
        them is left that shapes come from the code, but the ground's shade is what it is in the clean picture. With
        less than that, grounds had other shades than their targets, and the decoder learnt to mix them.
        """
        samples = self.course.maker.draw(size, cells, scale, several=SEVERAL_SHARE)
        small = F.avg_pool2d(samples.pixels, scale) if scale > 1 else samples.pixels
        with runtime.autocast(self.course.device):
            clean = self.encoder(small).float()
        steps, first = self.plans.choice(COURSES)
        share = float(self.alphas[time_of(first, steps)])
        noise = torch.randn(clean.shape, generator=self.random, device=clean.device)
        noised = share**0.5 * clean + (1 - share) ** 0.5 * noise
        tell = self.table.tokens if self.prompt_codes is None or self.plans.random() < 0.5 else self.prompt_codes
        nothing = self.table.nothing()
        guidance = self.plans.choice(GUIDANCES)
        return sample(self.unet, tell(samples.labels), nothing, noised, steps, guidance, first), samples.pixels


class DecoderStage:
    """Learns to give clean pictures from drawn latents, and from the encoder's."""

    name, network = "decoder", "autoencoder"
    figures = ("dB of true", "dB of drawn", "steepness", "loss", "critic's")

    def __init__(
        self, course: Course, net: Autoencoder, cells: tuple[tuple[Cells, float], ...], drawer: Drawer | None
    ) -> None:
        self.course, self.net, self.cells, self.drawer = course, net, cells, drawer
        self.random, self.plans = course.generator(), course.host_generator()
        self.pool: dict[Cells, deque[tuple[Tensor, Tensor]]] = {shape: deque(maxlen=POOL) for shape, _ in cells}
        self.critic = critic.fresh(course.device)
        net.requires_grad_(False)
        net.decoder.requires_grad_(True)

    def groups(self) -> list[dict[str, Any]]:
        return critic.groups(self.net.decoder, self.critic)

    @torch.no_grad()
    def draw(self, done: float) -> tuple[Tensor, ...]:
        shapes, shares = zip(*self.cells, strict=True)
        cells: Cells = self.plans.choices(shapes, shares)[0]
        size = self.course.batch
        true = self._true_of(size)
        rows = [self._true(true, cells)]
        if self.drawer is not None:
            rows.append(self._drawn(self.drawer, size - true, cells))
        latents, pixels = (torch.cat(both) for both in zip(*rows, strict=True))
        corner = corner_in(cells, self.plans)
        at = FINE * torch.tensor(corner, device=latents.device)
        counts, heard = counted(corner, cells).to(latents.device), critic.heard(done, latents.device)
        return latents, cut(pixels, corner), at, counts, heard

    def _true_of(self, size: int) -> int:
        """How many of a batch have the encoder's latents; they come first."""
        return size if self.drawer is None else max(1, round(TRUE_SHARE * size))

    def _true(self, size: int, cells: Cells) -> tuple[Tensor, Tensor]:
        pixels = self.course.maker.draw(size, cells, several=SEVERAL_SHARE).pixels
        with runtime.autocast(self.course.device):
            latents = self.net.encoder(pixels).float()
        strength = NOISE * torch.rand(size, 1, 1, 1, generator=self.random, device=latents.device).square()
        return latents + strength * torch.randn(latents.shape, generator=self.random, device=latents.device), pixels

    def _drawn(self, drawer: Drawer, size: int, cells: Cells) -> tuple[Tensor, Tensor]:
        """Some that are drawn now, and others from the pool; all are drawn now while the pool is small."""
        pool = self.pool[cells]
        fresh = max(1, round(FRESH_SHARE * self.course.batch)) if len(pool) >= size else size
        made = list(zip(*drawer.draw(fresh, cells), strict=True))
        rows = made + self.plans.sample(pool, size - fresh)
        pool.extend(made)
        latents, pixels = (torch.stack(column) for column in zip(*rows, strict=True))
        return latents, pixels

    def loss(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        latents, pixels, corner, counts, heard = inputs
        made = self.net.decoder.window(latents.clamp(-6, 6), corner, FINE * WINDOW).float()
        share = counts.mean()
        off = (made - pixels) * counts
        squared = off.square().mean((1, 2, 3)) / share
        steep = missing_steepness(made, pixels, CELL, counts[..., ::CELL, ::CELL])
        loss = (off.abs().mean() + 1.5 * edges(made * counts, pixels * counts)) / share + squared.mean()
        loss = loss + STEEPNESS_WEIGHT * steep
        last = cast(Tensor, self.net.decoder.layers[-1].weight)
        pair = (made * counts, pixels * counts)
        judged, sure = critic.judged(self.critic, pair, loss, last, heard)
        true = self._true_of(len(latents))
        drawn = squared[true:].mean() if true < len(latents) else squared.mean()
        decibels = (-10 * (value / 4).log10() for value in (squared[:true].mean(), drawn))
        return loss + judged, torch.stack((*decibels, steep, loss, sure))

    def averaged(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights
