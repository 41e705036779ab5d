"""The super-resolution network: SRVGGNetCompact, with the keys that Real-ESRGAN gave it.

Knows layers; knows nothing of training. Pixels of 0..1 to twice the size: a stack of convolutions at the small size
says what is added to the nearest pixels.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class UpscalerShape:
    """What the network's size and keys depend on."""

    width: int = 32  # channels
    depth: int = 8  # convolutions between the first and the last
    scale: int = 2

    def config(self) -> dict[str, Any]:
        """The settings of Real-ESRGAN's class for the same network."""
        return {"num_feat": self.width, "num_conv": self.depth, "upscale": self.scale, "act_type": "prelu"}


class Upscaler(nn.Module):
    """(B, 3, h, w) to (B, 3, scale * h, scale * w), in 0..1."""

    def __init__(self, shape: UpscalerShape) -> None:
        super().__init__()
        self.shape = shape
        body: list[nn.Module] = [nn.Conv2d(3, shape.width, 3, padding=1), nn.PReLU(shape.width)]
        for _ in range(shape.depth):
            body += [nn.Conv2d(shape.width, shape.width, 3, padding=1), nn.PReLU(shape.width)]
        body.append(nn.Conv2d(shape.width, 3 * shape.scale**2, 3, padding=1))
        self.body = nn.ModuleList(body)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels
        for layer in self.body:
            x = layer(x)
        return F.pixel_shuffle(x, self.shape.scale) + F.interpolate(pixels, scale_factor=self.shape.scale)
