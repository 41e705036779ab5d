"""The UNet: from noise to latents, conditioned on scene codes.

Knows latents, noise and codes; knows words only through the text encoder, once that is trained. Learns v on a cosine
schedule with zero terminal SNR, and goes on from its checkpoint.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from . import codes, concepts, runtime, shards, sheet, text_encoder
from .attention_targets import AttentionLoss, attention_targets, row_shares
from .scenes import CELLS, LAYOUTS, MAX_OBJECTS, choices
from .text_encoder import PromptCodes

CHECKPOINT = runtime.CHECKPOINTS / "unet.pt"
SAMPLES = 440_000
CHANNELS = (64, 128, 192)
HEADS = 4  # of every attention
UNCOND_SHARE = 0.1  # of samples that learn without a prompt, for classifier-free guidance
ENCODED_SHARE = 0.5  # of samples whose code comes from the text encoder itself, once there is one
SEVERAL_SHARE = 0.6  # of samples that do not show one object alone: what is small is learnt last
ATTENTION_WEIGHT = 0.2  # of the attention loss
PURE_NOISE_SHARE = 0.05  # of samples at the last timestep, where the layout is decided


def build() -> UNet2DConditionModel:
    """The network, with random weights."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=codes.WIDTH,
        attention_head_dim=(HEADS,) * 3,  # heads, whatever diffusers calls them
        norm_num_groups=16,
        use_linear_projection=True,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


@torch.no_grad()
def initialise_keys(net: UNet2DConditionModel) -> None:
    """Set every head's keys to what tells the parts apart: smooth waves of their row and column, and the object.

    Random keys are mostly what a part looks like, and where it lies has to be found among that: after 12,000 samples
    the network knew grounds, layouts and an object's mean colour, and no shapes.
    """
    waves = codes.mark_waves(5)  # (11, WIDTH)
    for name, weight in net.named_parameters():
        if not name.endswith("attn2.to_k.weight"):
            continue
        heads = weight.view(HEADS, -1, codes.WIDTH)
        heads.mul_(0.5)
        heads[:, : len(waves)] = waves


def scheduler() -> DDIMScheduler:
    """The noise schedule that the network is trained on and samples with."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def load(path: Path = CHECKPOINT) -> UNet2DConditionModel:
    """The network with its EMA weights, in float32."""
    state = runtime.restore(path)
    if state is None:
        raise FileNotFoundError(f"{path}: train the UNet first")
    return with_weights(state["average"])


def with_weights(weights: dict[str, Tensor]) -> UNet2DConditionModel:
    """The network with these weights, in float32, ready to sample."""
    net = build()
    net.load_state_dict({k: v.float() for k, v in weights.items()})
    return net.eval().to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class LatentBatch:
    """Noised latents with their codes and targets: what one step learns from."""

    noised: Tensor  # (B, 4, 16, 16)
    time: Tensor  # (B,)
    tokens: Tensor  # (B, LENGTH, WIDTH)
    target: Tensor  # v, (B, 4, 16, 16)
    attention_targets: Tensor  # (B, 16, 16, 2 * PARTS), how much of a cell is of which part
    signal: Tensor  # (B, 1, 1, 1), the share of the picture in the noised latents


def encode_choices(noise: Tensor, chosen: Tensor) -> None:
    """Mirror or negate (B, 4, 16, 16) noise in place, so that it tells which `choices` were made, (B, 3).

    The sum of the first latent is larger on the right if the objects are shifted there. The sum of the second is larger
    below if they are shifted down. The sum of the third is positive if a lone object is the large one. Mirrored or
    negated noise is as likely as it was before, so what the network learns from is ordinary noise, and ordinary noise
    decides for itself where things lie. So the first step already knows, and does not draw the mean of all places.
    """
    half = CELLS // 2
    right = noise[:, 0, :, half:].sum((1, 2)) - noise[:, 0, :, :half].sum((1, 2))
    below = noise[:, 1, half:].sum((1, 2)) - noise[:, 1, :half].sum((1, 2))
    total = noise[:, 2].sum((1, 2))
    across, down, large = (
        ((value > 0) != (wanted > 0)) & (wanted >= 0)
        for value, wanted in zip((right, below, total), chosen.unbind(1), strict=True)
    )
    noise[across, 0] = noise[across, 0].flip(-1)
    noise[down, 1] = noise[down, 1].flip(-2)
    noise[large, 2] = -noise[large, 2]


class LatentBatches:
    """Random batches of noised latents and codes from the shards, to which more may come while it is used."""

    def __init__(self, seed: int, codebook: codes.Codes, prompt_codes: PromptCodes | None = None) -> None:
        self.prompt_codes = prompt_codes
        self.codebook, self.random = codebook, torch.Generator().manual_seed(seed)
        self.read: set[Path] = set()
        self.latents = torch.empty(0, 4, 16, 16, dtype=torch.float16)
        self.labels = torch.empty(0, 4, dtype=torch.int16)
        self.boxes = torch.empty(0, MAX_OBJECTS, 4, dtype=torch.int8)
        self.row_shares = row_shares()
        self.alphas = scheduler().alphas_cumprod
        self.refill()

    def refill(self) -> None:
        """Read the shards that have come since."""
        for latents, labels, boxes in shards.load(self.read):
            self.latents, self.labels = torch.cat((self.latents, latents)), torch.cat((self.labels, labels))
            self.boxes = torch.cat((self.boxes, boxes))
        single = self.labels[:, 0] == LAYOUTS.index("single")
        self.alone, self.several = (where.nonzero()[:, 0] for where in (single, ~single))

    def _pick(self, places: Tensor, size: int) -> Tensor:
        return places[torch.randint(len(places), (size,), generator=self.random)]

    def draw(self, size: int) -> LatentBatch:
        """A batch of ``size`` samples."""
        several = torch.rand(size, generator=self.random) < SEVERAL_SHARE
        picked = torch.where(several, self._pick(self.several, size), self._pick(self.alone, size))
        clean = self.latents[picked].float()
        labels = self.labels[picked].long()
        uncond = torch.rand(size, generator=self.random) < UNCOND_SHARE
        labels[uncond] = -1
        tokens = self.codebook.tokens(*labels.unbind(1))
        token_noise = 0.25 * torch.rand(size, 1, 1, generator=self.random)
        tokens = tokens + token_noise * torch.randn(tokens.shape, generator=self.random)
        if self.prompt_codes is not None:
            encoded = int(ENCODED_SHARE * size)
            tokens[:encoded] = self.prompt_codes(labels[:encoded])
        time_ = (1000 * torch.rand(size, generator=self.random) ** 0.7).long()  # more of the noisy end
        time_[torch.rand(size, generator=self.random) < PURE_NOISE_SHARE] = 999
        noise = torch.randn(clean.shape, generator=self.random)
        encode_choices(noise, choices(self.labels[picked].long()[:, 0], self.boxes[picked].long()))
        signal = self.alphas[time_].view(-1, 1, 1, 1)
        noised = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        target = signal.sqrt() * noise - (1 - signal).sqrt() * clean
        looks = attention_targets(self.boxes[picked].long(), self.row_shares)
        looks[uncond] = 0
        noised = noised.contiguous(memory_format=torch.channels_last)
        return LatentBatch(noised, time_, tokens, target, looks, signal)


def train(target_samples: int, batch: int, peak: float) -> None:
    """Train until so many samples in all, from the checkpoint if there is one; ``peak`` is the learning rate's."""
    runtime.set_up(17)
    codebook = codes.load(runtime.ART, concepts.load(runtime.ART))
    net = build().to(memory_format=torch.channels_last)
    schedule = runtime.TrainingSchedule(target_samples, runtime.samples_of(CHECKPOINT), 0.3)
    initialise_keys(net)
    net.set_attn_processor(AttnProcessor())  # 18 % faster here than fused attention, whose backward is slow
    optimizer = torch.optim.AdamW(net.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01, foreach=True)
    ema = runtime.EMA(net, 0.9985)
    if (state := runtime.restore(CHECKPOINT)) is not None:
        ema.weights = {k: v.float() for k, v in state["average"].items()}
        net.load_state_dict(state.get("net", ema.weights))
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
    prompt_codes = PromptCodes(schedule.seen) if text_encoder.READER.exists() else None
    batches = LatentBatches(90_000 + schedule.seen, codebook, prompt_codes)

    def keep() -> None:
        now = {"samples": schedule.seen, "average": ema.weights}
        runtime.save(CHECKPOINT, {**now, "net": net.state_dict(), "optimizer": optimizer.state_dict()})

    attention_loss = AttentionLoss(net, HEADS)
    smoothed, saved = torch.zeros(2), time.monotonic()
    while schedule.going:
        rows = batches.draw(batch)
        with runtime.autocast():
            made = net(rows.noised, rows.time, rows.tokens).sample
        loss = F.mse_loss(made.float(), rows.target)
        looked = attention_loss(rows.attention_targets, rows.signal)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(peak)
        optimizer.zero_grad(set_to_none=True)
        (loss + ATTENTION_WEIGHT * looked).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0, foreach=True)
        optimizer.step()
        ema.update(net)
        schedule.seen += batch
        now = torch.stack((loss, looked)).detach()
        smoothed = smoothed.lerp(now, 0.02) if smoothed.any() else now
        if schedule.seen // batch % 50 == 0:
            progress = f"{schedule.seen} samples, {schedule.done:.0%}, {schedule.pace:.1f}/s"
            print(f"{progress}, loss {smoothed[0]:.4f}, attention loss {smoothed[1]:.3f}", flush=True)
            batches.refill()
        if time.monotonic() - saved > 240:
            saved = time.monotonic()
            keep()
            path = runtime.BUILD / f"sheets/unet-{schedule.seen:07}.png"
            sheet.of_codes(with_weights(ema.weights), scheduler(), codebook, path)
    keep()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="in all, earlier sessions included")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    options = parser.parse_args()
    train(options.samples, options.batch, options.rate)


if __name__ == "__main__":
    main()
