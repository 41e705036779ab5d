"""What clients may name: how names resolve, which sizes a model makes, what a quality stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.errors import BadRequest, ConfigError, ModelNotFound
from tests.unit.catalog.models_files import GOOD, catalog


def test_presets_lie_over_each_other(tmp_path: Path) -> None:
    mini = catalog(tmp_path).models["mini"]
    assert (mini.preset("standard", "vivid").steps, mini.preset("standard", "vivid").guidance) == (8, 2.5)
    assert (mini.preset("hd", "vivid").steps, mini.preset("hd", "vivid").guidance) == (30, 2.5)
    assert mini.preset("hd", "natural").guidance == 1.2
    for name in ("high", "xhigh", "max"):
        assert mini.preset(name, "natural") == mini.preset("hd", "natural")
    for name in ("low", "medium", "auto"):
        assert mini.preset(name, "vivid") == mini.preset("standard", "vivid")


def test_a_model_says_how_much_an_edit_draws_anew_and_those_like_it_do_the_same(tmp_path: Path) -> None:
    assert catalog(tmp_path).models["mini"].entry.edit_strength == 0.8
    text = GOOD.replace("  mini:\n", "  mini:\n    edit_strength: 0.65\n", 1)
    models = catalog(tmp_path, text).models
    assert {model.entry.edit_strength for model in models.values()} == {0.65}
    for wrong in ("0", "1.5", "high"):
        with pytest.raises(ConfigError, match="edit_strength"):
            catalog(tmp_path, text.replace("0.65", wrong))


@pytest.mark.parametrize("name", ["dall-e-2", "two", "openai/dall-e-2", "google/openai/two"])
def test_names_resolve(tmp_path: Path, name: str) -> None:
    assert catalog(tmp_path).resolve(name).id == "dall-e-2"


@pytest.mark.parametrize("name", ["", "/", "openai/", "other/two", "openai", "two/", "/two", "../two", "TWO"])
def test_other_names_do_not(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match="dall-e-2, mini"):
        catalog(tmp_path).resolve(name)


def test_sizes(tmp_path: Path) -> None:
    both = catalog(tmp_path)
    assert both.models["dall-e-2"].size("256x256") == (256, 256)
    assert both.models["mini"].size("16x2048") == (16, 2048)
    for model, size in (("dall-e-2", "512x512"), ("mini", "15x64"), ("mini", "64x2049"), ("mini", "064x64")):
        with pytest.raises(BadRequest):
            both.models[model].size(size)


def test_no_preset_is_beyond_max_steps(tmp_path: Path) -> None:
    """What a quality or the family stands for was drawn whatever max_steps said."""
    unwritten = catalog(tmp_path, GOOD.replace("steps: 30", "steps: 300")).models["mini"]
    assert unwritten.entry.max_steps == 300  # a file that does not write it goes on as it did
    text = GOOD.replace("steps: 8, ", "").replace("steps: 30", "").replace("multiple: 16", "max_steps: 9")
    bounded = catalog(tmp_path, text).models["mini"]
    assert bounded.family.steps > 9
    assert bounded.preset("hd", "vivid").steps == 9
