"""The UNet: UNet2DConditionModel of diffusers, as far as the embedded model needs it.

Knows the order of the blocks and what diffusers calls its settings; knows nothing of latents, codes and training. The
blocks at full size have no attention, and the next ones none on the way down, so that most of the work is done on fewer
places.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .layers import (
    Attention,
    Downsample,
    ResnetBlock,
    SpatialTransformer,
    TextEmbedding,
    TimeEmbedding,
    TransformerBlock,
    Upsample,
    time_waves,
)


@dataclass(frozen=True)
class UNetShape:
    """What the network's size and keys depend on."""

    channels: tuple[int, ...] = (32, 64, 128, 192)
    time: int = 256  # width of the time's embedding
    layers: int = 1  # residual blocks a level on the way down; one more on the way up
    context: int = 192  # width of a token
    heads: int = 4
    groups: int = 16

    def config(self) -> dict[str, Any]:
        """The settings of diffusers' class for the same network."""
        return {
            "sample_size": 32,
            "block_out_channels": self.channels,
            "time_embedding_dim": self.time,
            "layers_per_block": self.layers,
            "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": self.context,
            "attention_head_dim": (self.heads,) * 4,  # heads, whatever diffusers calls them
            "norm_num_groups": self.groups,
            "use_linear_projection": True,
            "resnet_time_scale_shift": "scale_shift",
            "addition_embed_type": "text",
            "addition_embed_type_num_heads": self.heads,
        }


ATTENDED_DOWN = (False, False, True, False)  # by level, the finest first
ATTENDED_UP = (False, True, True, False)  # the coarsest first


class Block(nn.Module):
    """One level: residual blocks, attentions after them where there are any, and the change of size."""

    attentions: nn.ModuleList  # where it is attended
    downsamplers: nn.ModuleList  # in all levels on the way down but the last
    upsamplers: nn.ModuleList  # in all levels on the way up but the last

    def __init__(self, resnets: list[ResnetBlock], attentions: list[SpatialTransformer]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        self.attended = bool(attentions)

    def layer(self, number: int, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """One residual block and the attention after it."""
        x = self.resnets[number](x, time)
        if self.attended:
            x = self.attentions[number](x, context)
        return x


class UNet(nn.Module):
    """v of noised latents, (B, 4, h, w), from the time (B,) and tokens (B, M, context)."""

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.shape = shape
        channels, time = shape.channels, shape.time

        def resnet(inside: int, outside: int) -> ResnetBlock:
            return ResnetBlock(inside, outside, time, shape.groups)

        def attention(width: int) -> SpatialTransformer:
            return SpatialTransformer(width, shape.context, shape.heads, shape.groups)

        self.conv_in = nn.Conv2d(4, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], time)
        self.add_embedding = TextEmbedding(shape.context, time, shape.heads)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        last = len(channels) - 1
        for level, width in enumerate(channels):
            before = channels[max(level - 1, 0)]
            resnets = [resnet(before if n == 0 else width, width) for n in range(shape.layers)]
            attentions = [attention(width) for _ in resnets] if ATTENDED_DOWN[level] else []
            block = Block(resnets, attentions)
            if level < last:
                block.downsamplers = nn.ModuleList([Downsample(width)])
            self.down_blocks.append(block)
        self.mid_block = Block([resnet(channels[-1], channels[-1]) for _ in range(2)], [attention(channels[-1])])
        for level in range(len(channels)):
            width, coarser = channels[last - level], channels[min(last - level + 1, last)]
            finer = channels[max(last - level - 1, 0)]
            resnets = []
            for n in range(shape.layers + 1):
                skip = finer if n == shape.layers else width
                resnets.append(resnet((coarser if n == 0 else width) + skip, width))
            attentions = [attention(width) for _ in resnets] if ATTENDED_UP[level] else []
            block = Block(resnets, attentions)
            if level < last:
                block.upsamplers = nn.ModuleList([Upsample(width)])
            self.up_blocks.append(block)
        self.conv_norm_out = nn.GroupNorm(shape.groups, channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(channels[0], 4, 3, padding=1)

    def forward(self, noised: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
        emb = self.time_embedding(time_waves(time, self.shape.channels[0])) + self.add_embedding(tokens)
        x = self.conv_in(noised)
        skips = [x]
        for block in _blocks(self.down_blocks):
            for number in range(len(block.resnets)):
                x = block.layer(number, x, emb, tokens)
                skips.append(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0](x)
                skips.append(x)
        middle = self.mid_block
        x = middle.resnets[1](middle.layer(0, x, emb, tokens), emb)
        for block in _blocks(self.up_blocks):
            for number in range(len(block.resnets)):
                x = block.layer(number, torch.cat((x, skips.pop()), 1), emb, tokens)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0](x, skips[-1].shape[2:])
        made: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return made

    def looking(self) -> tuple[Attention, Attention, Attention]:
        """The three attentions that have targets: the first two levels below full size, two one level below it."""
        _, below, above, _ = _blocks(self.up_blocks)
        first, second, third = (
            cast(TransformerBlock, cast(SpatialTransformer, found).transformer_blocks[0]).attn2
            for found in (below.attentions[0], above.attentions[0], above.attentions[-1])
        )
        return first, second, third


def _blocks(listed: nn.ModuleList) -> list[Block]:
    return [cast(Block, block) for block in listed]
