"""The UNet's stage: from noise to latents, conditioned on scene codes.

Knows latents, noise and codes; knows words only through the text encoder, once that is trained. Learns v on a cosine
schedule with zero terminal SNR.
"""

from typing import Any

import torch
from torch import Tensor

from . import codes, grounds, muon, runtime
from .attention_targets import AttentionLoss, Targets, attention_targets, row_shares
from .nets.autoencoder import Autoencoder
from .nets.unet import UNet
from .sampling import TIMES, alphas
from .stage import Course
from .text_encoder import PromptCodes
from .windows import Cells

UNCOND_SHARE = 0.1  # of samples that learn without a prompt, for classifier-free guidance
ENCODED_SHARE = 0.5  # of samples whose code comes from the text encoder itself, once there is one
SEVERAL_SHARE = 0.65  # of samples that do not show one object alone: what is small is learnt last
ATTENTION_WEIGHT = 0.4  # of the attention loss
MOST_WEIGHT = 2.5  # of an error of the clean latents, squared; v's own weight is 1 / (share of the noise)
ROLLED = 2  # every so many samples see what the network makes of an earlier time
STRIDES = (125, 250, 500)  # how much earlier: a step of eight, of four or of two
FROM_NOISE_SHARE = 0.5  # of those, that come from pure noise: after the first step all hangs on what was laid then
CODE_NOISE = 0.15  # at most, beside tokens of size 1
PURE_NOISE_SHARE = 0.25  # of samples at the last timestep, where all of the picture is decided


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


def encode_hues(noise: Tensor, hues: Tensor) -> Tensor:
    """(B, 4, h, w) noise that tells which hue a ground has that no prompt names; ``hues`` are (B,), NaN for others.

    The sums of its first two latents are the hue's cosine and sine, but for their length. Noise that is turned so is as
    likely as it was before: what the network learns from is ordinary noise, and ordinary noise decides for itself. So
    the first step already knows, and does not draw the mean of all hues.

    Nothing else of a picture is left to noise. Where it also decided on one of a few places, on a size, or on which of
    two lies higher, the network believed now the noise and now the picture in it, and drew both.
    """
    sums = noise[:, :2].sum((2, 3))
    wanted = torch.stack((hues.cos(), hues.sin()), 1) * sums.norm(dim=1, keepdim=True)
    added = torch.where(hues.isnan()[:, None], 0.0, wanted - sums) / noise[0, 0].numel()
    return torch.cat((noise[:, :2] + added[:, :, None, None], noise[:, 2:]), 1)


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
        rolled = torch.arange(0, size, ROLLED, device=self.course.device)
        scene = samples.labels[rolled, 1] > len(grounds.COLOURS)
        time[rolled], earlier = self._rolled_times(time[rolled], scene)
        pure = time == TIMES - 1
        pure[rolled] = earlier == TIMES - 1
        noise = self._normal(clean.shape)
        noise = torch.where(pure.view(-1, 1, 1, 1), encode_hues(noise, samples.hues), noise)
        signal = self.alphas[time].view(-1, 1, 1, 1)
        noised = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        made = self._rolled(clean[rolled], noise[rolled], earlier, time[rolled], tokens[rolled])
        noised = noised.index_copy(0, rolled, made)
        target = (signal.sqrt() * noised - clean) / (1 - signal).sqrt()
        looks = attention_targets(samples.boxes, self.row_shares, cells)
        asked = ~uncond[:, None, None, None]
        flat = [part for look in looks for part in (look.parts, look.shares * asked)]
        return noised, time, tokens, target, signal, *flat

    def _rolled_times(self, time: Tensor, scene: Tensor) -> tuple[Tensor, Tensor]:
        """Of some samples, (B,): the times that they are seen at, and the earlier ones that they come from.

        What comes from pure noise knows nothing of its picture but what noise tells, and it does not tell which of many
        paintings lies behind a ``scene``, (B,): those come from pictures under noise alone.
        """
        strides = torch.tensor(STRIDES, device=time.device)
        stride = strides[(len(strides) * self._uniform(len(time))).long()]
        from_noise = (self._uniform(len(time)) < FROM_NOISE_SHARE) & ~scene
        time = torch.where(from_noise, TIMES - 1 - stride, time.clamp(max=TIMES - 1 - STRIDES[0]))
        earlier = (time + stride).clamp(max=TIMES - 1)
        return time, torch.where(scene & (earlier == TIMES - 1), time, earlier)

    def _rolled(self, clean: Tensor, noise: Tensor, earlier: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
        """Noised latents as a step of DDIM from an earlier time leaves them, with its errors.

        When a picture is drawn there are no others. What has seen true ones alone believes them, where it could look up
        what is wrong with them. (The bias: Ning et al., "Elucidating the exposure bias in diffusion models", 2024.)
        """
        before, after = (self.alphas[when].view(-1, 1, 1, 1) for when in (earlier, time))
        seen = before.sqrt() * clean + (1 - before).sqrt() * noise
        with runtime.autocast(self.course.device):
            v = self.net(seen, earlier, tokens).float()
        made = before.sqrt() * seen - (1 - before).sqrt() * v
        left = before.sqrt() * v + (1 - before).sqrt() * seen
        then: Tensor = after.sqrt() * made + (1 - after).sqrt() * left
        return then

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
        strength = CODE_NOISE * self._uniform(len(tokens), 1, 1)
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
