"""The words of models.yaml: what a typing error is told, whose they are, which families read weights."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pipelines.plan import ModelPlan
from server.catalog.load import load_catalog
from server.commands.check import check
from server.errors import ConfigError
from server.settings import Settings
from tests.running import ROOT
from tests.unit.catalog.models_files import GOOD, catalog, write
from tests.unit.pipelines.facts.test_checkpoint import write as write_weights

MINI = GOOD.replace("path: weights", f"path: {ROOT / 'weights/darkroom-mini'}")


def with_words(written: str, text: str = MINI) -> str:
    return text.replace("    multiple: 16", f"    embeddings: {written}")


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("{ '<cat toy>': x.safetensors }", ["models.mini.embeddings", "without blanks, brackets"]),
        ("{ 'cat(1)': x.safetensors }", ["models.mini.embeddings", "brackets"]),
        ("{ '': x.safetensors }", ["models.mini.embeddings", "one word"]),
        ("{ a: { path: x.safetensors } }", ["models.mini.embeddings.a", "string"]),
        ("{ a: '' }", ["models.mini.embeddings.a", "at least 1 character"]),
        ("[x.safetensors]", ["models.mini.embeddings", "dictionary"]),
        (
            "{ toy: x.safetensors, toy_1: y.safetensors }",
            ["models.mini.embeddings", "toy is a part of toy_1", "rename"],
        ),
    ],
)
def test_a_typing_error_among_words_is_told_as_any_other(tmp_path: Path, written: str, says: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        catalog(tmp_path, with_words(written))
    message = str(refused.value)
    assert f"{tmp_path / 'models.yaml'}, line 7: " in message
    for part in says:
        assert part in message, message


def test_words_are_of_the_weights_and_so_of_all_ids_that_share_them(tmp_path: Path) -> None:
    found = catalog(tmp_path, with_words("{ <toy>: embeddings/toy.safetensors }"))
    mini, other = found.models["mini"], found.models["dall-e-2"]
    assert mini.plan == other.plan
    assert [(file.token, file.path) for file in mini.plan.embeddings] == [
        ("<toy>", str(tmp_path / "embeddings" / "toy.safetensors"))
    ]
    assert list(other.entry.embeddings) == ["<toy>"]
    with pytest.raises(ConfigError, match=r"models\.dall-e-2\.embeddings: is mini's to say"):
        catalog(tmp_path, MINI.replace("like: mini", "like: mini\n    embeddings: { a: x.safetensors }"))


def test_a_file_that_has_changed_makes_another_plan(tmp_path: Path) -> None:
    text = with_words("{ <toy>: toy.safetensors }")
    plans: list[ModelPlan] = []
    for vectors in (1, 2):
        write_weights(tmp_path / "toy.safetensors", {"x": (vectors, 64)}, dtype="F16")
        plans.append(catalog(tmp_path, text).models["mini"].plan)
    assert plans[0] != plans[1]
    assert plans[0].mark != plans[1].mark
    assert msgspec.structs.replace(plans[0], revision="") == msgspec.structs.replace(plans[1], revision="")


def test_check_names_the_word_and_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "toy.pt").write_bytes(b"PK\x03\x04")
    file = write(tmp_path, with_words("{ <toy>: toy.pt }"))
    assert check(Settings(models=file, data_dir=tmp_path)) == 1
    said = capsys.readouterr().err
    assert "models.mini: " in said
    assert "embeddings: <toy>: toy.pt is a pickle, which can run code: save its vectors as a .safetensors file" in said


@pytest.mark.parametrize(
    ("more", "where", "says"),
    [
        ("prompt_weights: yes please", "models.mini.prompt_weights", "boolean"),
        (
            "prompt_weights: true\n    family: flux",
            "models.mini.prompt_weights",
            "family flux; those that have it: lcm, ",
        ),
        ("prompt_weights: true\n    matting_prompt: (a:11)", "models.mini.matting_prompt", "beyond 10"),
    ],
)
def test_weights_are_refused_where_nobody_knows_how_they_are_read(
    tmp_path: Path, more: str, where: str, says: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        catalog(tmp_path, MINI.replace("    multiple: 16", f"    {more}"))
    assert where in str(refused.value)
    assert says in str(refused.value)


def test_a_preset_too_heavy_to_draw_is_refused_at_start(tmp_path: Path) -> None:
    text = MINI.replace("    multiple: 16", "    prompt_weights: true").replace(", calm", ", (calm:20)")
    with pytest.raises(ConfigError, match=r"models\.mini\.style\.natural\.prompt_suffix = .*beyond 10"):
        catalog(tmp_path, text)


def test_a_pipeline_that_is_not_known_takes_no_weights_but_a_folder_that_is_missing_stops_nobody(
    tmp_path: Path,
) -> None:
    text = GOOD.replace("    multiple: 16", "    prompt_weights: true")
    assert load_catalog(write(tmp_path, text)).models["mini"].problem() is not None
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model_index.json").write_text('{"_class_name": "HerPipeline"}')
    with pytest.raises(ConfigError, match=r"models\.mini\.prompt_weights: cannot be had with family other"):
        load_catalog(write(tmp_path, text))


def test_each_id_says_for_itself_whether_weights_are_read(tmp_path: Path) -> None:
    """Programs that write brackets and mean them go on to draw what they drew."""
    found = catalog(tmp_path, MINI.replace("like: mini", "like: mini\n    prompt_weights: true"))
    mini, other = found.models["mini"], found.models["dall-e-2"]
    assert (mini.entry.prompt_weights, other.entry.prompt_weights) == (False, True)
    assert mini.plan == other.plan, "the weights are loaded once"
