"""AUTOMATIC1111's extras over a real socket: pictures made larger, and what a picture says of itself."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL.PngImagePlugin import PngInfo

from tests.http.test_sdapi_lists import assert_sdapi_error
from tests.paper import Paper, PaperServers
from tests.pictures import opened, pixels, png, scene, text

SINGLE, BATCH, INFO = (f"/sdapi/v1/{name}" for name in ("extra-single-image", "extra-batch-images", "png-info"))
_NO_IMAGE: list[dict[str, Any]] = [{}, {"image": ""}, {"image": 3}]
_NO_LIST: list[dict[str, Any]] = [{}, {"imageList": []}, {"imageList": [{}]}, {"imageList": "x"}]
INFOTEXT = "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 64x48, Model: mini"


def told(parameters: str) -> bytes:
    info, out = PngInfo(), io.BytesIO()
    info.add_itxt("parameters", parameters)
    scene(64, 48).save(out, "PNG", pnginfo=info)
    return out.getvalue()


@pytest.mark.parametrize("form", ["{}", "data:image/png;base64,{}"])
def test_a_picture_is_made_larger(paper: Paper, form: str) -> None:
    source = scene(64, 48)
    sent = {"image": form.format(text(png(source))), "upscaler_1": "Lanczos", "upscaling_resize": 2}
    body = paper.post(sent, SINGLE).raise_for_status().json()
    assert set(body) == {"image", "html_info"}
    made = base64.b64decode(body["image"], validate=True)  # no data: prefix
    assert opened(made).format == "PNG"
    assert np.abs(pixels(made) - np.asarray(source.resize((128, 96), 1)).astype(np.int16)).max() == 0


def test_the_parameters_stay_in_the_picture(paper: Paper) -> None:
    sent = {"image": text(told(INFOTEXT)), "upscaler_1": "Nearest"}
    made = paper.post(sent, SINGLE).raise_for_status().json()["image"]
    assert paper.post({"image": made}, INFO).json()["info"] == INFOTEXT


def test_several_pictures(paper: Paper) -> None:
    items: list[Any] = [{"data": text(png(scene(side, 20))), "name": f"{side}.png"} for side in (10, 30)]
    sent = {"imageList": items, "upscaler_1": "Lanczos", "upscaling_resize": "3.0", "gfpgan_visibility": 0}
    answer = paper.post(sent, BATCH).raise_for_status()
    sizes = [opened(base64.b64decode(each)).size for each in answer.json()["images"]]
    assert sizes == [(30, 60), (90, 60)]
    assert "x-ignored-fields" not in answer.headers


def test_an_upscaler_that_is_not_here_is_told_of(paper: Paper) -> None:
    answer = paper.post({"image": text(png(scene(8, 8))), "upscaler_1": "R-ESRGAN 4x+", "gfpgan_visibility": 1}, SINGLE)
    assert answer.headers["x-ignored-fields"] == "gfpgan_visibility, upscaler_1"
    assert opened(base64.b64decode(answer.json()["image"])).size == (16, 16)


def test_all_results_together_are_bounded(paper_servers: PaperServers) -> None:
    small = paper_servers.open(max_image_pixels=20_000)
    item = text(png(scene(64, 48)))  # 3,072 pixels: four times as many twice are too many
    sent: dict[str, Any] = {"upscaler_1": "Lanczos", "upscaling_resize": 2}
    small.post({**sent, "image": item}, SINGLE).raise_for_status()
    message = assert_sdapi_error(small.post({**sent, "imageList": [item, item]}, BATCH), 400, "invalid_value")
    assert "upscaling_resize" in message
    assert_sdapi_error(small.post({**sent, "image": item, "upscaling_resize": 16}, SINGLE), 400, "invalid_value")
    assert_sdapi_error(small.post({**sent, "image": text(png(scene(200, 200)))}, SINGLE), 400, "invalid_image")


@pytest.mark.parametrize(
    ("path", "sent", "code"),
    [
        *((path, sent, "invalid_value") for path in (SINGLE, INFO) for sent in _NO_IMAGE),
        *((BATCH, sent, "invalid_value") for sent in _NO_LIST),
        (BATCH, {"imageList": ["x"] * 17}, "invalid_value"),
        *((path, {"image": "!!"}, "invalid_image") for path in (SINGLE, INFO)),
        *((path, {"image": text(b"GIF89a no picture")}, "invalid_image") for path in (SINGLE, INFO)),
        (BATCH, {"imageList": [{"data": text(b"GIF89a"), "name": "a"}]}, "invalid_image"),
        (SINGLE, {"image": text(png(scene(8, 8))), "resize_mode": 3}, "invalid_value"),
    ],
)
def test_what_is_wrong_is_refused_by_name(paper: Paper, path: str, sent: dict[str, Any], code: str) -> None:
    assert_sdapi_error(paper.post(sent, path), 400, code)


def test_addresses_are_fetched_by_the_same_rule_as_elsewhere(paper: Paper) -> None:
    for path in (SINGLE, INFO):
        assert_sdapi_error(paper.post({"image": "http://127.0.0.1:1/a.png"}, path), 400, "invalid_image")


class TestPngInfo:
    def test_theirs(self, paper: Paper) -> None:
        body = paper.post({"image": "data:image/png;base64," + text(told(INFOTEXT))}, INFO).raise_for_status().json()
        assert body["info"] == INFOTEXT
        assert body["items"] == {"parameters": INFOTEXT}
        assert (body["parameters"]["Seed"], body["parameters"]["Size-1"]) == ("42", "64")

    def test_none(self, paper: Paper) -> None:
        body = paper.post({"image": text(png(scene(8, 8)))}, INFO).raise_for_status().json()
        assert body == {"info": "", "items": {}, "parameters": {}}

    @pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
    def test_ours(self, server: Any, kind: str) -> None:
        """A picture of our own API, as the worker writes it."""
        answer = server.draw(
            seed=7,
            size="64x64",
            model="gpt-image-1",
            num_inference_steps=1,
            output_format=kind,
            response_format="b64_json",
        )
        picture = answer.raise_for_status().json()["data"][0]["b64_json"]
        with server.client() as client:
            body = client.post(INFO, json={"image": picture}).raise_for_status().json()
        assert body["info"].startswith("a red apple\n")
        assert "Seed: 7," in body["info"]  # what the Photoshop plugin looks for
        assert (body["parameters"]["Seed"], body["parameters"]["Model"]) == ("7", "gpt-image-1")
