"""scaled_dot_product_attention on a fake device: the kernel that torch would choose, and what that allocates.

Knows the rules of ATen/native/transformers/cuda/sdp_utils.cpp as far as they decide memory: flash and
memory-efficient attention keep no scores, the plain kernels do.
"""

from __future__ import annotations

from typing import Any

import torch

from tests.device.graphs import computing
from tests.device.machine import Machine, know, values

ATTENTION: Any = torch.nn.functional.scaled_dot_product_attention


def attend(
    machine: Machine,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """The attention of ``query``, which is on a device. Raises RuntimeError for arguments that do not go together."""
    for other in (key, value, attn_mask):
        if other is not None and other.device != query.device:
            raise RuntimeError(f"Expected all tensors to be on the same device: {query.device}, {other.device}")
    if not query.dtype == key.dtype == value.dtype:
        raise RuntimeError(f"Expected query, key, and value to have the same dtype: {query.dtype}, {key.dtype}")
    machine.devices[query.device.index].require_alive()
    machine.require_no_fault("aten.scaled_dot_product_attention")
    *batch, heads, length, _ = query.shape
    kind = _kernel(query, attn_mask)
    machine.attention[f"{kind} {str(query.dtype)[6:]}{'' if attn_mask is None else ' masked'}"] += 1
    shape = (*batch, length, heads, value.shape[-1])
    out = torch.empty(shape, dtype=query.dtype, device=query.device).transpose(-2, -3)
    _hold(query, (*batch, heads, length), torch.float32)  # of the softmax
    if kind == "math":
        _hold(query, (*batch, heads, length, key.shape[-2]), query.dtype)
    elif attn_mask is not None and attn_mask.dtype is torch.bool:
        _hold(query, tuple(attn_mask.shape), query.dtype)
    known = [values(tensor) for tensor in (query, key, value)]
    mask = None if attn_mask is None else values(attn_mask)
    if all(tensor is not None for tensor in known) and (attn_mask is None) == (mask is None):

        def attended() -> torch.Tensor:
            result: torch.Tensor = ATTENTION(
                *known, attn_mask=mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
            )
            return result.transpose(-2, -3).contiguous().transpose(-2, -3)

        result = attended()
        know(out, result)
        if machine.captures.here is not None:
            machine.captures.here.launched(computing(attended, (), {}, [result]), [result])
    return out


def _kernel(query: torch.Tensor, mask: torch.Tensor | None) -> str:
    width, half = query.shape[-1], query.dtype.itemsize == 2
    if half and mask is None and width <= 256 and width % 8 == 0:
        return "flash"
    return "efficient" if width % (8 if half else 4) == 0 else "math"


def _hold(query: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Have room for a kernel's own tensor, for a moment."""
    torch.empty(shape, dtype=dtype, device=query.device)
