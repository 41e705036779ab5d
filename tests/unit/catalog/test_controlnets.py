"""The ControlNets of models.yaml: what a typing error is told, which models take any, whose they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.errors import ConfigError
from tests.running import ROOT
from tests.unit.catalog.control_folders import write_control
from tests.unit.catalog.models_files import GOOD, catalog

MINI = GOOD.replace("path: weights", f"path: {ROOT / 'weights/darkroom-mini'}")


def with_nets(written: str, text: str = MINI) -> str:
    return text.replace("    multiple: 16", f"    controlnets: {written}")


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("[canny]", ["models.mini.controlnets", "dictionary"]),
        ("{ 'a b': canny }", ["models.mini.controlnets", "letters, digits and"]),
        ("{ '': canny }", ["models.mini.controlnets", "letters, digits and"]),
        ("{ canny: '' }", ["models.mini.controlnets.canny", "at least 1 character"]),
        ("{ canny: { path: canny } }", ["models.mini.controlnets.canny", "string"]),
        ("{ canny: 1 }", ["models.mini.controlnets.canny", "string"]),
        (f"{{ {', '.join(f'c{n}: x' for n in range(33))} }}", ["models.mini.controlnets", "32"]),
        (
            "{ fits: canny, depth: of-sdxl }",
            ["models.mini.controlnets.depth = 'of-sdxl'", "for another model, Stable Diffusion XL", "2048", "192"],
        ),
    ],
)
def test_a_typing_error_is_told_as_any_other(tmp_path: Path, written: str, says: list[str]) -> None:
    write_control(tmp_path / "canny")
    write_control(tmp_path / "of-sdxl", cross_attention_dim=2048, addition_embed_type="text_time")
    with pytest.raises(ConfigError) as refused:
        catalog(tmp_path, with_nets(written))
    message = str(refused.value)
    assert f"{tmp_path / 'models.yaml'}, line 7: " in message
    for part in says:
        assert part in message, message


@pytest.mark.parametrize(
    "family", ["flux", "stable-diffusion-3", "lcm", "stable-diffusion-inpainting", "stable-diffusion-xl-refiner"]
)
def test_families_that_take_none_say_so(tmp_path: Path, family: str) -> None:
    text = with_nets("{ canny: canny }").replace("    native_size", f"    family: {family}\n    native_size")
    says = rf"models\.mini\.controlnets: family {family} takes no ControlNets; stable-diffusion and stable-diffusion-xl"
    with pytest.raises(ConfigError, match=says):
        catalog(tmp_path, text)


def test_a_folder_of_no_known_family_takes_none_and_one_that_is_missing_is_not_judged(tmp_path: Path) -> None:
    text = with_nets("{ canny: canny }", GOOD)
    assert catalog(tmp_path, text).models["mini"].control_names == ("canny",)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model_index.json").write_text(json.dumps({"_class_name": "SomePipeline"}))
    with pytest.raises(ConfigError, match="family other takes no ControlNets"):
        catalog(tmp_path, text)


def test_they_cannot_be_had_with_compile(tmp_path: Path) -> None:
    text = with_nets("{ canny: canny }").replace("    native_size", "    compile: true\n    native_size")
    with pytest.raises(ConfigError, match=r"models\.mini\.controlnets: .*cannot be had with compile"):
        catalog(tmp_path, text)


def test_ids_that_share_weights_share_the_loaded_ones_and_name_their_own(tmp_path: Path) -> None:
    for name in ("canny", "depth"):
        write_control(tmp_path / name)
    text = with_nets("{ canny: canny }").replace("like: mini", "like: mini\n    controlnets: { deep: depth }")
    found = catalog(tmp_path, f"{text}\n  third: {{ like: mini }}\n  none: {{ like: mini, controlnets: {{}} }}")
    assert len({model.plan for model in found}) == 1
    plan = found.models["mini"].plan
    assert [(each.name, each.path) for each in plan.controls] == [
        ("canny", str(tmp_path / "canny")),
        ("deep", str(tmp_path / "depth")),
    ]
    names = {model.id: model.control_names for model in found}
    assert names == {"mini": ("canny",), "dall-e-2": ("deep",), "third": ("canny",), "none": ()}
    assert found.models["mini"].problem() is None
    clash = text.replace("deep: depth", "canny: depth")
    with pytest.raises(ConfigError, match=r"models\.mini\.controlnets: canny stands for another folder"):
        catalog(tmp_path, clash)


def test_one_that_is_missing_leaves_its_model_alone_unavailable(tmp_path: Path) -> None:
    text = with_nets("{ canny: nowhere }") + "  other: { path: " + str(ROOT / "weights/darkroom-mini") + " }\n"
    found = catalog(tmp_path, text)
    assert "controlnets.canny: the folder nowhere does not exist" in str(found.models["mini"].problem())
    assert found.models["other"].problem() is None
