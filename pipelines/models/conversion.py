"""A model of single files, written as a folder in diffusers' format.

Knows the folder's form and the order of it: one component at a time, model_index.json last. What is stored stays as it
is stored, but fp8 becomes bfloat16, times its scales; EMA weights and what trainers leave are not copied. Knows neither
devices nor disks: whoever calls has made room, and names a folder that nobody reads yet.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch

from pipelines.errors import LoadRefused
from pipelines.facts import headers, model_files
from pipelines.facts.component import INDEX, Kind
from pipelines.facts.folder import Part
from pipelines.models import dry_run, single_file, verify
from pipelines.plan import ModelPlan

Progress = Callable[[int], None]  # bytes that were written since the last call

_SHARD_BYTES = 4 * 10**9
_CHUNK_BYTES = 16 * 1024 * 1024
_NAMES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"},
    torch.bool: "BOOL",
}


def write(plan: ModelPlan, folder: Path, progress: Progress) -> None:
    """Write a plan's model into a folder, and compare what was written. Raises LoadRefused, OSError."""
    parts = model_files.parts(plan)
    verify.check_classes(Path(plan.folder), parts)
    for part in parts:
        verify.compare(part)
    for part in parts:
        target = folder / part.component.name
        target.mkdir()
        for name in (*part.files.configs, *part.files.tokens):
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(part.folder / name, target / name)
        if part.lends_vocabulary or part.vocabulary is not None:
            single_file.tokenizer(part.folder, part.vocabulary).save_pretrained(target)
        elif part.component.kind is Kind.MODEL:
            _write_weights(part, target, progress)
    index = json.loads((Path(plan.folder) / INDEX).read_text(encoding="utf-8"))
    index |= {name: [None, None] for name in model_files.left_out(plan)}
    changed = model_files.scheduler(plan)
    if changed is not None:
        class_name, config = changed
        scheduler = getattr(diffusers, class_name).from_config(config)
        scheduler.save_config(folder / "scheduler")
        index["scheduler"] = ["diffusers", class_name]
    _write_text(folder / INDEX, json.dumps(index, indent=2))
    problem = dry_run.problem(ModelPlan(plan.key, str(folder), plan.family))
    if problem is not None:
        raise LoadRefused(f"what was written is not what was read: {problem}")


def _write_weights(part: Part, target: Path, progress: Progress) -> None:
    _, tensors = single_file.named(part, torch.bfloat16)
    stem = "diffusion_pytorch_model" if part.component.library == "diffusers" else "model"
    shards = list(_shards(tensors))
    names = [f"{stem}.safetensors"]
    if len(shards) > 1:
        names = [f"{stem}-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
        by_tensor = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(by_tensor.items()))}
        _write_text(target / f"{stem}.safetensors.index.json", json.dumps(index, indent=2))
    for name, keys in zip(names, shards, strict=True):
        some = {key: tensors[key] for key in keys}
        _write_file(target / name, some, progress)
        _compare(target / name, some)


def _shards(tensors: Mapping[str, torch.Tensor]) -> Iterator[list[str]]:
    """The names of tensors, in files that are not too large."""
    shard: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > _SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += tensor.nbytes
    yield shard


def _write_file(path: Path, tensors: Mapping[str, torch.Tensor], progress: Progress) -> None:
    """Write a safetensors file, tensor by tensor: what stays as it is stored is mapped, and in memory as it is written.
    What was fp8 is in memory as bfloat16, all of the component."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        place = [end, end + tensor.nbytes]
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        end += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            data: Any = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            for start in range(0, len(data), _CHUNK_BYTES):
                progress(file.write(memoryview(data[start : start + _CHUNK_BYTES])))
        file.flush()
        os.fsync(file.fileno())


def _compare(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    written = {name: (each.dtype, each.shape) for name, each in headers.read(path).tensors.items()}
    if written != {name: (_NAMES[each.dtype], tuple(each.shape)) for name, each in tensors.items()}:
        raise LoadRefused(f"{path.name} was not written as it should be")


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
