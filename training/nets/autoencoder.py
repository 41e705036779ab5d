"""The autoencoder: AutoencoderTiny of diffusers. Pixels of -1..1 to latents a quarter of their size, and back.

Knows layers and what diffusers calls its settings; knows nothing of training.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class AutoencoderShape:
    """What the network's size and keys depend on."""

    width: int = 64  # channels inside the encoder
    decoder: tuple[int, ...] = (64, 64, 64)  # channels inside the decoder, the coarsest first
    encoder_blocks: tuple[int, ...] = (0, 0, 4)
    decoder_blocks: tuple[int, ...] = (6, 1, 0)
    latents: int = 4

    def __post_init__(self) -> None:
        if len(set(self.decoder)) > 1:
            raise ValueError(f"the stock decoder has one width at all levels, not {self.decoder}")

    def config(self) -> dict[str, Any]:
        """The settings of diffusers' class for the same network."""
        return {
            "encoder_block_out_channels": (self.width,) * len(self.encoder_blocks),
            "decoder_block_out_channels": self.decoder,
            "num_encoder_blocks": self.encoder_blocks,
            "num_decoder_blocks": self.decoder_blocks,
            "latent_channels": self.latents,
        }


class ResidualBlock(nn.Module):
    """Three convolutions round a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second, third = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class Encoder(nn.Module):
    """(B, 3, 4h, 4w) pixels to (B, latents, h, w)."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for level, blocks in enumerate(shape.encoder_blocks):
            inside = shape.width if level else 3
            halving = {"stride": 2, "bias": False} if level else {}
            layers.append(nn.Conv2d(inside, shape.width, 3, padding=1, **halving))  # type: ignore[arg-type]
            layers += [ResidualBlock(shape.width) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(shape.width, shape.latents, 3, padding=1))

    def forward(self, pixels: Tensor) -> Tensor:
        made: Tensor = self.layers((pixels + 1) / 2)
        return made


class Decoder(nn.Module):
    """(B, latents, h, w) to (B, 3, 4h, 4w) pixels."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(shape.latents, shape.decoder[0], 3, padding=1), nn.ReLU()]
        for width, blocks in zip(shape.decoder[:-1], shape.decoder_blocks[:-1], strict=True):
            layers += [ResidualBlock(width) for _ in range(blocks)]
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        layers += [ResidualBlock(shape.decoder[-1]) for _ in range(shape.decoder_blocks[-1])]
        self.layers = nn.Sequential(*layers, nn.Conv2d(shape.decoder[-1], 3, 3, padding=1))
        self.coarse = 2 + shape.decoder_blocks[0]  # layers before the picture grows

    def forward(self, latents: Tensor) -> Tensor:
        made: Tensor = self.layers(torch.tanh(latents / 3) * 3)
        return made * 2 - 1

    def window(self, latents: Tensor, corner: Tensor, side: int) -> Tensor:
        """(B, 3, 4 * side, 4 * side): the pixels of a square of so many latents, from its upper left ``corner``.

        The layers at the latents' own size see all of them. The others, which cost most, do not see beyond the square.
        """
        x = self.layers[: self.coarse](torch.tanh(latents / 3) * 3)
        for dim in (0, 1):
            x = x.index_select(2 + dim, corner[dim] + torch.arange(side, device=x.device))
        made: Tensor = self.layers[self.coarse :](x)
        return made * 2 - 1


class Autoencoder(nn.Module):
    """Both halves."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder, self.decoder = Encoder(shape), Decoder(shape)
