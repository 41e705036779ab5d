"""txt2img and img2img of A1111's API, over a real socket with a worker of paper."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from server.api.sdapi.fields import NESTED
from server.errors import GenerationFailed
from tests.paper import Paper, PaperServers
from tests.pictures import png, scene, text
from tests.running import eventually
from tests.sdapi import IMG2IMG, SOURCE, TXT2IMG, info, pictures, post, refused


def test_a_bodys_type_is_not_asked_for(paper: Paper) -> None:
    """curl says that everything is a form."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert len(pictures(post(paper, TXT2IMG, content=b'{"prompt": "a cat"}', headers=headers))) == 1


def test_no_pictures_where_none_are_wanted(paper: Paper) -> None:
    answer = post(paper, TXT2IMG, {"prompt": "a cat", "send_images": False})
    assert pictures(answer) == []
    assert len(info(answer)["all_seeds"]) == 1


def test_what_means_nothing_here_is_told(paper: Paper) -> None:
    answer = post(paper, TXT2IMG, {"sampler_name": "no such", "tiling": True, "prompt": "<lora:none:1> a cat"})
    assert set(answer.headers["x-ignored-fields"].split(", ")) == {"sampler_name", "tiling", "lora.none"}
    assert info(answer)["sampler_name"] == "DDIM"  # the model's own
    assert paper.worker.drawings[0].spec.scheduler is None


def test_the_model_is_the_overrides_the_bodys_or_the_one_that_the_key_has_set(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()

    def drawn(**sent: Any) -> str:
        assert post(paper, TXT2IMG, sent).status_code == 200
        return paper.worker.drawings[-1].spec.model

    assert drawn() == "dall-e-2"
    assert post(paper, "/sdapi/v1/options", {"sd_model_checkpoint": "gpt-image-1"}).status_code == 200
    assert drawn() == "gpt-image-1"
    assert drawn(model="dall-e-3") == "dall-e-3"
    assert drawn(model="dall-e-3", override_settings={"sd_model_checkpoint": "DARKROOM-MINI"}) == "darkroom-mini"
    assert drawn(override_settings={"sd_model_checkpoint": "None"}) == "gpt-image-1"


SMALL = text(png(scene(8, 8)))


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        (TXT2IMG, {"override_settings": {"sd_model_checkpoint": "nobody's"}}, 404, "override_settings"),
        (TXT2IMG, {"model": "nobody's"}, 404, "model"),
        (TXT2IMG, {"batch_size": 100}, 400, "batch_size"),
        (TXT2IMG, {"n_iter": "100"}, 400, "n_iter"),
        (TXT2IMG, {"width": 100_000}, 400, "width"),
        (TXT2IMG, {"cfg_scale": 1e9}, 400, "cfg_scale"),
        (TXT2IMG, {"prompt": "x" * 4001}, 400, "prompt"),
        (TXT2IMG, {"script_name": "x"}, 400, "script_name"),
        (TXT2IMG, {"lora": [{"path": "x"}] * 1001}, 400, "lora"),
        (TXT2IMG, {"alwayson_scripts": {f"x{number}": {} for number in range(1001)}}, 400, "alwayson_scripts"),
        (TXT2IMG, {"prompt": "x" * 100_001}, 400, "prompt"),
        (TXT2IMG, {"width": "9" * 5000}, 400, "width"),
        (TXT2IMG, {"hr_resize_x": "1e300"}, 400, "hr_resize_x"),
        (IMG2IMG, {}, 400, "init_images"),
        (IMG2IMG, {"init_images": ["AAAA"]}, 400, "init_images"),
        (IMG2IMG, {"init_images": ["no base64!"]}, 400, "init_images"),
        (IMG2IMG, {"init_images": ["http://127.0.0.1:1/x.png"]}, 400, "init_images"),
        (IMG2IMG, {"init_images": [SMALL, SMALL]}, 400, "init_images"),
        (IMG2IMG, {"init_images": [SMALL], "mask": "AAAA"}, 400, "mask"),
        (IMG2IMG, {"init_images": [SMALL], "mask": text(png(Image.new("L", (8, 8))))}, 400, "mask"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_its_field(
    paper: Paper, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    answer = post(paper, path, body)
    message = refused(answer, status, param)
    assert "nobody" not in message
    assert "hould have" not in message
    assert len(message) < 400
    assert answer.json()["detail"] == message != "Not Found"
    assert paper.worker.drawings == []


def test_a_mask_of_another_size_is_stretched(paper: Paper) -> None:
    mask = text(png(Image.new("L", (31, 7), 255)))
    body = {"init_images": [SOURCE], "mask": mask, "width": 64, "height": 64, "inpaint_full_res": False}
    assert len(pictures(post(paper, IMG2IMG, body))) == 1
    spec = paper.worker.drawings[0].spec
    assert spec.mask is not None
    assert (spec.mask.width, spec.mask.height) == (64, 64)


def test_only_masked_answers_in_the_sources_size(paper: Paper) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (8, 8, 24, 24))
    body = {"init_images": [SOURCE], "mask": text(png(mask)), "width": 512, "height": 512, "mask_blur": 0}
    assert len(pictures(post(paper, IMG2IMG, body))) == 1
    spec = paper.worker.drawings[0].spec
    assert (spec.width, spec.height) == (64, 64)
    assert spec.window is not None
    assert spec.window.box == (8, 8, 24, 24)
    assert spec.draw_width == spec.draw_height


def test_a_second_pass_is_of_the_same_job(paper: Paper) -> None:
    body = {
        "prompt": "a cat",
        "seed": 5,
        "batch_size": 2,
        "enable_hr": True,
        "hr_scale": 1.5,
        "width": 256,
        "height": 256,
    }
    answer = post(paper, TXT2IMG, {**body, "denoising_strength": 0.5, "steps": 20, "hr_second_pass_steps": 10})
    assert len(pictures(answer)) == 2
    first, *second = paper.worker.drawings
    assert (first.seeds, first.spec.steps, first.spec.sources) == ((5, 6), 20, ())
    assert [(each.seeds, each.spec.steps, each.spec.strength) for each in second] == [((5,), 10, 0.5), ((6,), 10, 0.5)]
    for each in second:
        assert (each.spec.width, each.spec.height) == (384, 384)
        assert (each.spec.sources[0].width, each.spec.sources[0].height) == (384, 384)
    assert len({each.job_id for each in paper.worker.drawings}) == 3
    texts = [encoding.texts for encoding in paper.worker.encodings]
    assert [len(each) for each in texts] == [0, 1, 1]
    assert [f"Seed: {seed}" in each[0] for seed, each in zip((5, 6), texts[1:], strict=True)] == [True, True]
    assert paper.app.state.services.queue.held == 0


def test_a_failed_second_pass_is_an_error_of_the_request(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    draw = paper.worker.draw

    async def failing(drawing: Any, *arguments: Any) -> Any:
        if drawing.spec.sources:
            raise GenerationFailed("black")
        return await draw(drawing, *arguments)

    paper.worker.draw = failing  # type: ignore[assignment,method-assign]
    answer = post(paper, TXT2IMG, {"enable_hr": True, "batch_size": 2})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "generation_failed")


def test_equal_requests_with_a_seed_share_a_job_unless_anything_differs(paper: Paper) -> None:
    paper.worker.gate.clear()
    body = {"init_images": [SOURCE], "mask": SOURCE, "seed": 5}
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(post, paper, IMG2IMG, each) for each in (body, body, {**body, "mask_blur": 9})]
        eventually(lambda: len(paper.worker.drawings) == 2)
        time.sleep(0.1)
        paper.worker.gate.set()
        assert all(len(pictures(each.result(10))) == 1 for each in waiting)
    assert len(paper.worker.drawings) == 2


def test_the_setting_switches_the_routes_off(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(sdapi=False)
    assert post(paper, TXT2IMG, {"prompt": "a cat"}).status_code == 404
    with paper.client() as client:
        assert client.get("/sdapi/v1/progress").status_code == 404
        assert client.get("/sdapi/v1/options").status_code == 404


def test_requests_without_a_seed_are_pictures_of_their_own(paper: Paper) -> None:
    """Whoever sends one twice at once wants two."""
    paper.worker.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(post, paper, TXT2IMG, {"prompt": "a cat", "seed": -1}) for _ in range(2)]
        eventually(lambda: len(paper.worker.drawings) == 2)
        paper.worker.gate.set()
        seeds = {info(each.result(10))["seed"] for each in waiting}
    assert len(seeds) == 2


def test_a_large_field_that_means_nothing_is_neither_kept_nor_repeated(paper: Paper) -> None:
    answer = post(paper, TXT2IMG, {"firstpass_image": "A" * 8_000_000, "latent_mask": "A" * 8_000_000})
    assert len(pictures(answer)) == 1
    assert len(answer.content) < 5000


def nested(depth: int) -> Any:
    found: Any = "x"
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize("depth", [250, 300, 900])
@pytest.mark.parametrize("name", sorted(NESTED))
def test_fields_that_are_only_taken_may_be_of_any_depth(paper: Paper, name: str, depth: int) -> None:
    """What writes the echo and the fingerprint refuses 255 levels: 500."""
    deep = nested(depth)
    body = {name: {"x": {"args": [deep]}} if name in ("alwayson_scripts", "override_settings") else [deep]}
    answer = post(paper, TXT2IMG, body)
    assert len(pictures(answer)) == 1
    assert len(answer.content) < 5000


@pytest.mark.parametrize("value", [nested(400), {"a": nested(900)}, ["darkroom-mini"]])
def test_a_models_name_that_is_no_text_names_none(paper: Paper, value: Any) -> None:
    refused(post(paper, TXT2IMG, {"override_settings": {"sd_model_checkpoint": value}}), 404, "override_settings")
    refused(post(paper, "/sdapi/v1/options", {"sd_model_checkpoint": value}), 404, "sd_model_checkpoint")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"prompt": "<lora:né\r\nx-evil: 1:1> a cat"}, "lora.n___x-evil"),
        ({"lora": [{"path": "a\nb.safetensors"}]}, "lora.a_b"),
        ({"alwayson_scripts": {"A\u2028 b": {"args": [1]}}}, "alwayson_scripts.A_-b"),
    ],
)
def test_names_that_no_header_takes_are_told_as_far_as_it_does(paper: Paper, body: Any, told: str) -> None:
    answer = post(paper, TXT2IMG, body)
    assert len(pictures(answer)) == 1
    assert answer.headers["x-ignored-fields"] == told
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize("body", [b"", b"null", b'""', b"{}"])
def test_no_body_is_one_without_fields(paper: Paper, body: bytes) -> None:
    assert len(pictures(post(paper, TXT2IMG, content=body))) == 1
    refused(post(paper, IMG2IMG, content=body), 400, "init_images")
