"""Model folders with true headers and no bytes: safetensors files whose data are a hole, which takes no disk.

The loader reads them as it reads any; all weights are zero. A model of 54 GB takes less than a megabyte.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

_TYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}

MAX_SHARD = 5 << 30


def write_folder(pipeline: Any, folder: Path) -> None:
    """Write a pipeline, whose weights may be on meta, as a hub has it."""
    folder.mkdir(parents=True)
    pipeline.save_config(folder)
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            _write_module(part, folder / name)
        elif part is not None:
            part.save_pretrained(folder / name)


def _write_module(module: Any, folder: Path) -> None:
    folder.mkdir()
    if hasattr(module, "save_config"):  # diffusers
        module.save_config(folder)
        name = "diffusion_pytorch_model"
    else:
        module.config.architectures = [type(module).__name__]
        module.config.dtype = torch.bfloat16
        module.config.save_pretrained(folder)
        name = "model"
    tied = getattr(module, "all_tied_weights_keys", {})  # saved once, under the other name
    shards = _sharded({key: tensor for key, tensor in module.state_dict().items() if key not in tied})
    if len(shards) == 1:
        write_sparse(folder / f"{name}.safetensors", shards[0])
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"{name}-{number:05}-of-{len(shards):05}.safetensors"
        write_sparse(folder / file, shard)
        places |= dict.fromkeys(shard, file)
    total = sum(_bytes(tensor) for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / f"{name}.safetensors.index.json").write_text(json.dumps(index))


def _sharded(tensors: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The same in files of at most so many bytes, as hubs have them: a larger one cannot be mapped everywhere."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size + _bytes(tensor) > MAX_SHARD and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += _bytes(tensor)
    return shards


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def write_sparse(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A safetensors file of tensors of these shapes and types, with a hole for data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + _bytes(tensor)
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)
