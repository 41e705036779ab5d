"""ControlNets by name: what may be asked, and what becomes of it."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.pictures import png, scene
from tests.running import ROOT, eventually
from tests.unit.catalog.control_folders import write_control

MINI = ROOT / "weights" / "darkroom-mini"
PAPER = f"""\
default: mini
models:
  mini:
    path: {MINI}
    native_size: 64x64
    multiple: 16
    controlnets: {{ depth: depth, canny: canny }}
  plain: {{ like: mini, controlnets: {{}} }}
  flux: {{ path: nowhere, family: flux }}
"""


def b64(image: Image.Image) -> str:
    return base64.b64encode(png(image)).decode()


EDGES = scene(80, 40)
ONE = {"name": "canny", "image": b64(EDGES)}


@pytest.fixture(scope="module")
def _shared_control_paper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paper]:
    folder = tmp_path_factory.mktemp("paper")
    for name in ("depth", "canny"):
        write_control(folder / name)
    (folder / "models.yaml").write_text(PAPER)
    with PaperServers(folder) as opened:
        yield opened.open(models=folder / "models.yaml")


@pytest.fixture
def control_paper(_shared_control_paper: Paper) -> Paper:
    """Shared by the module, as if nobody had used it."""
    _shared_control_paper.worker.forget()
    return _shared_control_paper


def test_what_is_asked_for_is_what_is_drawn_with(control_paper: Paper) -> None:
    two = [{**ONE, "weight": 0.5, "end": 0.25}, {"name": "depth", "image": f"data:image/png;base64,{b64(scene(9, 9))}"}]
    answer = control_paper.post({"prompt": "x", "size": "128x64", "controls": two})
    assert answer.status_code == 200, answer.text
    spec = control_paper.worker.drawings[0].spec
    told = [(each.name, each.weight, each.start, each.end) for each in spec.controls]
    assert told == [("canny", 0.5, 0.0, 0.25), ("depth", 1.0, 0.0, 1.0)]
    assert [(each.image.width, each.image.height, each.image.mode) for each in spec.controls] == [(128, 64, "RGB")] * 2


def test_its_picture_is_cut_as_a_source_is(control_paper: Paper) -> None:
    """Scaled to cover the picture, and the middle taken."""
    source = b64(EDGES)
    body = {"prompt": "x", "size": "64x64", "image": source, "controls": [{"name": "canny", "image": source}]}
    assert control_paper.post(body).status_code == 200
    spec = control_paper.worker.drawings[0].spec
    assert spec.controls[0].image == spec.sources[0]


@pytest.mark.parametrize("mask", [False, True])
def test_edits_take_them_too(control_paper: Paper, mask: bool) -> None:
    body = {"prompt": "x", "image": b64(scene(64, 64)), "controls": [ONE]}
    if mask:
        body["mask"] = b64(Image.new("L", (64, 64), 255))
    with control_paper.client() as client:
        answer = client.post("/v1/images/edits", json=body)
    assert answer.status_code == 200, answer.text
    spec = control_paper.worker.drawings[0].spec
    assert [each.name for each in spec.controls] == ["canny"]
    assert (spec.mask is not None) == mask


def test_a_weight_of_0_is_drawn_as_without(control_paper: Paper) -> None:
    assert control_paper.post({"prompt": "x", "seed": 1, "controls": [{**ONE, "weight": 0}]}).status_code == 200
    assert control_paper.post({"prompt": "x", "seed": 1}).status_code == 200
    one, other = control_paper.worker.drawings
    assert one.spec == other.spec


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"controls": [ONE, {**ONE, "name": "pose"}]}, "controls[1].name", "one of the controls of mini: depth, canny"),
        ({"controls": [ONE], "model": "plain"}, "controls", "plain has no controls; whoever runs"),
        ({"controls": [{**ONE, "weight": 3}]}, "controls[0].weight", "from 0 to 2"),
        ({"controls": [{**ONE, "start": 0.5, "end": 0.5}]}, "controls[0].start", "less than its end"),
        ({"controls": [{"name": "canny"}]}, "controls[0].image", "required"),
    ],
)
def test_what_cannot_be_is_refused(control_paper: Paper, body: dict[str, Any], param: str, says: str) -> None:
    answer = control_paper.post({"prompt": "x", **body})
    error = assert_api_error(answer, 400, "missing_field" if says == "required" else "invalid_value")
    assert error["param"] == param
    assert says in error["message"]
    assert not control_paper.worker.drawings


@pytest.mark.parametrize("image", ["aGVsbG8=", "http://192.168.0.1/x.png"])
def test_a_picture_that_is_none_is_named(control_paper: Paper, image: str) -> None:
    answer = control_paper.post({"prompt": "x", "controls": [ONE, {"name": "canny", "image": image}]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "controls[1].image"


def test_equal_requests_with_other_pictures_are_no_repeats(control_paper: Paper) -> None:
    bodies = [
        {"prompt": "x", "seed": 3, "controls": [{"name": "canny", "image": b64(scene(64, 64 + n))}]} for n in (0, 9)
    ]
    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda body=body: seen.append(control_paper.post(body).status_code)) for body in bodies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [200, 200]
    one, other = control_paper.worker.drawings
    assert one.spec != other.spec


def test_forms_carry_files_of_controls(control_paper: Paper) -> None:
    picture = ("x.png", png(scene(64, 64)))
    edges = ("y.png", png(EDGES))
    with control_paper.client() as client:
        for data in (
            {"controls[0][name]": "canny", "controls[0][weight]": "0.5"},
            {"controls": '[{"name": "canny", "weight": 0.5}]'},
        ):
            answer = client.post(
                "/v1/images/edits",
                data={"prompt": "x", "size": "64x64", **data},
                files={"image": picture, "controls[0][image]": edges},
            )
            assert answer.status_code == 200, answer.text
            (control,) = control_paper.worker.drawings[-1].spec.controls
            assert (control.name, control.weight) == ("canny", 0.5)
        answer = client.post(
            "/v1/images/edits",
            data={"prompt": "x"},
            files=[("image", picture), *((f"controls[{n}][image]", edges) for n in range(5))],
        )
        assert "controls has more than 4 pictures" in assert_api_error(answer, 413, "too_large")["message"]
        answer = client.post("/v1/images/edits", data={"prompt": "x"}, files={"image": picture, "controls[x]": edges})
        assert "no field of this request" in assert_api_error(answer, 400, "invalid_value")["message"]


def test_jobs_that_nobody_waits_for_keep_their_pictures(control_paper: Paper) -> None:
    """Also those that came as files of a form: a request is written down before it is drawn."""
    body = {"prompt": "x", "size": "64x64", "seed": 5, "controls": [ONE]}
    assert control_paper.post(body).status_code == 200
    (waited,) = control_paper.worker.drawings
    control_paper.worker.forget()
    later = {"prefer": "respond-async"}
    assert control_paper.post(body, headers=later).status_code == 202
    eventually(lambda: control_paper.worker.drawings, within_s=20)
    assert control_paper.worker.drawings[0].spec == waited.spec
    control_paper.worker.forget()
    with control_paper.client() as client:
        answer = client.post(
            "/v1/images/edits",
            data={"prompt": "x", "size": "64x64", "controls[0][name]": "canny"},
            files={"image": ("x.png", png(scene(64, 64))), "controls[0][image]": ("y.png", png(EDGES))},
            headers=later,
        )
        assert answer.status_code == 202, answer.text
    eventually(lambda: control_paper.worker.drawings, within_s=20)
    assert control_paper.worker.drawings[0].spec.controls[0].image == waited.spec.controls[0].image
    wrong = {**body, "controls": [{"name": "canny", "image": b64(EDGES)[:40]}]}
    error = assert_api_error(control_paper.post(wrong, headers=later), 400, "invalid_image")
    assert error["param"] == "controls[0].image", "told at once"


def test_the_list_of_models_has_them(control_paper: Paper) -> None:
    with control_paper.client() as client:
        rows = {row["id"]: row["controls"] for row in client.get("/v1/models").json()["data"]}
    assert rows == {"mini": ["depth", "canny"], "plain": [], "flux": []}


def test_the_hub_s_routes_take_them(control_paper: Paper) -> None:
    with control_paper.client() as client:
        body = {"input": {"prompt": "x", "modelOptions": {"controls": [ONE]}}}
        answer = client.post("/api/v2/image", json=body)
        assert answer.status_code == 200, answer.text
    assert [each.name for each in control_paper.worker.drawings[0].spec.controls] == ["canny"]


class TestA1111:
    def test_the_lists_are_there_where_the_current_model_has_any(self, control_paper: Paper) -> None:
        with control_paper.client() as client:
            assert client.get("/controlnet/model_list").json() == {"model_list": ["depth", "canny"]}
            assert client.get("/controlnet/module_list").json()["module_list"] == ["none", "canny"]
            client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "flux"})
            for name in ("model_list", "module_list"):
                answer = client.get(f"/controlnet/{name}")
                assert answer.status_code == 404
                assert answer.json()["detail"]
            client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "mini"})
            assert client.get("/controlnet/model_list").status_code == 200

    def test_a_unit_steers_a_picture_and_its_second_pass(self, control_paper: Paper) -> None:
        unit = {"image": b64(EDGES), "model": "canny [abc]", "weight": 0.7}
        body = {
            "prompt": "x",
            "width": 64,
            "height": 64,
            "steps": 4,
            "alwayson_scripts": {"controlnet": {"args": [unit]}},
        }
        with control_paper.client() as client:
            answer = client.post("/sdapi/v1/txt2img", json={**body, "enable_hr": True, "hr_scale": 2})
        assert answer.status_code == 200, answer.text
        first, second = control_paper.worker.drawings
        assert [(each.name, each.weight) for each in first.spec.controls] == [("canny", 0.7)]
        assert second.spec.controls == first.spec.controls
        assert second.spec.sources

    def test_only_masked_cuts_a_units_picture_as_the_source_is(self, control_paper: Paper) -> None:
        source = scene(128, 128)
        mask = Image.new("L", source.size)
        mask.paste(255, (80, 80, 110, 110))
        unit = {"image": b64(source), "model": "canny"}
        body = {
            "prompt": "x", "width": 64, "height": 64, "steps": 4, "denoising_strength": 1, "init_images": [b64(source)],
            "mask": b64(mask), "inpaint_full_res": True, "inpaint_full_res_padding": 4, "inpainting_fill": 1,
            "alwayson_scripts": {"ControlNet": {"args": [unit]}},
        }  # fmt: skip
        with control_paper.client() as client:
            answer = client.post("/sdapi/v1/img2img", json=body)
        assert answer.status_code == 200, answer.text
        spec = control_paper.worker.drawings[0].spec
        assert spec.window is not None
        assert spec.controls[0].image == spec.sources[0]

    def test_a_picture_that_is_none_is_named_by_its_unit(self, control_paper: Paper) -> None:
        args = [{"enabled": False}, {"image": "aGVsbG8=", "model": "canny"}]
        with control_paper.client() as client:
            answer = client.post("/sdapi/v1/txt2img", json={"alwayson_scripts": {"controlnet": {"args": args}}})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "alwayson_scripts.controlnet.args[1].image"


# With a worker that draws.
