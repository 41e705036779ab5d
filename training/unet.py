"""The UNet: from noise to latents, told by scene codes what to draw.

Knows latents, noise and codes; knows no words. Learns v from a zero-terminal-SNR cosine schedule, in
stretches of so many minutes, and goes on from its checkpoint.
"""

import argparse
import time
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from . import codes, concepts, pool, runtime, sheet

CHECKPOINT = runtime.CHECKPOINTS / "unet.pt"
SAMPLES = 400_000
CHANNELS = (96, 128, 160)
DROPPED = 0.1  # share of samples that learn without a prompt, for guidance
AT_START = 0.1  # share of samples at pure noise, where the layout is decided


def build() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=codes.WIDTH,
        attention_head_dim=(2, 4, 4),
        norm_num_groups=16,
        use_linear_projection=True,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=256,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


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


class Feed:
    """Batches of noised latents and codes from the pool, which may still be growing."""

    def __init__(self, seed: int, codebook: codes.Codes) -> None:
        self.codebook, self.random = codebook, torch.Generator().manual_seed(seed)
        self.read: set[Path] = set()
        self.latents = torch.empty(0, 4, 16, 16, dtype=torch.float16)
        self.labels = torch.empty(0, 4, dtype=torch.int16)
        self.alphas = schedule().alphas_cumprod
        self.scale = 1.0
        self.refill()

    def refill(self) -> None:
        for latents, labels in pool.load(self.read):
            self.latents, self.labels = torch.cat((self.latents, latents)), torch.cat((self.labels, labels))

    def batch(self, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noised latents, time, tokens, target v."""
        picked = torch.randint(len(self.latents), (size,), generator=self.random)
        clean = self.latents[picked].float() * self.scale
        labels = self.labels[picked].long()
        labels[torch.rand(size, generator=self.random) < DROPPED] = -1
        tokens = self.codebook.tokens(*labels.unbind(1))
        rough = 0.25 * torch.rand(size, 1, 1, generator=self.random)
        tokens = tokens + rough * torch.randn(tokens.shape, generator=self.random)
        time_ = (1000 * torch.rand(size, generator=self.random) ** 0.7).long()  # more of the noisy end
        time_[torch.rand(size, generator=self.random) < AT_START] = 999
        noise = torch.randn(clean.shape, generator=self.random)
        signal = self.alphas[time_].view(-1, 1, 1, 1)
        noised = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        target = signal.sqrt() * noise - (1 - signal).sqrt() * clean
        return noised.contiguous(memory_format=torch.channels_last), time_, tokens, target


def train(target_samples: int, batch: int, peak: float) -> None:
    runtime.quiet_start(17)
    codebook = codes.load(runtime.ART, concepts.load(runtime.ART))
    net, course = (
        build().to(memory_format=torch.channels_last),
        runtime.Course(target_samples, runtime.samples_of(CHECKPOINT)),
    )
    net.set_attn_processor(AttnProcessor())  # 18 % faster here than fused attention, whose backward is slow
    optimizer = torch.optim.AdamW(net.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01, foreach=True)
    average = runtime.Average(net, 0.9985)
    if (state := runtime.restore(CHECKPOINT)) is not None:
        average.weights = {k: v.float() for k, v in state["average"].items()}
        net.load_state_dict(state.get("net", average.weights))
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
    feed = Feed(90_000 + course.seen, codebook)

    def keep() -> None:
        now = {"samples": course.seen, "average": average.weights}
        runtime.save(CHECKPOINT, {**now, "net": net.state_dict(), "optimizer": optimizer.state_dict()})

    log, saved = 0.0, time.monotonic()
    while course.seen < course.target:
        noised, time_, tokens, target = feed.batch(batch)
        with torch.autocast("cpu", torch.bfloat16):
            made = net(noised, time_, tokens).sample
        loss = F.mse_loss(made.float(), target)
        for group in optimizer.param_groups:
            group["lr"] = course.rate(peak)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0, foreach=True)
        optimizer.step()
        average.update(net)
        course.seen += batch
        log = 0.98 * log + 0.02 * float(loss) if log else float(loss)
        if course.seen // batch % 50 == 0:
            print(f"{course.seen} samples, {course.done:.0%}, {course.pace:.1f}/s, loss {log:.4f}", flush=True)
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
