"""Models by the names that AUTOMATIC1111's clients send."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.api.sdapi import models
from server.errors import ModelNotFound
from tests.unit.catalog.models_files import catalog


@pytest.mark.parametrize("name", [None, "", "  ", "Automatic", "automatic", "None", "none"])
@pytest.mark.parametrize(("chosen", "expected"), [("dall-e-2", "dall-e-2"), (None, "mini"), ("long gone", "mini")])
def test_no_name_is_the_current_model(tmp_path: Path, name: str | None, chosen: str | None, expected: str) -> None:
    assert models.find(catalog(tmp_path), name, chosen).id == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mini", "mini"),
        ("MINI", "mini"),
        ("mini [abcdef0123]", "mini"),
        ("mini []", "mini"),
        ("Mini.safetensors", "mini"),
        ("mini.safetensors [6ce0161689]", "mini"),
        ("models\\Stable-diffusion\\mini.ckpt", "mini"),
        ("/models/Stable-diffusion/mini.safetensors", "mini"),
        ("dall-e-2", "dall-e-2"),
        ("DALL-E-2", "dall-e-2"),
        ("two", "dall-e-2"),  # an alias
        ("TWO", "dall-e-2"),
        ("openai/two", "dall-e-2"),
    ],
)
def test_names_in_every_spelling(tmp_path: Path, name: str, expected: str) -> None:
    assert models.find(catalog(tmp_path), name, "dall-e-2").id == expected


def test_every_text_of_a_row_names_its_model(tmp_path: Path) -> None:
    found = catalog(tmp_path)
    for row in models.rows(found):
        for key in ("title", "model_name", "filename"):
            assert models.title(models.find(found, row[key], None)) == row["title"]


@pytest.mark.parametrize("name", ["nothing", "min", "../mini/..", "[abcdef0123]", "/", "x" * 5000, 7, True])
def test_unknown_models_are_refused_naming_those_that_exist(tmp_path: Path, name: object) -> None:
    with pytest.raises(ModelNotFound, match="dall-e-2, mini"):
        models.find(catalog(tmp_path), name, "mini")


def test_weights_are_listed_once(tmp_path: Path) -> None:
    found = catalog(tmp_path)
    assert [row["title"] for row in models.rows(found)] == ["mini"]
    assert {models.title(model) for model in found} == {"mini"}
    assert str(tmp_path) not in str(models.rows(found))
