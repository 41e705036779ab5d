"""The field controls: what may be in it, how programs spell it, and what is said of what may not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.api import control_forms
from server.api.control_fields import ControlFields
from server.api.reader import Reading, read
from server.api.wire import ImageFields
from server.errors import BadRequest

ONE = {"name": "canny", "image": "aaaa"}


def reading(controls: Any) -> Reading:
    return read({"prompt": "x", "controls": controls})


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ([ONE], [("canny", "aaaa", 1.0, 0.0, 1.0)]),
        ([{**ONE, "weight": 2, "start": 0.25, "end": 0.5}], [("canny", "aaaa", 2.0, 0.25, 0.5)]),
        ([{**ONE, "weight": "0.5", "start": "", "end": None}], [("canny", "aaaa", 0.5, 0.0, 1.0)]),
        ([{**ONE, "weight": 0}], [("canny", "aaaa", 0.0, 0.0, 1.0)]),
        (ONE, [("canny", "aaaa", 1.0, 0.0, 1.0)]),
        (json.dumps([ONE, ONE]), [("canny", "aaaa", 1.0, 0.0, 1.0)] * 2),
        ([{"model": "canny", "input_image": "aaaa", "guidance_start": 0.1, "guidance_end": 0.9}],
         [("canny", "aaaa", 1.0, 0.1, 0.9)]),
        ([{"name": "canny", "control_image": {"url": "http://x/a.png"}, "conditioning_scale": 0.3}],
         [("canny", "http://x/a.png", 0.3, 0.0, 1.0)]),
        ([{"name": "canny", "image": {"b64_json": "aaaa"}}], [("canny", "data:;base64,aaaa", 1.0, 0.0, 1.0)]),
        ([], []),
        (None, []),
        ("", []),
    ],
)  # fmt: skip
def test_what_is_said_is_read(sent: Any, expected: list[tuple[Any, ...]]) -> None:
    found = reading(sent).fields.controls
    assert [(each.name, each.image, each.weight, each.start, each.end) for each in found] == expected


@pytest.mark.parametrize(
    ("sent", "param", "says"),
    [
        ("canny", "controls", "must be an array of at most 4"),
        (7, "controls", "must be an array"),
        ([ONE] * 5, "controls", "at most 4"),
        (["canny"], "controls[0]", "must be an object with name and image"),
        ([ONE, None], "controls[1]", "must be an object"),
        ([{"image": "aaaa"}], "controls[0].name", "is required"),
        ([{"name": "", "image": "aaaa"}], "controls[0].name", "is required"),
        ([{"name": 7, "image": "aaaa"}], "controls[0].name", "a text"),
        ([{"name": "x" * 101, "image": "aaaa"}], "controls[0].name", "at most 100 characters"),
        ([ONE, {"name": "canny"}], "controls[1].image", "is required"),
        ([{"name": "canny", "image": ""}], "controls[0].image", "is required"),
        ([{"name": "canny", "image": {"url": None}}], "controls[0].image", "is required"),
        ([{"name": "canny", "image": ["aaaa", "bbbb"]}], "controls[0].image", "one picture"),
        ([{"name": "canny", "image": 7}], "controls[0].image", "a picture must be"),
        ([{**ONE, "weight": 2.01}], "controls[0].weight", "a number from 0 to 2"),
        ([{**ONE, "weight": -0.1}], "controls[0].weight", "a number from 0 to 2"),
        ([{**ONE, "weight": True}], "controls[0].weight", "a number from 0 to 2"),
        ([{**ONE, "weight": "much"}], "controls[0].weight", "a number from 0 to 2"),
        ([{**ONE, "weight": 1, "scale": 0.5}], "controls[0].weight", "twice, and differs"),
        ([{**ONE, "start": 1.5}], "controls[0].start", "a number from 0 to 1"),
        ([{**ONE, "end": -1}], "controls[0].end", "a number from 0 to 1"),
        ([ONE, {**ONE, "start": 0.5, "end": 0.5}], "controls[1].start", "less than its end"),
        ([{**ONE, "start": 1}], "controls[0].start", "less than its end"),
        ([{**ONE, "end": 0}], "controls[0].start", "less than its end"),
        ([{**ONE, "preprocess": "openpose"}], "controls[0].preprocess", "must be none or canny"),
    ],
)
def test_anything_else_is_refused_and_named(sent: Any, param: str, says: str) -> None:
    with pytest.raises(BadRequest) as refused:
        reading(sent)
    assert refused.value.param == param
    assert says in refused.value.message


def test_numbers_that_are_none_are_refused() -> None:
    for number in (float("nan"), float("inf")):
        with pytest.raises(BadRequest, match="a number from 0 to 2"):
            reading([{**ONE, "weight": number}])


def test_keys_that_mean_nothing_are_told() -> None:
    found = reading([{**ONE, "pixel_perfect": True, "resize_mode": 1}])
    assert found.ignored == ("controls.pixel_perfect", "controls.resize_mode")


@pytest.mark.parametrize(
    ("sent", "read"), [({}, "none"), ({"preprocess": "Canny"}, "canny"), ({"module": "none"}, "none")]
)
def test_edges_can_be_made_of_a_picture(sent: dict[str, str], read: str) -> None:
    assert reading([{**ONE, **sent}]).fields.controls[0].preprocess == read


def test_the_schema_has_the_bounds_of_the_fields() -> None:
    shown = ImageFields.model_json_schema()["properties"]["controls"]["items"]
    real = ControlFields.model_json_schema()
    assert shown["properties"].keys() == real["properties"].keys()
    assert shown["required"] == real["required"]
    for name in ("weight", "start", "end"):
        for key in ("minimum", "maximum", "default"):
            assert shown["properties"][name][key] == real["properties"][name][key]
    assert shown["properties"]["preprocess"]["enum"] == real["properties"]["preprocess"]["enum"]


@pytest.mark.parametrize(
    ("whole", "parts", "expected"),
    [
        (
            None,
            [("controls[0][name]", "canny"), ("controls[1][name]", "depth"), ("controls[0][image]", b"\0")],
            [{"name": "canny", "image": "data:;base64,AA=="}, {"name": "depth"}],
        ),
        (
            '[{"name": "canny", "weight": 0.5}, {"name": "depth"}]',
            [("controls[0][image]", b"\0"), ("controls[1][image]", b"\1")],
            [
                {"name": "canny", "weight": 0.5, "image": "data:;base64,AA=="},
                {"name": "depth", "image": "data:;base64,AQ=="},
            ],
        ),
        (
            None,
            [("controls[][name]", "a"), ("controls[][weight]", "1"), ("controls[][name]", "b"),
             ("controls[][image]", b"\0"), ("controls[][image]", b"\1")],
            [
                {"name": "a", "weight": "1", "image": "data:;base64,AA=="},
                {"name": "b", "image": "data:;base64,AQ=="},
            ],
        ),
        ("[{", [("controls[0][image]", b"\0")], "[{"),
        ('"x"', [("controls[0][image]", b"\0")], ["x"]),
    ],
)  # fmt: skip
def test_a_form_spells_it_in_brackets(whole: str | None, parts: list[tuple[str, str | bytes]], expected: Any) -> None:
    assert control_forms.put_together(whole, parts) == expected


def test_a_form_with_a_far_number_is_refused_like_one_with_too_many() -> None:
    items = control_forms.put_together(None, [("controls[99][name]", "a")])
    with pytest.raises(BadRequest, match="at most 4"):
        reading(items)


@pytest.mark.parametrize("name", ["controls", "controls[]", "controls[0]", "controls[0][Name]", "controls[0][a][b]"])
def test_other_names_are_none_of_its(name: str) -> None:
    assert not control_forms.is_part(name)
