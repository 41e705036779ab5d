"""Units of ControlNet's extension as our controls, and what is refused of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines.facts.families import FamilyTable
from server.api.sdapi.fields import read_fields
from server.api.sdapi.infotext import infotext
from server.api.sdapi.translation import A1111Submission, OpenModels, translate
from server.catalog.catalog import Model
from server.errors import BadRequest
from tests.pictures import png, scene, text
from tests.unit.catalog.models_files import GOOD, catalog

SOURCE = text(png(scene(8, 8)))
UNIT = {"enabled": True, "image": SOURCE, "model": "canny"}


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Model:
    written = GOOD.replace("    multiple: 16", "    controlnets: { canny: nowhere, Depth-2: nowhere }")
    model = catalog(tmp_path_factory.mktemp("models"), written).resolve("mini")
    return OpenModels().of(replace(model, family=FamilyTable().by_name["stable-diffusion"]))


def asked(model: Model, *units: Any, edit: bool = False, name: str = "controlnet", **sent: Any) -> A1111Submission:
    fields = read_fields({**sent, "alwayson_scripts": {name: {"args": list(units)}}})
    return translate(fields, model, edit=edit)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (UNIT, ("canny", 1.0, 0.0, 1.0, "none")),
        ({"input_image": SOURCE, "model": "canny [d14c016b]"}, ("canny", 1.0, 0.0, 1.0, "none")),
        ({**UNIT, "model": "DEPTH-2", "module": "None"}, ("Depth-2", 1.0, 0.0, 1.0, "none")),
        ({**UNIT, "module": "canny", "weight": 0.5, "guidance_start": 0.1, "guidance_end": 0.9},
         ("canny", 0.5, 0.1, 0.9, "canny")),
        ({**UNIT, "weight": "0.8", "guidance_start": "0.25", "guidance_end": " 1 "}, ("canny", 0.8, 0.25, 1.0, "none")),
        ({**UNIT, "weight": "", "guidance_end": " "}, ("canny", 1.0, 0.0, 1.0, "none")),
        ({**UNIT, "image": {"image": SOURCE, "mask": None}, "weight": None}, ("canny", 1.0, 0.0, 1.0, "none")),
        ({**UNIT, "control_mode": 0, "resize_mode": "Crop and Resize", "pixel_perfect": True, "processor_res": 512},
         ("canny", 1.0, 0.0, 1.0, "none")),
    ],
)  # fmt: skip
def test_a_unit_is_a_control(mini: Model, unit: dict[str, Any], expected: tuple[Any, ...]) -> None:
    for name in ("controlnet", "ControlNet"):
        submission = asked(mini, unit, name=name)
        (control,) = submission.fields.controls
        assert (control.name, control.weight, control.start, control.end, control.preprocess) == expected
        assert control.image == SOURCE
        assert submission.reading.ignored == ()


@pytest.mark.parametrize(
    "unit",
    [
        {**UNIT, "enabled": False},
        {**UNIT, "enabled": "false"},
        {**UNIT, "enabled": "FALSE"},
        {**UNIT, "enabled": "0"},
        {**UNIT, "enabled": 0.0},
        {"enabled": True, "model": "canny"},
        {"image": None, "model": "canny"},
        None,
        False,
        "x",
    ],
)
def test_a_unit_that_is_off_or_has_no_picture_is_none(mini: Model, unit: Any) -> None:
    submission = asked(mini, unit)
    assert submission.fields.controls == ()
    assert submission.reading.ignored == ()


def test_an_edits_own_picture_is_that_of_a_unit_without_one(mini: Model) -> None:
    sent: dict[str, Any] = {"edit": True, "init_images": [SOURCE]}
    (control,) = asked(mini, {"enabled": True, "model": "canny", "module": "canny"}, **sent).fields.controls
    assert control.image == SOURCE
    assert asked(mini, {"enabled": True, "model": "None"}, **sent).fields.controls == ()
    assert asked(mini, {"model": "canny"}, **sent).fields.controls == ()


@pytest.mark.parametrize(
    ("units", "param", "says"),
    [
        (
            [{**UNIT, "model": "pose"}],
            "alwayson_scripts.controlnet.args[0].model",
            "one of the ControlNets of mini: canny",
        ),
        ([{**UNIT, "model": None}], "alwayson_scripts.controlnet.args[0].model", "one of the ControlNets"),
        ([None, {**UNIT, "module": "openpose"}], "alwayson_scripts.controlnet.args[1].module", "no other preprocessor"),
        ([{"enabled": False}, {**UNIT, "weight": 3}], "alwayson_scripts.controlnet.args[1].weight", "from 0 to 2"),
        ([{**UNIT, "weight": "much"}], "alwayson_scripts.controlnet.args[0].weight", "from 0 to 2"),
        ([{**UNIT, "weight": [1]}], "alwayson_scripts.controlnet.args[0].weight", "from 0 to 2"),
        (
            [{**UNIT, "guidance_start": 0.5, "guidance_end": 0.5}],
            "alwayson_scripts.controlnet.args[0].guidance_start",
            "less",
        ),
        ([{**UNIT, "image": 7}], "alwayson_scripts.controlnet.args[0].image", "a text"),
        ([UNIT] * 5, "alwayson_scripts", "at most 4"),
    ],
)
def test_what_would_make_another_picture_is_refused(mini: Model, units: list[Any], param: str, says: str) -> None:
    with pytest.raises(BadRequest) as refused:
        asked(mini, *units)
    assert refused.value.param == param
    assert says in refused.value.message


def test_other_modes_are_told(mini: Model) -> None:
    submission = asked(mini, {**UNIT, "control_mode": 2, "resize_mode": "Just Resize"}, {**UNIT, "control_mode": {}})
    told = ("alwayson_scripts.controlnet.args.control_mode", "alwayson_scripts.controlnet.args.resize_mode")
    assert submission.reading.ignored == told


def test_infotexts_tell_of_them(mini: Model) -> None:
    said = infotext(asked(mini, {**UNIT, "weight": 0.5, "guidance_end": 0.8}), 1)
    inner = "Module: none, Model: canny, Weight: 0.5, Guidance Start: 0, Guidance End: 0.8"
    assert f'ControlNet 0: "{inner}"' in said


def test_equal_requests_with_other_units_are_no_repeats(mini: Model) -> None:
    one, other = asked(mini, UNIT), asked(mini, {**UNIT, "weight": 0.5})
    assert one.fields != other.fields
