"""Random ControlNets for tests: made from a tiny model's own UNet, so that they fit it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel


def controlnet(unet: Any, cell: int, *, seed: int, **config: Any) -> ControlNetModel:
    """A ControlNet for ``unet``, whose VAE makes a latent of ``cell`` pixels a side. Its layers that start at zero have
    noise in them, so that it changes pictures."""
    channels = (8, 16, 16, 16)[: cell.bit_length()]
    own = unet.config.time_embedding_dim is not None  # a width of time that a ControlNet cannot have
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=channels, load_weights_from_unet=not own
        )
    if config:
        net = ControlNetModel.from_config({**net.config, **config})
    numbers = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        if name.startswith(("controlnet_", "controlnet_cond_embedding")):
            noise = torch.randn(parameter.shape, generator=numbers)
            # The last layer's picture has to be heard beside the latents, and each zero layer beside the UNet's.
            parameter.data = noise * (0.5 if parameter.dim() < 2 else 1.0 / parameter[0].numel() ** 0.5)
    return net.eval().requires_grad_(False)


def save_controlnet(unet: Any, cell: int, folder: Path, *, seed: int, **config: Any) -> Path:
    """The same as a folder, as hubs have it."""
    controlnet(unet, cell, seed=seed, **config).save_pretrained(folder)
    return folder
