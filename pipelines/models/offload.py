"""``offload: true``: a model whose weights stay in host memory, and come to the device as they run.

Knows the components of a pipeline and diffusers' group offloading; knows neither runs nor budgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.hooks import apply_group_offloading

from pipelines.models.streaming import Copies, Streamed, encoders


def offload(
    pipeline: Any,
    device: torch.device,
    *,
    host_bytes: int,
    streams_encoders: bool,
    beside: Mapping[str, torch.nn.Module] | None = None,
) -> dict[str, Streamed]:
    """Leave a pipeline's weights in host memory, and those of modules ``beside`` it, by name; those of its text
    encoders as streaming.py does.

    Transformers come by blocks, other parts by layers. The VAE stays on the device: it is small, and it is called by
    ``decode``, which the hooks do not see, so their record of what runs would grow with every picture. Memory is pinned
    if it takes no more than ``host_bytes``; else each layer is pinned for its own copy, which is slower.
    """
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    parts |= beside or {}
    size = sum(parameter.nbytes for part in parts.values() for parameter in part.parameters())
    pinned = size <= host_bytes
    streamed = encoders(pipeline) if streams_encoders else {}
    copies = Copies(device)
    options: dict[str, Any] = {
        "onload_device": device,
        "offload_device": torch.device("cpu"),
        "use_stream": device.type == "cuda",
        "record_stream": device.type == "cuda",  # else the host waits twice for each layer
        "low_cpu_mem_usage": not pinned,
    }
    for name, part in parts.items():
        if name == "vae":
            part.to(device)
        elif name.startswith("transformer"):
            apply_group_offloading(part, offload_type="block_level", num_blocks_per_group=1, **options)
        elif name not in streamed:
            apply_group_offloading(part, offload_type="leaf_level", **options)
    return {name: Streamed(part, device, copies, pinned=pinned) for name, part in streamed.items()}
