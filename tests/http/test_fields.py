"""What every field of a request becomes on its way to the worker, and what comes back; the worker is of paper."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.spec import Task
from server.catalog.catalog import Catalog
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.pictures import png, right_half, scene, text
from tests.running import ROOT


def spec_of(paper: Paper, **fields: Any) -> Any:
    answer = paper.post({"prompt": "a red apple", **fields})
    assert answer.status_code == 200, answer.text
    return paper.worker.drawings[-1].spec


def test_defaults(paper: Paper, shipped: Catalog) -> None:
    answer = paper.post({"prompt": "a red apple"})
    body = answer.json()
    assert set(body["data"][0]) == {"url", "seed"}
    assert abs(body["created"] - time.time()) < 30
    assert answer.headers["x-request-id"]
    spec = paper.worker.drawings[0].spec
    preset = shipped.resolve("dall-e-2").preset("standard", "vivid")
    assert (spec.model, spec.width, spec.height) == ("dall-e-2", 1024, 1024)
    assert (spec.steps, spec.guidance, spec.task) == (preset.steps, preset.guidance, Task.TEXT_TO_IMAGE)
    assert len(paper.worker.drawings[0].seeds) == 1
    assert paper.worker.encodings[0].format == "png"


@pytest.mark.parametrize("n", range(1, 11))
def test_n_pictures_are_one_batch_with_one_seed_each(paper: Paper, n: int) -> None:
    answer = paper.post({"prompt": "x", "n": n})
    assert len(paper.worker.drawings) == 1
    assert len(set(paper.worker.drawings[0].seeds)) == n
    assert tuple(item["seed"] for item in answer.json()["data"]) == paper.worker.drawings[0].seeds


@pytest.mark.parametrize("quality", ["standard", "hd", "low", "medium", "high", "xhigh", "max", "auto"])
@pytest.mark.parametrize("style", ["vivid", "natural"])
def test_quality_and_style_are_the_presets_of_models_yaml(
    paper: Paper, shipped: Catalog, quality: str, style: str
) -> None:
    spec = spec_of(paper, model="dall-e-3", quality=quality, style=style)
    preset = shipped.resolve("dall-e-3").preset(quality, style)
    assert (spec.steps, spec.guidance, spec.scheduler) == (preset.steps, preset.guidance, preset.scheduler)
    assert spec.prompt == "a red apple" + (preset.prompt_suffix or "")


def test_hd_costs_more_steps_than_standard_and_the_styles_differ(shipped: Catalog) -> None:
    for model in shipped:
        assert (model.preset("hd", "vivid").steps or 0) > (model.preset("standard", "vivid").steps or 0)
        assert model.preset("standard", "vivid") != model.preset("standard", "natural")


def test_the_request_wins_over_its_presets(paper: Paper) -> None:
    asked = {"num_inference_steps": 17, "guidance_scale": 3.25, "scheduler": "euler", "negative_prompt": "rain"}
    spec = spec_of(paper, quality="hd", style="natural", seed=2**63 - 1, **asked)
    assert (spec.steps, spec.guidance, spec.scheduler, spec.negative_prompt) == (17, 3.25, "euler", "rain")
    assert paper.worker.drawings[0].seeds == (2**63 - 1,)


def test_guidance_zero_is_a_value(paper: Paper) -> None:
    assert spec_of(paper, guidance_scale=0).guidance == 0


def test_null_is_absent(paper: Paper) -> None:
    nulls = dict.fromkeys(("model", "image", "mask", "n", "size", "quality", "style", "seed", "strength", "user"))
    assert spec_of(paper, **nulls).steps == spec_of(paper).steps


@pytest.mark.parametrize("size", ["auto", None])
def test_auto_is_the_models_default_size(paper: Paper, size: str | None) -> None:
    spec = spec_of(paper, model="dall-e-3", size=size)
    assert (spec.width, spec.height) == (1024, 1024)


def test_auto_keeps_the_size_of_an_edited_picture(paper: Paper) -> None:
    spec = spec_of(paper, model="gpt-image-1", size="auto", image=text(png(scene(300, 200))))
    assert (spec.width, spec.height) == (300, 200)


def test_tasks_and_strength(paper: Paper) -> None:
    source, mask = text(png(scene(80, 40))), text(png(right_half(20, 20)))
    edit = spec_of(paper, image=source, size="256x256")
    assert (edit.task, len(edit.sources), edit.mask) == (Task.IMAGE_TO_IMAGE, 1, None)
    assert (edit.sources[0].width, edit.sources[0].height) == (256, 256)
    painted = spec_of(paper, image=[source], mask=mask, size="256x256", strength=0.5)
    assert (painted.task, painted.strength) == (Task.INPAINTING, 0.5)
    assert (painted.mask.width, painted.mask.height) == (256, 256)
    assert spec_of(paper, image=source, mask=mask).strength == 1.0


@pytest.mark.parametrize(
    ("asked", "plain", "masked"),
    [
        ({}, 0.8, 1.0),
        ({"input_fidelity": "low"}, 0.8, 1.0),
        ({"input_fidelity": "high"}, 0.5, 0.8),
        ({"input_fidelity": "high", "strength": 0.9}, 0.9, 0.9),
    ],
)
def test_input_fidelity_stands_for_a_strength_and_gives_way_to_one(
    paper: Paper, asked: dict[str, Any], plain: float, masked: float
) -> None:
    source, mask = text(png(scene(80, 40))), text(png(right_half(20, 20)))
    assert spec_of(paper, image=source, **asked).strength == plain
    assert spec_of(paper, image=source, mask=mask, **asked).strength == masked


def test_extra_fields_never_fail_a_client_that_always_sends_them(paper: Paper) -> None:
    extras = {"user": "u", "moderation": "low", "watermark": True, "x" * 300: {"a": [1]}}
    spec_of(paper, **extras)


@pytest.mark.parametrize(
    ("name", "stands_for"),
    [
        ("dall-e-3", "dall-e-3"),
        ("openai/dall-e-3", "dall-e-3"),
        ("aignehub/openai/dall-e-3", "dall-e-3"),
        ("google/gemini-2.5-flash-image", "gemini-2.5-flash-image"),
        ("gpt-image-2", "gpt-image-1"),
        ("doubao/doubao-seedream-4", "doubao-seedream-4-0-250828"),
    ],
)
def test_prefixed_ids_and_aliases_resolve(paper: Paper, name: str, stands_for: str) -> None:
    answer = paper.post({"prompt": "x", "model": name})
    assert answer.json()["model"] == stands_for
    assert paper.worker.drawings[0].spec.model == stands_for


def test_an_unknown_prefix_does_not_resolve(paper: Paper) -> None:
    assert_api_error(paper.post({"prompt": "x", "model": "evil/dall-e-3"}), 404, "model_not_found")


@pytest.mark.parametrize("path", ["/api/images/generations", "/v1/images/generations"])
def test_both_prefixes(paper: Paper, path: str) -> None:
    assert paper.post({"prompt": "x"}, path).status_code == 200


def test_a_form_and_json_say_the_same(paper: Paper) -> None:
    fields = {"prompt": "x", "n": "3", "seed": "11", "guidance_scale": "2.5", "strength": "0.5", "size": "256x256"}
    with paper.client() as client:
        answer = client.post("/v1/images/edits", data=fields, files={"image": ("../../x", png(scene(50, 50)))})
        many = client.post("/v1/images/edits", data=fields, files={"image[]": ("x", png(scene(50, 50)))})
    assert answer.status_code == many.status_code == 200, answer.text
    same = paper.post({"prompt": "x", "n": 3, "seed": 11, "guidance_scale": 2.5, "strength": 0.5, "size": "256x256",
                       "image": text(png(scene(50, 50)))}, "/v1/images/edits")  # fmt: skip
    assert same.status_code == 200
    assert paper.worker.drawings[0].spec == paper.worker.drawings[1].spec == paper.worker.drawings[2].spec
    assert paper.worker.drawings[0].seeds == (11, 12, 13)


@pytest.mark.parametrize("route", ["edits", "generations"])
def test_pictures_as_openais_json_edits_spell_them_are_not_dropped(paper: Paper, route: str) -> None:
    """``images`` was ignored as unknown: an edit said that image is required, a generation drew without its source."""
    source, mask = (f"data:image/png;base64,{text(png(make(50, 50)))}" for make in (scene, right_half))
    plain: dict[str, Any] = {"prompt": "x", "seed": 11, "size": "256x256"}
    theirs = {"images": [{"image_url": source, "file_id": None}], "mask": {"image_url": mask}}
    for body in ({"image": source, "mask": mask}, theirs, {"images": [{"image_url": source}]}):
        answer = paper.post(plain | body, f"/v1/images/{route}")
        assert answer.status_code == 200, answer.text
    ours, same, unmasked = (drawing.spec for drawing in paper.worker.drawings)
    assert (same.task, unmasked.task) == (Task.INPAINTING, Task.IMAGE_TO_IMAGE)
    assert same == ours
    assert unmasked.sources == ours.sources


def test_picture_urls_come_from_public_url(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True, public_url="https://pictures.example/base/")
    url = paper.post({"prompt": "x"}).json()["data"][0]["url"]
    assert url.startswith("https://pictures.example/base/files/")
    with paper.client() as client:
        assert client.get(url.removeprefix("https://pictures.example/base")).status_code == 200


@pytest.mark.parametrize("header", ["host", "x-forwarded-host", "x-forwarded-proto", "forwarded"])
def test_no_header_ever_gets_into_a_url(paper_servers: PaperServers, header: str) -> None:
    paper = paper_servers.open(keys=True)
    for value in ("evil.example", "a/x?", "evil.example:1/@"):
        answer = paper.post({"prompt": "x"}, headers={header: value})
        if answer.status_code == 200:
            assert answer.json()["data"][0]["url"].startswith(f"{paper.url}/files/")
        assert "evil" not in answer.text
        assert "a/x" not in answer.text


def test_without_keys_a_foreign_host_is_refused(paper_servers: PaperServers) -> None:
    answer = paper_servers.open().post({"prompt": "x"}, headers={"host": "evil.example"})
    assert_api_error(answer, 400, "host_refused")


@pytest.mark.parametrize("kept", [True, False])
def test_parameters_in_the_picture_can_be_switched_off(paper_servers: PaperServers, kept: bool) -> None:
    paper = paper_servers.open(picture_metadata=kept)
    paper.post({"prompt": "x"})
    assert paper.worker.encodings[0].metadata is kept


def test_our_own_url_is_read_from_the_store_even_where_fetching_is_off(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True, fetch="off", public_url="http://nowhere.invalid")
    url = paper.post({"prompt": "x"}).json()["data"][0]["url"]
    assert spec_of(paper, image=url).task is Task.IMAGE_TO_IMAGE
    assert_api_error(paper.post({"prompt": "x", "image": url[:-2] + "xx"}), 400, "invalid_image")
    assert_api_error(paper.post({"prompt": "x", "image": "http://127.0.0.1:1/a.png"}), 400, "invalid_image")


def test_a_form_beyond_its_limits_is_told_which(paper: Paper) -> None:
    fields: list[Any] = [("prompt", (None, "x")), ("image", ("x.png", png(scene(8, 8))))]
    forms = {
        "more than 16 pictures": [*fields, *[("image[]", ("x.png", b"x"))] * 30],
        "more than 64 fields": [*fields, *[(f"f{n}", (None, "x")) for n in range(80)]],
        "larger than 1048576 bytes": [*fields, ("user", (None, "x" * 1_100_000))],
    }
    with paper.client() as client:
        for says, parts in forms.items():
            answer = client.post("/v1/images/edits", files=parts)
            assert says in assert_api_error(answer, 413, "too_large")["message"]
        for declared, says in (("", "boundary"), ("; boundary=x; charset=undefined", "UTF-8")):
            part = b'--x\r\ncontent-disposition: form-data; name="prompt"\r\n\r\nx\r\n--x--\r\n'
            headers = {"content-type": f"multipart/form-data{declared}"}
            answer = client.post("/v1/images/edits", content=part, headers=headers)
            assert says in assert_api_error(answer, 400, "invalid_value")["message"]


def test_more_steps_than_lcm_has_are_refused(paper_servers: PaperServers, tmp_path: Path) -> None:
    """Its own pipelines choose an edit's steps from fewer; all of this ended in a 500."""
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    file.write_text(f"default: plain\nmodels:\n  plain: {{ path: {weights} }}\n"
                    f"  own: {{ path: {weights}, family: lcm }}\n")  # fmt: skip
    paper = paper_servers.open(models=file)
    edit = {"image": text(png(scene(40, 40))), "strength": 0.5}
    for most, body in (
        (50, {"model": "plain", "scheduler": "lcm"}),
        (50, {"model": "plain", "scheduler": "lcm", **edit}),
        (50, {"model": "own"}),
        (25, {"model": "own", **edit}),
    ):
        path = "/v1/images/edits" if "image" in body else "/v1/images/generations"
        assert paper.post({"prompt": "x", "num_inference_steps": most, **body}, path).status_code == 200
        answer = paper.post({"prompt": "x", "num_inference_steps": most + 1, **body}, path)
        error = assert_api_error(answer, 400, "invalid_value")
        assert error["param"] == "num_inference_steps"
        assert f"at most {most} steps" in error["message"]
