"""The oldest libraries that pyproject.toml allows are those that the tests run with, where they read model folders."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.running import ROOT

DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


@pytest.mark.parametrize("name", ["diffusers", "transformers", "accelerate", "peft", "safetensors", "sentencepiece"])
def test_the_floor_is_what_is_tested(name: str) -> None:
    """diffusers 0.37, which was allowed, ran None.py of a model folder, and the files that _class_name named."""
    floor = next(match[1] for text in DEPENDENCIES if (match := re.match(rf"{name}>=([\d.]+)", text)))
    parts = floor.split(".")
    assert PINS[name].split(".")[: len(parts)] == parts


@pytest.mark.parametrize("name", ["protobuf", "scipy", "huggingface_hub"])
def test_what_loading_imports_is_a_dependency(name: str) -> None:
    assert any(text.startswith(f"{name.replace('_', '-')}>=") for text in DEPENDENCIES)
    assert name in PINS
