"""The UNet: from noise to latents, told by scene codes what to draw.

Knows latents, noise and codes, and words only through the text encoder, once that is trained. Learns v from a
zero-terminal-SNR cosine schedule, in stretches of so many samples, and goes on from its checkpoint.
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

from . import codes, concepts, pool, runtime, sheet, text_encoder
from .gaze import Gaze, parts_of_cells, shares
from .scenes import CELLS, LAYOUTS, MOST, choices
from .text_encoder import Speaker

CHECKPOINT = runtime.CHECKPOINTS / "unet.pt"
SAMPLES = 440_000
CHANNELS = (64, 128, 192)
HEADS = 4  # of every attention
DROPPED = 0.1  # share of samples that learn without a prompt, for guidance
SPOKEN = 0.5  # share of samples that hear the text encoder itself, once there is one
SEVERAL = 0.6  # share of samples that are no lone object: what is small is learnt last
GAZE = 0.2  # weight of looking at the right part
AT_START = 0.05  # share of samples at pure noise, where the layout is decided


def build() -> UNet2DConditionModel:
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
def look_at_marks(net: UNet2DConditionModel) -> None:
    """Let every head's keys begin as what tells the parts apart: smooth waves of their row and column, and the object.

    Keys drawn at random are mostly what a part looks like, and where it lies has to be found among that: by 12,000
    samples the network knew grounds, layouts and an object's mean colour, and no shapes.
    """
    waves = codes.mark_waves(5)  # (11, WIDTH)
    for name, weight in net.named_parameters():
        if not name.endswith("attn2.to_k.weight"):
            continue
        heads = weight.view(HEADS, -1, codes.WIDTH)
        heads.mul_(0.5)
        heads[:, : len(waves)] = waves


def schedule() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def load(path: Path = CHECKPOINT) -> UNet2DConditionModel:
    """The averaged weights, in float32."""
    state = runtime.restore(path)
    if state is None:
        raise FileNotFoundError(f"{path}: train the UNet first")
    net = build()
    net.load_state_dict({k: v.float() for k, v in state["average"].items()})
    return net.eval().to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    noised: Tensor  # (B, 4, 16, 16)
    time: Tensor  # (B,)
    tokens: Tensor  # (B, LENGTH, WIDTH)
    target: Tensor  # v, (B, 4, 16, 16)
    parts: Tensor  # (B, 16, 16, 2 * PARTS), how much of a cell is of which part
    signal: Tensor  # (B, 1, 1, 1), the share of the picture in what is seen


def say_choices(noise: Tensor, chosen: Tensor) -> None:
    """Turn (B, 4, 16, 16) noise round until it says what `choices` were made, (B, 3), in place.

    The first latent has more on the right if the objects are shifted there, the second more below if they are shifted
    down, the third more than nothing if a lone object is the large one. Mirrored or negated noise is as likely as what
    it was: noise drawn without a thought is what the network has learnt from, and decides for itself where things lie.
    So already the first step knows, and what it draws is not the mean of all places.
    """
    half = CELLS // 2
    right = noise[:, 0, :, half:].sum((1, 2)) - noise[:, 0, :, :half].sum((1, 2))
    below = noise[:, 1, half:].sum((1, 2)) - noise[:, 1, :half].sum((1, 2))
    above_none = noise[:, 2].sum((1, 2))
    across, down, large = (
        ((said > 0) != (wanted > 0)) & (wanted >= 0)
        for said, wanted in zip((right, below, above_none), chosen.unbind(1), strict=True)
    )
    noise[across, 0] = noise[across, 0].flip(-1)
    noise[down, 1] = noise[down, 1].flip(-2)
    noise[large, 2] = -noise[large, 2]


class Feed:
    """Batches of noised latents and codes from the pool, which may still be growing."""

    def __init__(self, seed: int, codebook: codes.Codes, speaker: Speaker | None = None) -> None:
        self.speaker = speaker
        self.codebook, self.random = codebook, torch.Generator().manual_seed(seed)
        self.read: set[Path] = set()
        self.latents = torch.empty(0, 4, 16, 16, dtype=torch.float16)
        self.labels = torch.empty(0, 4, dtype=torch.int16)
        self.boxes = torch.empty(0, MOST, 4, dtype=torch.int8)
        self.shares = shares()
        self.alphas = schedule().alphas_cumprod
        self.refill()

    def refill(self) -> None:
        for latents, labels, boxes in pool.load(self.read):
            self.latents, self.labels = torch.cat((self.latents, latents)), torch.cat((self.labels, labels))
            self.boxes = torch.cat((self.boxes, boxes))

        single = self.labels[:, 0] == LAYOUTS.index("single")
        self.alone, self.several = (where.nonzero()[:, 0] for where in (single, ~single))

    def _draw(self, places: Tensor, size: int) -> Tensor:
        return places[torch.randint(len(places), (size,), generator=self.random)]

    def batch(self, size: int) -> Batch:
        several = torch.rand(size, generator=self.random) < SEVERAL
        picked = torch.where(several, self._draw(self.several, size), self._draw(self.alone, size))
        clean = self.latents[picked].float()
        labels = self.labels[picked].long()
        untold = torch.rand(size, generator=self.random) < DROPPED
        labels[untold] = -1
        tokens = self.codebook.tokens(*labels.unbind(1))
        rough = 0.25 * torch.rand(size, 1, 1, generator=self.random)
        tokens = tokens + rough * torch.randn(tokens.shape, generator=self.random)
        if self.speaker is not None:
            spoken = int(SPOKEN * size)
            tokens[:spoken] = self.speaker(labels[:spoken])
        time_ = (1000 * torch.rand(size, generator=self.random) ** 0.7).long()  # more of the noisy end
        time_[torch.rand(size, generator=self.random) < AT_START] = 999
        noise = torch.randn(clean.shape, generator=self.random)
        say_choices(noise, choices(self.labels[picked].long()[:, 0], self.boxes[picked].long()))
        signal = self.alphas[time_].view(-1, 1, 1, 1)
        noised = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        target = signal.sqrt() * noise - (1 - signal).sqrt() * clean
        parts = parts_of_cells(self.boxes[picked].long(), self.shares)
        parts[untold] = 0
        return Batch(noised.contiguous(memory_format=torch.channels_last), time_, tokens, target, parts, signal)


def train(target_samples: int, batch: int, peak: float) -> None:
    runtime.quiet_start(17)
    codebook = codes.load(runtime.ART, concepts.load(runtime.ART))
    net, course = (
        build().to(memory_format=torch.channels_last),
        runtime.Course(target_samples, runtime.samples_of(CHECKPOINT), 0.3),
    )
    look_at_marks(net)
    net.set_attn_processor(AttnProcessor())  # 18 % faster here than fused attention, whose backward is slow
    optimizer = torch.optim.AdamW(net.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01, foreach=True)
    average = runtime.Average(net, 0.9985)
    if (state := runtime.restore(CHECKPOINT)) is not None:
        average.weights = {k: v.float() for k, v in state["average"].items()}
        net.load_state_dict(state.get("net", average.weights))
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
    speaker = Speaker(course.seen) if text_encoder.READER.exists() else None
    feed = Feed(90_000 + course.seen, codebook, speaker)

    def keep() -> None:
        now = {"samples": course.seen, "average": average.weights}
        runtime.save(CHECKPOINT, {**now, "net": net.state_dict(), "optimizer": optimizer.state_dict()})

    gaze = Gaze(net, HEADS)
    log, saved = torch.zeros(2), time.monotonic()
    while course.going:
        rows = feed.batch(batch)
        with runtime.autocast():
            made = net(rows.noised, rows.time, rows.tokens).sample
        loss = F.mse_loss(made.float(), rows.target)
        lost = gaze.loss(rows.parts, rows.signal)
        for group in optimizer.param_groups:
            group["lr"] = course.rate(peak)
        optimizer.zero_grad(set_to_none=True)
        (loss + GAZE * lost).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0, foreach=True)
        optimizer.step()
        average.update(net)
        course.seen += batch
        now = torch.stack((loss, lost)).detach()
        log = log.lerp(now, 0.02) if log.any() else now
        if course.seen // batch % 50 == 0:
            print(
                f"{course.seen} samples, {course.done:.0%}, {course.pace:.1f}/s, loss {log[0]:.4f}, gaze {log[1]:.3f}",
                flush=True,
            )
            feed.refill()
        if time.monotonic() - saved > 240:
            saved = time.monotonic()
            keep()
            sheet.of_codes(average.weights, codebook, runtime.BUILD / f"sheets/unet-{course.seen:07}.png")
    keep()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="in all, earlier stretches included")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    options = parser.parse_args()
    train(options.samples, options.batch, options.rate)


if __name__ == "__main__":
    main()
