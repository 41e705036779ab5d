"""Model folders that lie: refused from names, JSON and headers, before anything is loaded."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import LoadRefused
from pipelines.facts.folder import inspect, inspect_adapter
from tests.running import ROOT


def weights(data: bytes = b"\0" * 16, *, end: int | None = None) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, end or len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    index = {"_class_name": "X", "unet": ["diffusers", "U"], "scheduler": ["diffusers", "S"], "safety": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    (folder / "unet" / "config.json").write_text("{}")
    (folder / "unet" / "model.safetensors").write_bytes(weights())
    return folder


def test_a_whole_folder_passes_with_its_weights_counted(model: Path) -> None:
    assert inspect(model) == len(weights())
    assert inspect(ROOT / "weights" / "darkroom-mini") > 1_000_000


def test_a_file_in_the_place_of_a_folder_is_said_to_be_one(model: Path) -> None:
    """It was said not to exist, and to be fetched: whoever looked found it there."""
    with pytest.raises(LoadRefused, match="it is a file, not a folder; path names the folder"):
        inspect(model / "model_index.json")
    (model / "adapter.safetensors").mkdir()
    for folder in (model, model / "adapter.safetensors"):
        with pytest.raises(LoadRefused, match="is a folder, not a file"):
            inspect_adapter(folder)
    (model / "unet").rename(model / "other")
    (model / "unet").write_text("a file")
    with pytest.raises(LoadRefused, match="unet is a file, not a component folder"):
        inspect(model)


def test_a_loop_of_links_is_a_missing_folder(tmp_path: Path) -> None:
    """It was a traceback, which kept the other models from being served."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(LoadRefused, match="does not exist"):
        inspect(tmp_path / "loop")


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(LoadRefused, match="does not exist"):
        inspect(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps({"w": [0] * 100}), "not a safetensors file"),  # CVE-2025-32434, a renamed pickle
        (b"", "not a safetensors file"),
        (b"\0" * 7, "not a safetensors file"),
        (weights()[:-1], "truncated"),
        (weights() + b"\0", "longer"),
        (weights(end=1 << 40), "truncated"),
        (struct.pack("<Q", 2**63) + weights()[8:], "not a safetensors file"),
        (struct.pack("<Q", 2**64 - 1) + weights()[8:], "not a safetensors file"),
        (struct.pack("<Q", 3) + weights()[8:], "damaged"),
        (struct.pack("<Q", len(weights())) + weights()[8:], "not a safetensors file"),
        (weights()[:8] + b"[" + weights()[9:], "damaged"),
        (struct.pack("<Q", 2) + b"[]", "damaged"),
        (struct.pack("<Q", 8) + b'{"w": 5}', "damaged"),
    ],
)
def test_weights_that_are_not_what_they_say(model: Path, content: bytes, says: str) -> None:
    (model / "unet" / "model.safetensors").write_bytes(content)
    with pytest.raises(LoadRefused, match=says):
        inspect(model)


@pytest.mark.parametrize("name", ["model.bin", "model.ckpt", "model.pt", "diffusion_pytorch_model.bin"])
def test_pickled_weights_are_no_weights(model: Path, name: str) -> None:
    (model / "unet" / "model.safetensors").rename(model / "unet" / name)
    with pytest.raises(LoadRefused, match="safetensors"):
        inspect(model)


@pytest.mark.parametrize("key", ["auto_map", "_attn_implementation_internal", "trust_remote_code", "custom_pipelines"])
@pytest.mark.parametrize("where", ["unet/config.json", "scheduler/scheduler_config.json", "model_index.json"])
def test_code_named_by_a_config(model: Path, key: str, where: str) -> None:
    """CVE-2026-4372, CVE-2026-5241."""
    file = model / where
    config: dict[str, Any] = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "deep": [{"er": {key: "evil.py"}}]}))
    with pytest.raises(LoadRefused, match=key):
        inspect(model)


def test_code_named_at_any_depth(model: Path) -> None:
    (model / "unet" / "config.json").write_text('{"a":' * 800 + '{"auto_map": "evil.py"}' + "}" * 800)
    with pytest.raises(LoadRefused, match="auto_map"):
        inspect(model)


def test_a_component_of_a_foreign_library(model: Path) -> None:
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps({**index, "extra": ["os", "system"]}))
    with pytest.raises(LoadRefused, match="'os'"):
        inspect(model)


@pytest.mark.parametrize("shard", ["../../s.safetensors", "/etc/passwd", "sub/s.safetensors", "s.bin", "", 5])
def test_a_shard_that_is_not_beside_its_index(model: Path, shard: object) -> None:
    """CVE-2026-27905."""
    (model / "unet" / "m.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(LoadRefused, match="shard"):
        inspect(model)


def test_a_missing_shard(model: Path) -> None:
    (model / "unet" / "m.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "s-2.safetensors"}}))
    with pytest.raises(LoadRefused, match=r"s-2\.safetensors is missing"):
        inspect(model)


@pytest.mark.parametrize("where", ["unet/model.safetensors", "unet/config.json", "model_index.json", "unet"])
def test_a_symlink_that_leaves_the_folder(model: Path, tmp_path: Path, where: str) -> None:
    outside = tmp_path / "outside"
    (model / where).rename(outside)
    (model / where).symlink_to(outside)
    with pytest.raises(LoadRefused, match=r"outside|missing"):
        inspect(model)


def test_a_component_name_that_leaves_the_folder(model: Path) -> None:
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps({**index, "../model2": ["diffusers", "U"]}))
    (model.parent / "model2").mkdir()
    with pytest.raises(LoadRefused, match="missing"):
        inspect(model)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "null", "\ud800".encode("utf-8", "surrogatepass"), "[" * 100_000],
)
@pytest.mark.parametrize("where", ["model_index.json", "unet/config.json"])
def test_json_that_is_none(model: Path, where: str, text: str | bytes) -> None:
    (model / where).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LoadRefused, match="JSON"):
        inspect(model)


def test_a_config_or_index_that_is_missing(model: Path) -> None:
    (model / "model_index.json").unlink()
    with pytest.raises(LoadRefused, match=r"model_index\.json is missing"):
        inspect(model)


def test_an_adapter_where_a_model_should_be(model: Path) -> None:
    """With peft installed, transformers would go and load the base model that it names."""
    (model / "unet" / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}')
    with pytest.raises(LoadRefused, match="adapter of another model"):
        inspect(model)


def test_files_of_adapters(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    good.write_bytes(weights())
    assert inspect_adapter(good) == len(weights())
    for name, content, says in (
        ("renamed.safetensors", pickle.dumps({"w": 1}), "not a safetensors file"),
        ("cut.safetensors", weights()[:-1], "truncated"),
        ("pickle.bin", weights(), r"\.bin"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LoadRefused, match=says):
            inspect_adapter(tmp_path / name)
    with pytest.raises(LoadRefused, match="does not exist"):
        inspect_adapter(tmp_path / "nowhere.safetensors")
