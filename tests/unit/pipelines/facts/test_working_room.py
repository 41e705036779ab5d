"""Room for work: near what was counted for models of real size, with margin, and unknown where nothing tells it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.facts.working_room import working_bytes

MIB = 1 << 20
KL: dict[str, Any] = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512]}
QWEN: dict[str, Any] = {"_class_name": "AutoencoderKLQwenImage", "base_dim": 96}


def folder(root: Path, **configs: dict[str, Any]) -> Path:
    for name, config in configs.items():
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(config))
    return root


def heads(count: int, dim: int = 128) -> dict[str, Any]:
    return {"num_attention_heads": count, "attention_head_dim": dim}


@pytest.mark.parametrize(
    ("configs", "side", "row", "decode"),
    [
        ({"vae": KL, "unet": {"block_out_channels": [320, 640, 1280]}}, 1024, 158, 1536),
        ({"vae": KL, "transformer": heads(38, 64)}, 1024, 255, 1536),
        ({"vae": KL, "transformer": heads(24)}, 1024, 465, 1536),
        ({"vae": KL, "transformer": heads(32)}, 1024, 776, 1538),
        ({"vae": KL, "transformer": {"dim": 3840}}, 1024, 478, 1536),
        ({"vae": QWEN, "transformer": heads(24)}, 1328, 611, 5818),
    ],
    ids=["sdxl", "sd35-large", "flux1", "klein-9b", "z-image", "qwen-image"],
)
def test_room_is_what_was_counted_and_as_much_again(
    configs: dict[str, Any], side: int, row: int, decode: int, tmp_path: Path
) -> None:
    """In MiB, counted at the native size: a row of the denoiser, a picture's decode."""
    room = working_bytes(folder(tmp_path, **configs), side, side)
    assert room is not None
    counted = max(decode, 2 * row) * MIB
    assert 1.9 * counted <= room <= 2.2 * counted


@pytest.mark.parametrize(
    "configs", [{}, {"vae": KL}, {"vae": {"block_out_channels": "x"}, "unet": {}}, {"vae": KL, "unet": {"x": 1}}]
)
def test_room_is_unknown_where_no_configuration_tells_it(configs: dict[str, Any], tmp_path: Path) -> None:
    assert working_bytes(folder(tmp_path, **configs), 1024, 1024) is None


def test_a_configuration_that_cannot_be_read_is_no_failure(tmp_path: Path) -> None:
    (folder(tmp_path, vae=KL) / "vae" / "config.json").write_text("[")
    assert working_bytes(tmp_path, 1024, 1024) is None
