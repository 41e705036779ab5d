"""The autoencoder: 128x128 pixels to 16x16 latents of 4 channels and back.

Knows pictures and latents; knows neither words nor noise schedules. The first session trains both
halves. Later ones (`--decoder-only`) leave the latents as they are, so that the UNet stays valid.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from . import concepts, runtime
from .scenes import SceneRenderer

CHECKPOINT = runtime.CHECKPOINTS / "autoencoder.pt"
SAMPLES = 36_000
LATENTS, WIDTH = 4, 64
LAYOUT_SHARES = (0.53, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.02)


def build() -> AutoencoderTiny:
    """The network, with random weights."""
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=(0, 0, 1, 1),
        num_decoder_blocks=(4, 2, 1, 0),
        latent_channels=LATENTS,
    )


def load(path: Path = CHECKPOINT) -> AutoencoderTiny:
    """The network with its EMA weights, in float32."""
    state = runtime.restore(path)
    if state is None:
        raise FileNotFoundError(f"{path}: train the autoencoder first")
    net = build()
    net.load_state_dict({k: v.float() for k, v in state["average"].items()})
    return net.eval().to(memory_format=torch.channels_last)


def loss_of(made: Tensor, real: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """The loss over pixels, edges and the latents' mean and deviation; and the plain squared error."""
    squared = F.mse_loss(made, real)
    edges = sum(F.l1_loss(made.diff(dim=d), real.diff(dim=d)) for d in (2, 3))
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    shape = mean.square().mean() + (std - 1).square().mean()
    return F.l1_loss(made, real) + 2 * squared + edges + 0.05 * shape, squared


def train(target: int, batch: int, peak: float, decoder_only: bool) -> None:
    """Train until ``target`` samples in all, from the checkpoint if there is one; ``peak`` is the learning rate's."""
    runtime.set_up(11)
    renderer = SceneRenderer(runtime.ART, concepts.load(runtime.ART))
    net, schedule = build(), runtime.TrainingSchedule(target, runtime.samples_of(CHECKPOINT), 0.4)
    smoothed = 0.0  # squared error
    if (state := runtime.restore(CHECKPOINT)) is not None:
        net.load_state_dict({k: v.float() for k, v in state["average"].items()})
    net = net.to(memory_format=torch.channels_last)
    net.encoder.requires_grad_(not decoder_only)
    weights = [w for w in net.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=peak, betas=(0.9, 0.99), weight_decay=1e-4, foreach=True)
    ema = runtime.EMA(net, 0.995)
    rng = np.random.default_rng(1000 + schedule.seen)
    saved = time.monotonic()
    while schedule.going:
        rows = [renderer.render(renderer.draw(rng, LAYOUT_SHARES), rng) for _ in range(batch)]
        real = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        real = real.contiguous(memory_format=torch.channels_last)
        with runtime.autocast():
            latents = net.encoder(real)
            noisy = latents + (0.05 + 0.1 * torch.rand(batch, 1, 1, 1)) * torch.randn(latents.shape)
            made = net.decoder(noisy.clamp(-6, 6))
        loss, squared = loss_of(made.float(), real, latents.float())
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(peak)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
        optimizer.step()
        ema.update(net)
        schedule.seen += batch
        smoothed = 0.98 * smoothed + 0.02 * squared.item() if smoothed else squared.item()
        if schedule.seen // batch % 50 == 0:
            shown = f"{-10 * np.log10(smoothed / 4):.2f} dB, loss {loss.item():.4f}"
            print(f"{schedule.seen} samples, {schedule.done:.0%}, {schedule.pace:.1f}/s, {shown}", flush=True)
        if time.monotonic() - saved > 120:
            saved = time.monotonic()
            runtime.save(CHECKPOINT, {"average": ema.weights, "samples": schedule.seen})
    runtime.save(CHECKPOINT, {"average": runtime.half(ema.weights), "samples": schedule.seen})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="in all, earlier sessions included")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decoder-only", action="store_true")
    options = parser.parse_args()
    train(options.samples, options.batch, options.rate, options.decoder_only)


if __name__ == "__main__":
    main()
