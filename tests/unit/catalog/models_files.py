"""A models.yaml to load, and one that names an adapter."""

from __future__ import annotations

from pathlib import Path

from server.catalog.catalog import Catalog
from server.catalog.load import load_catalog

GOOD = """\
default: mini
providers: [openai, google]
models:
  mini:
    path: weights
    native_size: 64x64
    multiple: 16
    quality:
      standard: { steps: 8, guidance: 2.5 }
      hd: { steps: 30 }
    style:
      natural: { guidance: 1.2, prompt_suffix: ", calm" }
  dall-e-2:
    like: mini
    aliases: [two]
    sizes: [256x256, 1024x1024]
"""

WITH_LORAS = GOOD.replace(
    "  dall-e-2:",
    "    loras:\n      pixel: { path: loras/pixel.safetensors, weight: 0.5 }\n  dall-e-2:",
)


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "models.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def catalog(tmp_path: Path, text: str = GOOD) -> Catalog:
    return load_catalog(write(tmp_path, text))
