"""A repository of a hub: what loading reads of it, and what lies beside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.unit.commands.command_line import run
from tests.unit.pipelines.facts.test_component import ADDED
from tests.unit.pipelines.facts.test_folder import weights

DIFFUSERS = "diffusion_pytorch_model"
SHARD = "transformer/part-[1].safetensors"
ENCODER = "text_encoder/model.safetensors"
READ: Mapping[str, bytes] = {
    "model_index.json": json.dumps(
        {
            "_class_name": "ZImagePipeline",
            "transformer": ["diffusers", "ZImageTransformer2DModel"],
            "text_encoder": ["transformers", "Qwen3Model"],
            "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "safety_checker": [None, None],
        }
    ).encode(),
    "transformer/config.json": b"{}",
    f"transformer/{DIFFUSERS}.safetensors.index.json": b'{"weight_map": {"w": "part-[1].safetensors"}}',
    SHARD: weights(),
    "text_encoder/config.json": b"{}",
    "text_encoder/generation_config.json": b"{}",
    ENCODER: weights(),
    "tokenizer/tokenizer_config.json": b"{}",
    "tokenizer/vocab.json": b'{"a": 1}',
    "tokenizer/merges.txt": b"a b",
    "tokenizer/chat_template.jinja": b"{{ messages }}",
    "tokenizer/additional_chat_templates/tool.jinja": b"{{ tools }}",
    "scheduler/scheduler_config.json": b"{}",
}
BESIDE = (
    *(f"transformer/{name}" for name in ADDED),
    *(f"text_encoder/{name}" for name in ADDED),
    *("z-image.safetensors", "README.md", "LICENSE", "assets/picture.json", "safety_checker/model.safetensors"),
    *("None.py", "transformer/part-1.safetensors", "text_encoder/model.safetensors.index.json"),
)


def pull(folder: Path) -> int:
    return run("models", "--models", str(folder / "models.yaml"), "pull", "z")


def files(folder: Path) -> dict[str, bytes]:
    """The files of a model folder but for those that a pull keeps for itself."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(".pull/")}
