"""Is a model folder complete, and safe to load? Told from names, JSON and safetensors headers alone.

Knows files; loads nothing, imports no torch. Sources of the rules: pickle weights (CVE-2025-32434), code named
by a config (CVE-2026-4372, CVE-2026-5241), paths that leave the folder (CVE-2026-27905), headers that lie about
their length (safetensors format: 8 bytes of little-endian length, then JSON, then the data to the end of file).
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.errors import LoadRefused

_MAX_HEADER_BYTES = 100 * 1000 * 1000  # the limit of the safetensors library itself
_MAX_JSON_BYTES = 64 * 1024 * 1024
_FORBIDDEN_KEYS = frozenset({"auto_map", "_attn_implementation_internal", "trust_remote_code", "custom_pipelines"})
_LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion"})


def inspect(folder: Path) -> int:
    """Check a diffusers model folder and return the bytes of its weights.

    Raises LoadRefused, saying which file is wrong and what to do.
    """
    if folder.is_file():
        raise LoadRefused("it is a file, not a folder; path names the folder that holds model_index.json")
    if not folder.is_dir():
        raise LoadRefused("the folder does not exist; put the model there or run `darkroom models pull`")
    index = _read_json(folder / "model_index.json", folder)
    _refuse_foreign_code(index, "model_index.json")
    components = {name: value for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    if not components:
        raise LoadRefused("model_index.json names no components")
    total = 0
    for name, (library, class_name) in components.items():
        if library is None or class_name is None:
            continue
        if library not in _LIBRARIES:
            raise LoadRefused(
                f"model_index.json: component {name} comes from {library!r}, not diffusers or transformers"
            )
        total += _inspect_component(folder, name)
    return total


def _inspect_component(folder: Path, name: str) -> int:
    part = folder / name
    if part.is_file():
        raise LoadRefused(f"{name} is a file, not a component folder; fetch the model again")
    if not _stays_inside(part, folder) or not part.is_dir():
        raise LoadRefused(f"component folder {name}/ is missing")
    for config in part.glob("*.json"):
        if config.name.endswith(".index.json"):
            _inspect_shards(config, folder)
        elif config.name in ("config.json", "scheduler_config.json", "tokenizer_config.json"):
            _refuse_foreign_code(_read_json(config, folder), f"{name}/{config.name}")
    is_model = (part / "config.json").is_file()
    weights = sorted(part.glob("*.safetensors"))
    if is_model and not weights:
        raise LoadRefused(f"{name}/ has no .safetensors weights; .bin and .ckpt files are not loaded")
    if (part / "adapter_config.json").exists():
        # With peft installed, transformers would load the base model that this file names, from wherever that is.
        raise LoadRefused(f"{name}/ is an adapter of another model; list its .safetensors under loras in models.yaml")
    return sum(_inspect_weights(path, folder) for path in weights)


def inspect_adapter(path: Path) -> int:
    """Check the file of a LoRA and return its bytes. Raises LoadRefused."""
    if path.suffix != ".safetensors" and not path.is_dir():
        raise LoadRefused(f"{path.name} is not a .safetensors file; .bin, .pt and .ckpt files are not loaded")
    if path.is_dir():
        raise LoadRefused(f"{path.name} is a folder, not a file; path names the .safetensors file in it")
    if not path.is_file():
        raise LoadRefused(f"{path.name} does not exist")
    return _inspect_safetensors(path)


def adapter_problem(path: Path) -> str | None:
    """Why a file cannot be a LoRA; None if it looks whole."""
    try:
        inspect_adapter(path)
    except LoadRefused as refusal:
        return str(refusal)
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    return None


def _inspect_weights(path: Path, folder: Path) -> int:
    if not _stays_inside(path, folder):
        raise LoadRefused(f"{path.parent.name}/{path.name} points outside the model folder")
    return _inspect_safetensors(path)


def _inspect_safetensors(path: Path) -> int:
    """Compare a safetensors header with the file. Returns the file's size in bytes."""
    where = f"{path.parent.name}/{path.name}"
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise LoadRefused(f"{where} is not a safetensors file, or is truncated")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise LoadRefused(f"{where} has a damaged header") from error
    if not isinstance(header, dict):
        raise LoadRefused(f"{where} has a damaged header")
    end = 0
    for key, tensor in header.items():
        if key == "__metadata__":
            continue
        try:
            start, stop = tensor["data_offsets"]
        except (TypeError, KeyError, ValueError) as error:
            raise LoadRefused(f"{where} has a damaged header") from error
        if not (isinstance(start, int) and isinstance(stop, int) and 0 <= start <= stop):
            raise LoadRefused(f"{where} has a damaged header")
        end = max(end, stop)
    if end != size - 8 - length:
        raise LoadRefused(f"{where} is truncated or longer than its header says")
    return size


def _inspect_shards(path: Path, folder: Path) -> None:
    index = _read_json(path, folder)
    shards = index.get("weight_map")
    if not isinstance(shards, dict):
        raise LoadRefused(f"{path.parent.name}/{path.name} has no weight_map")
    for shard in set(shards.values()):
        if not isinstance(shard, str) or PurePosixPath(shard).name != shard or not shard.endswith(".safetensors"):
            raise LoadRefused(f"{path.parent.name}/{path.name} names a shard that is not a safetensors file beside it")
        if not (path.parent / shard).is_file():
            raise LoadRefused(f"{path.parent.name}/{shard} is missing")


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    where = path.relative_to(folder).as_posix()
    if not path.is_file():
        raise LoadRefused(f"{where} is missing")
    if not _stays_inside(path, folder):
        raise LoadRefused(f"{where} points outside the model folder")
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise LoadRefused(f"{where} is too large")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise LoadRefused(f"{where} is not valid JSON") from error
    if not isinstance(value, dict):
        raise LoadRefused(f"{where} is not a JSON object")
    return value


def _refuse_foreign_code(config: Any, where: str) -> None:
    """Refuse, at any depth, the keys with which a config names code to run."""
    rest = [config]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            found = _FORBIDDEN_KEYS & value.keys()
            if found:
                raise LoadRefused(f"{where} has {sorted(found)[0]}, which would run code from the model folder")
            rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)


def _stays_inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
