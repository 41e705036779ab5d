"""What every field of a request becomes on its way to the worker, and what comes back; the worker is of paper."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
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
        ({}, 0.9, 1.0),  # the model's edit_strength
        ({"input_fidelity": "low"}, 0.9, 1.0),
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


def test_a_form_in_other_programs_words_is_read_as_json_is(paper: Paper) -> None:
    """A form's ``stream=True`` and ``size=`` were 400, and ``steps`` was ignored."""
    sent = {"prompt": "x", "steps": "3", "cfgScale": "2.5", "size": "256X256", "seed": "-1", "stream": "False",
            "style": "", "denoising_strength": "0.5", "clip_skip": "2", "user": "u"}  # fmt: skip
    source = png(scene(50, 50))
    with paper.client() as client:
        form = client.post("/v1/images/edits", data=sent, files={"image": ("x", source)})
    json = paper.post({**sent, "initImages": [{"b64_json": text(source)}]}, "/v1/images/edits")
    assert form.status_code == json.status_code == 200, form.text + json.text
    assert form.headers["x-ignored-fields"] == json.headers["x-ignored-fields"] == "clip_skip"
    one, other = (drawing.spec for drawing in paper.worker.drawings)
    assert one == other
    assert (one.steps, one.guidance, one.strength, one.width, one.height) == (3, 2.5, 0.5, 256, 256)


@pytest.mark.parametrize("path", ["/v1/images/generations", "/api/v2/image/generations", "/api/v2/image"])
def test_every_route_tells_what_it_ignored_and_names_fields_as_they_came(paper: Paper, path: str) -> None:
    """28 steps were drawn for ``"steps": 2``, and no answer said so."""

    def post(**fields: Any) -> httpx.Response:
        body = {"prompt": "x", "sharpness": 2, "user": "u", **fields}
        return paper.post({"input": body} if path == "/api/v2/image" else body, path)

    answer = post(steps=2, sampler="Euler a", width="512", height=512)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ignored-fields"] == "sharpness"
    spec = paper.worker.drawings[0].spec
    assert (spec.steps, spec.scheduler, spec.width, spec.height) == (2, "euler_a", 512, 512)
    for fields, param in (({"steps": 151}, "steps"), ({"samplerName": "magic"}, "samplerName"),
                          ({"imageSize": "1x1"}, "imageSize"), ({"width": 1, "height": 1}, "width"),
                          ({"init_image": "not base64!"}, "init_image")):  # fmt: skip
        error = assert_api_error(answer := post(**fields), 400, answer_code(answer))
        assert error["param"] == param
        assert answer.headers["x-ignored-fields"] == "sharpness"  # errors too, once the fields could be read
    assert "x-ignored-fields" not in paper.post({"prompt": "x", "user": "u", "moderation": "low"}).headers


def answer_code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


def test_a_stream_tells_what_it_ignored(paper: Paper) -> None:
    answer = paper.post({"prompt": "x", "stream": "true", "sharpness": 2})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-ignored-fields"] == "sharpness"


def test_a_strength_that_a_model_has_no_use_for_is_told(paper_servers: PaperServers, tmp_path: Path) -> None:
    """Models that follow an instruction took it and drew as ever."""
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    file.write_text(f"default: own\nmodels:\n  own: {{ path: {weights}, family: flux-kontext }}\n")
    paper = paper_servers.open(models=file)
    edit = {"prompt": "x", "image": text(png(scene(40, 40))), "size": "256x256"}
    answer = paper.post({**edit, "denoise": 0.5}, "/v1/images/edits")
    assert answer.headers["x-ignored-fields"] == "denoise"
    assert "x-ignored-fields" not in paper.post(edit, "/v1/images/edits").headers
    with paper.client() as client:  # a variation's own strength was not sent
        answer = client.post("/v1/images/variations", files={"image": ("x", png(scene(40, 40)))}, data={"prompt": "a"})
    assert answer.headers["x-ignored-fields"] == "prompt"


@pytest.mark.parametrize(
    ("model", "ratio", "size"),
    [
        ("dall-e-3", "16:9", (1792, 1024)),
        ("dall-e-3", "9:16", (1024, 1792)),
        ("dall-e-3", "1:1", (1024, 1024)),
        ("dall-e-2", "1:1", (1024, 1024)),
        ("gpt-image-1", "16:9", (1368, 768)),
        ("gpt-image-1", "1:1", (1024, 1024)),
        ("gpt-image-1", "1:100", (24, 2048)),
    ],
)
def test_an_aspect_ratio_is_a_size_of_the_model(paper: Paper, model: str, ratio: str, size: tuple[int, int]) -> None:
    spec = spec_of(paper, model=model, aspect_ratio=ratio)
    assert (spec.width, spec.height) == size


@pytest.mark.parametrize(
    ("model", "ratio"),
    [("dall-e-2", "16:9"), ("dall-e-3", "4:3"), ("gpt-image-1", "1:500"), ("gpt-image-1", "1e-300:1e-300")],
)
def test_an_aspect_ratio_that_the_model_does_not_make_is_refused(paper: Paper, model: str, ratio: str) -> None:
    error = assert_api_error(paper.post({"prompt": "x", "model": model, "aspectRatio": ratio}), 400, "invalid_value")
    assert error["param"] == "aspectRatio"


@pytest.mark.parametrize(
    ("model", "path", "size"),
    [
        ("gpt-image-1", "/v1/images/edits", (300, 200)),
        ("openai/gpt-image-2", "/v1/images/edits", (300, 200)),
        ("gemini-2.5-flash-image", "/v1/images/edits", (300, 200)),
        ("dall-e-2", "/v1/images/edits", (1024, 1024)),
        ("gpt-image-1", "/v1/images/generations", (1024, 1024)),
        ("gpt-image-1", "/api/images/generations", (1024, 1024)),
        ("gpt-image-1", "/api/images/edits", (1024, 1024)),
        ("gpt-image-1", "/api/v2/image/generations", (1024, 1024)),
    ],
)
@pytest.mark.parametrize("sent", [{}, {"size": ""}])
def test_an_edit_that_names_no_size(
    paper: Paper, model: str, path: str, size: tuple[int, int], sent: dict[str, str]
) -> None:
    """With gpt-image IDs it was cropped to 1024x1024; their vendor's models keep the source's size."""
    answer = paper.post({"prompt": "x", "model": model, "image": text(png(scene(300, 200))), **sent}, path)
    assert answer.status_code == 200, answer.text
    spec = paper.worker.drawings[0].spec
    assert (spec.width, spec.height) == size


@pytest.mark.parametrize(("written", "size"), [("auto", (300, 200)), ("64x48", (64, 48))])
def test_an_edit_size_that_is_written_wins_on_both_prefixes(
    paper_servers: PaperServers, tmp_path: Path, written: str, size: tuple[int, int]
) -> None:
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    file.write_text(f"default: mine\nmodels:\n  mine: {{ path: {weights}, edit_size: {written} }}\n")
    paper = paper_servers.open(models=file)
    edit = {"prompt": "x", "image": text(png(scene(300, 200)))}
    for path in ("/v1/images/edits", "/api/images/edits"):
        assert paper.post(edit, path).status_code == 200
    assert paper.post(edit).status_code == 200
    sizes = [(drawing.spec.width, drawing.spec.height) for drawing in paper.worker.drawings]
    assert sizes == [size, size, (1024, 1024)]


def test_a_picture_that_comes_as_file_and_as_text_is_refused(paper: Paper) -> None:
    """The text was ignored."""
    with paper.client() as client:
        upload = {"image": ("x", png(scene(50, 50)))}
        for data in ({"image_url": text(png(scene(9, 9)))}, {"reference_image": "x"}):
            answer = client.post("/v1/images/edits", data={"prompt": "x", **data}, files=upload)
            assert assert_api_error(answer, 400, "invalid_value")["param"] == next(iter(data))
        alone = client.post("/v1/images/edits", files=[("prompt", (None, "x")),
                            ("image_url", (None, text(png(scene(50, 50)))))])  # fmt: skip
        assert alone.status_code == 200, alone.text
        masked = client.post("/v1/images/variations", files={**upload, "mask": ("m", png(right_half(50, 50)))})
        assert assert_api_error(masked, 400, "invalid_value")["param"] == "mask"


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
