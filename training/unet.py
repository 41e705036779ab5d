"""The UNet's stage: from noise to latents, conditioned on scene codes.

Knows latents, noise and codes; knows words only through the text encoder, once that is trained. Learns v on a cosine
schedule with zero terminal SNR.
"""

from typing import Any

import torch
from torch import Tensor

from . import codes, muon, runtime
from .attention_targets import AttentionLoss, Targets, attention_targets, row_shares
from .nets.autoencoder import Autoencoder
from .nets.unet import UNet
from .sampling import TIMES, alphas
from .scenes import choices
from .stage import Course
from .text_encoder import PromptCodes
from .windows import Cells

UNCOND_SHARE = 0.1  # of samples that learn without a prompt, for classifier-free guidance
ENCODED_SHARE = 0.5  # of samples whose code comes from the text encoder itself, once there is one
SEVERAL_SHARE = 0.65  # of samples that do not show one object alone: what is small is learnt last
ATTENTION_WEIGHT = 0.4  # of the attention loss
MOST_WEIGHT = 2.5  # of an error of the clean latents, squared; v's own weight is 1 / (share of the noise)
ROLLED = 3  # every so many samples see what the network makes of an earlier time
STRIDE = 125  # how much earlier: a step of eight
PURE_NOISE_SHARE = 0.05  # of samples at the last timestep, where the layout is decided


@torch.no_grad()
def initialise_keys(net: UNet) -> None:
    """Set every head's keys to what tells the parts apart: smooth waves of their row and column, and the object.

    Random keys are mostly what a part looks like, and where it lies has to be found among that: after 12,000 samples
    the network knew grounds, layouts and an object's mean colour, and no shapes.
    """
    waves = codes.mark_waves(5)  # (11, WIDTH)
    for name, weight in net.named_parameters():
        if not name.endswith("attn2.to_k.weight"):
            continue
        heads = weight.view(net.shape.heads, -1, net.shape.context)
        heads.mul_(0.5)
        heads[:, : len(waves)] = waves[: heads.shape[1]]


def encode_choices(noise: Tensor, chosen: Tensor) -> Tensor:
    """(B, 4, h, w) noise, mirrored or negated so that it tells which `choices` were made, (B, 3).

    The sum of the first latent is larger on the right if the objects are shifted there. The sum of the second is larger
    below if they are shifted down. The sum of the third is positive if a lone object is the large one. Mirrored or
    negated noise is as likely as it was before, so what the network learns from is ordinary noise, and ordinary noise
    decides for itself where things lie. So the first step already knows, and does not draw the mean of all places.
    """
    first, second, third, *others = noise.unbind(1)
    rows, columns = noise.shape[2] // 2, noise.shape[3] // 2
    right = first[:, :, -columns:].sum((1, 2)) - first[:, :, :columns].sum((1, 2))
    below = second[:, -rows:].sum((1, 2)) - second[:, :rows].sum((1, 2))
    total = third.sum((1, 2))
    across, down, large = (
        (((value > 0) != (wanted > 0)) & (wanted >= 0))[:, None, None]
        for value, wanted in zip((right, below, total), chosen.unbind(1), strict=True)
    )
    told = (
        torch.where(across, first.flip(-1), first),
        torch.where(down, second.flip(-2), second),
        torch.where(large, -third, third),
    )
    return torch.stack((*told, *others), 1)


class UNetStage:
    """Learns to take the noise out of latents."""

    name = network = "unet"
    figures = ("loss", "attention loss")

    def __init__(
        self,
        course: Course,
        net: UNet,
        autoencoder: Autoencoder,
        table: codes.Codes,
        cells: tuple[tuple[Cells, float], ...],
        prompt_codes: PromptCodes | None = None,
    ) -> None:
        self.course, self.net, self.encoder, self.table = course, net, autoencoder.encoder.eval(), table
        self.cells, self.prompt_codes = cells, prompt_codes
        self.random, self.shapes = course.generator(), course.host_generator()
        self.alphas, self.row_shares = alphas().to(course.device), row_shares().to(course.device)
        self.attention_loss = AttentionLoss(net)
        self.attention_loss.record(True)

    def groups(self) -> list[dict[str, Any]]:
        return muon.groups(self.net, self.net.conv_in, self.net.conv_out, self.net.time_embedding)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.random, device=self.course.device)

    def _normal(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=self.random, device=self.course.device)

    @torch.no_grad()
    def draw(self, done: float) -> tuple[Tensor, ...]:
        shapes, shares = zip(*self.cells, strict=True)
        cells: Cells = self.shapes.choices(shapes, shares)[0]
        size = self.course.batch
        samples = self.course.maker.draw(size, cells, several=SEVERAL_SHARE)
        with runtime.autocast(self.course.device):
            clean = self.encoder(samples.pixels).float()
        uncond = self._uniform(size) < UNCOND_SHARE
        labels = torch.where(uncond[:, None], -1, samples.labels)
        tokens = self._tokens(labels)
        time = self._times(size)
        noise = encode_choices(self._normal(clean.shape), choices(samples.labels[:, 0], samples.boxes, cells))
        signal = self.alphas[time].view(-1, 1, 1, 1)
        noised = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        noised = self._rolled(noised, noise, clean, time, tokens)
        target = (signal.sqrt() * noised - clean) / (1 - signal).sqrt()
        looks = attention_targets(samples.boxes, self.row_shares, cells)
        told = ~uncond[:, None, None, None]
        flat = [part for look in looks for part in (look.parts, look.shares * told)]
        return noised, time, tokens, target, signal, *flat

    def _rolled(self, noised: Tensor, noise: Tensor, clean: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
        """The noised latents, some of them as a step of DDIM from an earlier time leaves them, with its errors.

        When a picture is drawn there are no others. What has seen true ones alone believes them, where it could look up
        what is wrong with them. (The bias: Ning et al., "Elucidating the exposure bias in diffusion models", 2024.)
        """
        at = torch.arange(0, len(noised), ROLLED, device=noised.device)
        earlier = (time[at] + STRIDE).clamp(max=TIMES - 1)
        before, after = (self.alphas[when].view(-1, 1, 1, 1) for when in (earlier, time[at]))
        seen = before.sqrt() * clean[at] + (1 - before).sqrt() * noise[at]
        with runtime.autocast(self.course.device):
            v = self.net(seen, earlier, tokens[at]).float()
        made = after.sqrt() * (before.sqrt() * seen - (1 - before).sqrt() * v)
        left = (1 - after).sqrt() * (before.sqrt() * v + (1 - before).sqrt() * seen)
        pure = (time[at] == TIMES - 1).view(-1, 1, 1, 1)
        return noised.index_copy(0, at, torch.where(pure, noised[at], made + left))

    def _times(self, size: int) -> Tensor:
        """(B,) timesteps, more of the noisy end, spread evenly over a batch, in any order.

        How large loss and gradient are depends on the time most, so that of a batch with times of pure chance little
        but its times is learnt. (As in Kingma et al., "Variational diffusion models", 2021, appendix I.1.)
        """
        order = torch.randperm(size, generator=self.random, device=self.course.device)
        time = (TIMES * ((order + self._uniform(1)) / size) ** 0.7).long().clamp(max=TIMES - 1)
        return torch.where(self._uniform(size) < PURE_NOISE_SHARE, TIMES - 1, time)

    def _tokens(self, labels: Tensor) -> Tensor:
        """(B, LENGTH, WIDTH): codes with some noise, so that the text encoder need not be exact, and its own codes."""
        told = int(ENCODED_SHARE * len(labels)) if self.prompt_codes is not None else 0
        tokens = self.table.tokens(labels[told:])
        strength = 0.25 * self._uniform(len(tokens), 1, 1)
        tokens = tokens + strength * self._normal(tokens.shape)
        if self.prompt_codes is None:
            return tokens
        return torch.cat((self.prompt_codes(labels[:told]), tokens))

    def loss(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        noised, time, tokens, target, signal, *looks = inputs
        # What is learnt at little noise is little noise; what is looked up is learnt where there is much.
        weight = (MOST_WEIGHT * (1 - signal)).clamp(max=1)
        loss = (weight * (self.net(noised, time, tokens).float() - target).square()).mean()
        looked = self.attention_loss(Targets(*looks[:2]), Targets(*looks[2:]), signal)
        return loss + ATTENTION_WEIGHT * looked, torch.stack((loss, looked))

    def averaged(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights
