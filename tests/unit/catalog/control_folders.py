"""ControlNets of no weight: folders whose configuration fits the embedded model, as far as files tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.unit.pipelines.facts.test_folder import weights

CONFIG: dict[str, Any] = {
    "_class_name": "ControlNetModel",
    "cross_attention_dim": 192,
    "addition_embed_type": "text",
    "block_out_channels": [32, 64, 128, 192],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "attention_head_dim": 4,
    "norm_num_groups": 16,
    "conditioning_embedding_out_channels": [8, 8, 8],
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def write_control(folder: Path, **changes: Any) -> Path:
    """A folder as hubs have it; a key that is None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / WEIGHTS).write_bytes(weights())
    return folder
