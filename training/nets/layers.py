"""Layers of the UNet, with the names that diffusers gives their weights.

Knows convolutions, attention and the time; knows neither how blocks are put together nor what they learn. Attention is
written out where `Attention.recorded` is set, since its probabilities are wanted then, and on a CPU that learns, where
the fused kernel's backward is slow; elsewhere torch's fused kernel does it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """(B, H, N, D) of attended values, and the (B, H, N, M) probabilities; written out."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    shares = scores.softmax(-1).to(value.dtype)  # in float32 where the autocast of the device wants it so
    return shares @ value, shares


class Attention(nn.Module):
    """Multi-head attention of (B, N, C) places to themselves or to a (B, M, context) context."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        self.recorded = False  # whether `probabilities` are kept
        self.probabilities: Tensor | None = None  # (B, H, N, M) of the last forward

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        query, key, value = (
            made.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for made in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        if self.recorded or (x.device.type == "cpu" and torch.is_grad_enabled()):
            found, shares = attend(query, key, value)
            self.probabilities = shares if self.recorded else None
        else:
            found = F.scaled_dot_product_attention(query, key, value)
        made: Tensor = self.to_out[0](found.transpose(1, 2).flatten(2))
        return made


class GatedLinear(nn.Module):
    """GEGLU: a linear map whose second half gates its first."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        gated: Tensor = value * F.gelu(gate)
        return gated


class FeedForward(nn.Module):
    """Four times as wide inside; `net.1` is where diffusers has a dropout of zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [GatedLinear(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)]
        )

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.net[2](self.net[0](x))
        return made


class TransformerBlock(nn.Module):
    """Attention to all places, attention to the context, and a feed-forward."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.attn1 = Attention(channels, channels, heads)
        self.attn2 = Attention(channels, context, heads)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        seen = self.norm1(x)
        x = x + self.attn1(seen, seen)
        x = x + self.attn2(self.norm2(x), context)
        made: Tensor = x + self.ff(self.norm3(x))
        return made


class SpatialTransformer(nn.Module):
    """Transformer2DModel with one block and linear projections: (B, C, h, w) to the same."""

    def __init__(self, channels: int, context: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, context, heads)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        places = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.transformer_blocks:
            places = block(places, context)
        made: Tensor = self.proj_out(places).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + made


class ResnetBlock(nn.Module):
    """Two convolutions round a skip, scaled and shifted by the time."""

    def __init__(self, inside: int, outside: int, time: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inside, eps=1e-5)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, 2 * outside)
        self.norm2 = nn.GroupNorm(groups, outside, eps=1e-5)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inside, outside, 1) if inside != outside else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        made = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.time_emb_proj(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        made = self.conv2(F.silu(self.norm2(made) * (1 + scale) + shift))
        kept: Tensor = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return kept + made  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Half as many rows and columns, rounded up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv(x)
        return made


class Upsample(nn.Module):
    """The nearest cells in a larger grid, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        made: Tensor = self.conv(F.interpolate(x, size=size, mode="nearest"))
        return made


class TimeEmbedding(nn.Module):
    """An MLP over the time's waves."""

    def __init__(self, waves: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(waves, width), nn.Linear(width, width)

    def forward(self, waves: Tensor) -> Tensor:
        made: Tensor = self.linear_2(F.silu(self.linear_1(waves)))
        return made


def time_waves(time: Tensor, count: int) -> Tensor:
    """(B,) timesteps to (B, count) cosines and sines."""
    half = count // 2
    steps = torch.arange(half, dtype=torch.float32, device=time.device)
    angles = time[:, None].float() * torch.exp(-math.log(10_000) * steps / half)
    return torch.cat((angles.cos(), angles.sin()), -1)


class AttentionPooling(nn.Module):
    """One token from many: the mean looks at all of them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(1, width) / width**0.5)
        self.k_proj, self.q_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        mean = tokens.mean(1, keepdim=True) + self.positional_embedding.to(tokens.dtype)
        every = torch.cat((mean, tokens), 1)
        query, key, value = (
            made.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for made in (self.q_proj(mean), self.k_proj(every), self.v_proj(every))
        )
        found, _ = attend(query, key, value)
        return found.transpose(1, 2).flatten(2)[:, 0]


class TextEmbedding(nn.Module):
    """What the whole prompt adds to the time."""

    def __init__(self, context: int, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(context)
        self.pool = AttentionPooling(context, heads)
        self.proj = nn.Linear(context, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        made: Tensor = self.norm2(self.proj(self.pool(self.norm1(tokens))))
        return made
