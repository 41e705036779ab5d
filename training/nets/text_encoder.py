"""The text encoder: CLIPTextModel of transformers. Token ids to one hidden state a token, each seeing those before it.

Knows layers and what transformers calls its settings; knows neither words nor codes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class TextEncoderShape:
    """What the network's size and keys depend on."""

    vocabulary: int
    layers: int = 5
    width: int = 192
    inner: int = 2240  # of the MLPs
    heads: int = 4
    positions: int = 336

    def config(self) -> dict[str, Any]:
        """The settings of transformers' class for the same network."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "projection_dim": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": self.positions,
            "hidden_act": "gelu",
            "bos_token_id": self.vocabulary - 2,
            "eos_token_id": self.vocabulary - 1,
            "pad_token_id": self.vocabulary - 1,
        }


class Embeddings(nn.Module):
    """What a token is, and where it stands."""

    def __init__(self, shape: TextEncoderShape) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.position_embedding = nn.Embedding(shape.positions, shape.width)

    def forward(self, ids: Tensor) -> Tensor:
        made: Tensor = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        return made


class CausalAttention(nn.Module):
    """Multi-head attention of every token to itself and those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            made.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for made in (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        )
        if x.device.type == "cpu":  # a fifth faster there than the fused kernel, whose backward is slow
            later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
            found = scores.float().masked_fill(later, float("-inf")).softmax(-1).to(value.dtype) @ value
        else:
            found = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        made: Tensor = self.out_proj(found.transpose(1, 2).flatten(2))
        return made


class MLP(nn.Module):
    """One hidden layer."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return made


class Layer(nn.Module):
    """Attention, then the MLP, each after a norm."""

    def __init__(self, shape: TextEncoderShape) -> None:
        super().__init__()
        self.self_attn = CausalAttention(shape.width, shape.heads)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.mlp = MLP(shape.width, shape.inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        made: Tensor = x + self.mlp(self.layer_norm2(x))
        return made


class Layers(nn.Module):
    """The layers, one after another."""

    def __init__(self, shape: TextEncoderShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(shape) for _ in range(shape.layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class TextEncoder(nn.Module):
    """(B, N) ids to (B, N, width) hidden states, the last norm included."""

    def __init__(self, shape: TextEncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = Embeddings(shape)
        self.encoder = Layers(shape)
        self.final_layer_norm = nn.LayerNorm(shape.width)
        for embedding in (self.embeddings.token_embedding, self.embeddings.position_embedding):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        made: Tensor = self.final_layer_norm(self.encoder(self.embeddings(ids)))
        return made
