"""txt2img, img2img, progress and interrupt of A1111's API, over a real socket: with a worker of paper, as each recorded
program asks, and with the embedded model."""

from __future__ import annotations

import base64
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from server.edge.keys import Keyring
from server.errors import GenerationFailed
from tests.paper import Paper, PaperServers
from tests.pictures import opened, png, scene, text
from tests.running import Running, eventually

TXT2IMG, IMG2IMG = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
SOURCE = text(png(scene(64, 64)))


def post(where: Paper | Running, path: str, body: Any = None, **options: Any) -> httpx.Response:
    with where.client() as client:
        return client.post(path, json=body, **options) if body is not None else client.post(path, **options)


def get(where: Paper | Running, path: str) -> Any:
    with where.client() as client:
        return client.get(path).raise_for_status().json()


def pictures(answer: httpx.Response) -> list[bytes]:
    assert answer.status_code == 200, answer.text[:500]
    body = answer.json()
    assert set(body) == {"images", "parameters", "info"}
    return [base64.b64decode(image, validate=True) for image in body["images"]]


def info(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.json()["info"])
    return found


def refused(answer: httpx.Response, status: int, param: str) -> str:
    """The text of a refusal, which names the field."""
    assert answer.status_code == status, answer.text[:500]
    error = answer.json()["error"]
    assert error["param"] == param
    message: str = error["message"]
    return message


# What programs send, as recorded. {"auth": …} is SillyTavern's.
OPEN_WEBUI = {"prompt": "a cat", "batch_size": 2, "width": 512, "height": 768, "steps": 50, "negative_prompt": "rain"}
SILLY_TAVERN = {
    "url": "http://127.0.0.1:8000", "auth": "user:password", "prompt": "a cat", "negative_prompt": "", "seed": 5,
    "sampler_name": "DPM++ 2M", "scheduler": "Karras", "steps": 20, "cfg_scale": 7, "width": 512, "height": 512,
    "restore_faces": False, "enable_hr": False, "hr_upscaler": "Latent", "hr_scale": 2, "hr_additional_modules": [],
    "denoising_strength": 0.7, "hr_second_pass_steps": 0, "override_settings": {"CLIP_stop_at_last_layers": 1},
    "override_settings_restore_afterwards": True, "clip_skip": 1, "save_images": True, "send_images": True,
    "do_not_save_grid": False, "do_not_save_samples": False, "alwayson_scripts": {"ADetailer": {"args": [False]}},
}  # fmt: skip
SD_NEXT = {
    "model": "darkroom-mini", "prompt": "a cat", "negative_prompt": "", "width": 256, "height": 256, "steps": 4,
    "cfg_scale": 2, "seed": -1, "batch_size": 1, "sampler_name": "euler_a", "scheduler": "discrete", "clip_skip": 0,
}  # fmt: skip
WEBUIAPI = {
    "enable_hr": False, "hr_scale": 2, "hr_upscaler": "Latent", "hr_second_pass_steps": 0, "hr_resize_x": 0,
    "hr_resize_y": 0, "hr_checkpoint_name": None, "hr_sampler_name": None, "hr_scheduler": None, "hr_prompt": "",
    "hr_negative_prompt": "", "denoising_strength": 0.7, "firstphase_width": 0, "firstphase_height": 0,
    "prompt": "a cat", "styles": [], "seed": -1, "subseed": -1, "subseed_strength": 0.0, "seed_resize_from_h": 0,
    "seed_resize_from_w": 0, "batch_size": 1, "n_iter": 1, "steps": None, "cfg_scale": 7.0, "width": 512, "height": 512,
    "restore_faces": False, "tiling": False, "do_not_save_samples": False, "do_not_save_grid": False,
    "negative_prompt": "", "eta": 1.0, "s_churn": 0, "s_tmax": 0, "s_tmin": 0, "s_noise": 1, "override_settings": {},
    "override_settings_restore_afterwards": True, "script_args": None, "script_name": None, "send_images": True,
    "save_images": False, "alwayson_scripts": {}, "sampler_name": None, "scheduler": None, "sampler_index": "Euler",
}  # fmt: skip
SD_BACKEND_CLIENT = {
    "batch_size": 2, "n_iter": 1, "steps": 20, "cfg_scale": 7.0, "width": 512, "height": 512, "prompt": "a cat",
    "negative_prompt": "", "seed": 3, "inpainting_fill": 1, "restore_faces": False, "tiling": False,
    "send_images": True, "save_images": False, "force_task_id": "task(txt2img-AB12CD3)", "sampler_name": "Euler a",
    "scheduler": "automatic", "override_settings": {"sd_model_checkpoint": "darkroom-mini"}, "alwayson_scripts": {},
}  # fmt: skip
IMAGE_GENERATION_MCP = {
    "prompt": "a cat", "width": 768, "height": 768, "steps": 30, "cfg_scale": 7.0, "sampler_name": "DPM++ 2M",
    "scheduler": "Karras", "negative_prompt": "blurry",
    "override_settings": {"sd_model_checkpoint": "darkroom-mini [0123abcdef]"},
}  # fmt: skip
LIBRE_CHAT = {"prompt": "a cat", "negative_prompt": "x", "cfg_scale": 4.5, "steps": 22, "width": 1024, "height": 1024}
TEXT_GENERATION_WEBUI = {
    "prompt": "a photo (a cat:1)", "seed": -1, "sampler_name": "Euler", "enable_hr": False, "hr_scale": "1.0",
    "hr_upscaler": "Latent", "denoising_strength": "0.5", "steps": 20, "cfg_scale": 7, "width": 512, "height": 512,
    "restore_faces": False, "override_settings_restore_afterwards": True, "negative_prompt": "",
}  # fmt: skip
KOBOLD = {
    "prompt": "a cat", "negative_prompt": "ugly", "cfg_scale": 7.0, "steps": 20.0, "width": 512.0, "height": 512.0,
    "seed": -1.0, "sampler_name": "Euler a", "eta": 0, "do_not_save_samples": True, "enable_hr": False,
    "s_min_uncond": 0,
    "override_settings": {"sd_model_checkpoint": None, "eta_noise_seed_delta": 0, "enable_pnginfo": False},
}  # fmt: skip
AI_RENDER = {
    "init_images": ["data:image/png;base64," + SOURCE], "prompt": "a cat", "sampler_index": "DPM++ 2M",
    "denoising_strength": 0.6, "width": 512, "height": 512, "steps": 30, "cfg_scale": 7, "seed": 1,
}  # fmt: skip
PHOTOSHOP = {**WEBUIAPI, "init_images": [SOURCE], "mask": SOURCE, "inpaint_full_res": False, "mask_blur": 4,
             "inpainting_mask_invert": 0, "sampler_index": "Euler a"}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "n"),
    [
        (TXT2IMG, OPEN_WEBUI, 2),
        (TXT2IMG, SILLY_TAVERN, 1),
        (TXT2IMG, SD_NEXT, 1),
        (TXT2IMG, WEBUIAPI, 1),
        (TXT2IMG, SD_BACKEND_CLIENT, 2),
        (TXT2IMG, IMAGE_GENERATION_MCP, 1),
        (TXT2IMG, LIBRE_CHAT, 1),
        (TXT2IMG, TEXT_GENERATION_WEBUI, 1),
        (TXT2IMG, KOBOLD, 1),
        (TXT2IMG, {}, 1),
        (IMG2IMG, AI_RENDER, 1),
        (IMG2IMG, PHOTOSHOP, 1),
        (IMG2IMG, {**IMAGE_GENERATION_MCP, "init_images": [SOURCE], "denoising_strength": 0.5}, 1),
    ],
)
def test_what_recorded_programs_send(paper: Paper, path: str, body: dict[str, Any], n: int) -> None:
    answer = post(paper, path, body)
    assert [opened(picture).format for picture in pictures(answer)] == ["PNG"] * n
    assert answer.headers["content-type"] == "application/json"
    assert "x-ignored-fields" not in answer.headers
    said = info(answer)
    assert len(said["all_seeds"]) == len(said["infotexts"]) == n
    assert said["infotexts"][0].split("\n")[-1].startswith("Steps: ")  # LibreChat takes the last line
    (drawing,) = paper.worker.drawings
    assert (drawing.spec.width, drawing.spec.height) == (body.get("width", 512), body.get("height", 512))
    assert "password" not in answer.text
    assert "auth" not in answer.json()["parameters"]


def test_fields_become_those_of_every_other_route(paper: Paper) -> None:
    answer = post(paper, TXT2IMG, SILLY_TAVERN)
    (drawing,), (encoding,) = paper.worker.drawings, paper.worker.encodings
    spec = drawing.spec
    assert (spec.scheduler, spec.sigmas, spec.steps, spec.guidance) == ("dpmpp_2m", "karras", 20, 7)
    assert (drawing.seeds, drawing.previews) == ((5,), 3)
    assert encoding.texts == tuple(info(answer)["infotexts"])
    assert "Schedule type: Karras" in encoding.texts[0]


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


# Progress and interrupt.

IDLE_STATE = {
    "skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_count": 0,
    "job_timestamp": "0", "job_no": 0, "sampling_step": 0, "sampling_steps": 0,
}  # fmt: skip


def progress(where: Paper | Running, query: str = "") -> Any:
    return get(where, f"/sdapi/v1/progress{query}")


def begin(pool: ThreadPoolExecutor, paper: Paper, body: dict[str, Any], path: str = TXT2IMG) -> Any:
    """A request that the worker holds."""
    paper.worker.gate.clear()
    before = len(paper.worker.drawings)
    waiting = pool.submit(post, paper, path, body)
    eventually(lambda: len(paper.worker.drawings) > before)
    return waiting


def test_idle(paper: Paper) -> None:
    assert progress(paper) == {
        "progress": 0, "eta_relative": 0, "state": IDLE_STATE, "current_image": None, "textinfo": None
    }  # fmt: skip
    assert post(paper, "/sdapi/v1/interrupt").json() == {}
    assert post(paper, "/sdapi/v1/interrupt", {}).json() == {}
    assert post(paper, "/sdapi/v1/interrupt", content=b'""').json() == {}
    assert post(paper, "/sdapi/v1/skip").json() is None


def test_progress_while_a_picture_is_drawn(paper: Paper) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = begin(pool, paper, {"prompt": "a cat", "n_iter": 2, "steps": 20})
        told = eventually(lambda: (now := progress(paper))["current_image"] and now)
        assert told["progress"] == pytest.approx(0.51)
        state = told["state"]
        assert {**state, "job_timestamp": "0"} == {
            **IDLE_STATE, "job": "scripts_txt2img", "job_count": 2, "job_no": 1, "sampling_steps": 2
        }  # fmt: skip
        assert len(state["job_timestamp"]) == 14
        assert opened(base64.b64decode(told["current_image"])).format == "PNG"
        assert progress(paper, "?skip_current_image=true")["current_image"] is None
        assert progress(paper, "?skip_current_image=nonsense")["current_image"]
        paper.worker.gate.set()
        assert len(pictures(waiting.result(10))) == 2
    assert progress(paper)["state"] == IDLE_STATE


@pytest.mark.parametrize("way", ["interrupt", "skip"])
def test_an_interrupted_picture_is_answered_as_it_is(paper: Paper, way: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = begin(pool, paper, {"prompt": "a cat", "batch_size": 2, "seed": 7})
        eventually(lambda: progress(paper)["current_image"])
        post(paper, f"/sdapi/v1/{way}")
        answer = waiting.result(10)
    found = pictures(answer)
    assert [opened(picture).size for picture in found] == [(2, 2), (2, 2)]
    assert info(answer)["all_seeds"] == [7, 8]
    assert [opened(picture).info["parameters"] for picture in found] == info(answer)["infotexts"]
    eventually(lambda: paper.worker.cancelled)
    assert progress(paper)["state"] == IDLE_STATE


def test_what_is_interrupted_before_anything_is_seen_has_no_pictures(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(running_jobs=1)
    with ThreadPoolExecutor(2) as pool:
        holding = begin(pool, paper, {"prompt": "a cat"}, "/v1/images/generations")
        waiting = pool.submit(post, paper, TXT2IMG, {"prompt": "a dog", "batch_size": 2})
        told = eventually(lambda: (now := progress(paper))["state"]["job_count"] and now)
        assert (told["progress"], told["current_image"]) == (0.01, None)
        post(paper, "/sdapi/v1/interrupt")
        answer = waiting.result(10)
        assert pictures(answer) == []
        assert len(info(answer)["infotexts"]) == 2
        paper.worker.gate.set()
        assert holding.result(10).status_code == 200  # not a job of these routes
    assert paper.worker.cancelled == []


def test_a_job_deleted_elsewhere_is_an_error(paper: Paper) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = begin(pool, paper, {"prompt": "a cat"})
        with paper.client() as client:
            (row,) = [each for each in client.get("/v1/images/jobs").json()["data"] if each["status"] == "running"]
            client.delete(f"/v1/images/jobs/{row['id']}")
        answer = waiting.result(10)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_cancelled")


def test_a_key_sees_and_interrupts_its_own_jobs_alone(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True)
    other = Keyring(paper.app.state.services.settings.data_dir / "keys.json").create("other")
    with ThreadPoolExecutor(1) as pool, paper.client(headers={"authorization": f"Bearer {other}"}) as stranger:
        eventually(lambda: stranger.get("/sdapi/v1/progress").status_code == 200)  # once its key has been read
        waiting = begin(pool, paper, {"prompt": "a cat"})
        assert stranger.get("/sdapi/v1/progress").json()["state"] == IDLE_STATE
        assert stranger.post("/sdapi/v1/interrupt").json() == {}
        assert progress(paper)["state"]["job_count"] == 1
        paper.worker.gate.set()
        assert len(pictures(waiting.result(10))) == 1
    assert paper.worker.cancelled == []


def test_a_closed_connection_cancels(paper: Paper) -> None:
    """LibreChat and Open WebUI never post interrupt."""
    paper.worker.gate.clear()
    body = json.dumps({"prompt": "a cat"}).encode()
    host, port = paper.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(
            b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s".replace(
                b"Host: x", b"Host: localhost"
            )
            % (len(body), body)
        )
        eventually(lambda: paper.worker.drawings)
    eventually(lambda: paper.worker.cancelled)
    assert progress(paper)["state"] == IDLE_STATE


def test_the_setting_switches_the_routes_off(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(sdapi=False)
    assert post(paper, TXT2IMG, {"prompt": "a cat"}).status_code == 404
    with paper.client() as client:
        assert client.get("/sdapi/v1/progress").status_code == 404
        assert client.get("/sdapi/v1/options").status_code == 404


def test_without_metadata_nothing_is_written_into_pictures(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(picture_metadata=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = begin(pool, paper, {"prompt": "a cat"})
        eventually(lambda: progress(paper)["current_image"])
        post(paper, "/sdapi/v1/interrupt")
        (picture,) = pictures(waiting.result(10))
    assert "parameters" not in opened(picture).info
    assert paper.worker.encodings[0].metadata is False


# The embedded model.


def array(picture: bytes) -> np.ndarray:
    return np.asarray(opened(picture).convert("RGB")).astype(int)


@pytest.mark.parametrize("only_masked", [True, False])
def test_what_is_white_changes_and_what_is_black_stays(server: Running, only_masked: bool) -> None:
    source, mask = scene(160, 128), Image.new("L", (160, 128))
    ImageDraw.Draw(mask).ellipse((40, 30, 100, 90), fill=255)
    body = {
        "init_images": [text(png(source))], "mask": text(png(mask)), "prompt": "a red apple", "seed": 4, "steps": 4,
        "width": 160, "height": 128, "mask_blur": 2, "inpaint_full_res": only_masked, "denoising_strength": 1,
    }  # fmt: skip
    (picture,) = pictures(post(server, IMG2IMG, body))
    result, kept, white = array(picture), np.asarray(source).astype(int), np.asarray(mask) > 0
    assert result.shape == kept.shape
    y, x = np.mgrid[0:128, 0:160]
    far = (abs(x - 70) > 30 + 8) | (abs(y - 60) > 30 + 8)  # beyond the blur
    assert np.array_equal(result[far], kept[far])
    assert np.abs(result - kept)[white].mean() > 8


def test_a_transparent_mask_paints_its_opaque_part(server: Running) -> None:
    """The opposite of OpenAI's, with the same file."""
    source, mask = scene(128, 128), Image.new("RGBA", (128, 128))
    mask.paste((0, 0, 0, 255), (0, 0, 64, 128))
    body = {
        "init_images": [text(png(source))], "mask": text(png(mask)), "prompt": "a red apple", "seed": 4, "steps": 4,
        "width": 128, "height": 128, "mask_blur": 0, "inpaint_full_res": False, "denoising_strength": 1,
    }  # fmt: skip
    (picture,) = pictures(post(server, IMG2IMG, body))
    result, kept = array(picture), np.asarray(source).astype(int)
    assert np.array_equal(result[:, 64:], kept[:, 64:])
    assert np.abs(result - kept)[:, :64].mean() > 8


def test_the_same_picture_as_of_every_other_route(server: Running) -> None:
    """It is a translation: what differs is its wording."""
    sent = {"prompt": "a red apple", "seed": 7, "steps": 4, "cfg_scale": 2, "width": 128, "height": 128}
    (picture,) = pictures(post(server, TXT2IMG, {**sent, "sampler_name": "Euler"}))
    ours = server.draw(
        seed=7, num_inference_steps=4, guidance_scale=2, size="128x128", scheduler="euler", response_format="b64_json",
        model="darkroom-mini",
    )  # fmt: skip
    assert np.array_equal(array(picture), array(base64.b64decode(ours.json()["data"][0]["b64_json"])))
    assert opened(picture).info["parameters"].startswith("a red apple\nSteps: 4, Sampler: Euler, ")


def test_the_second_pass_is_the_first_picture_enlarged_and_finer(server: Running) -> None:
    sent = {"prompt": "a red apple", "seed": 7, "steps": 8, "width": 128, "height": 128}
    (small,) = pictures(post(server, TXT2IMG, sent))
    (large,) = pictures(post(server, TXT2IMG, {**sent, "enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.3}))
    assert opened(large).size == (192, 192)
    again = np.asarray(opened(large).convert("RGB").resize((128, 128), Image.Resampling.LANCZOS)).astype(int)
    apart = np.abs(again - array(small)).mean()
    assert 0.5 < apart < 25
    assert "Hires resize: 192x192" in opened(large).info["parameters"]


def test_an_interrupt_of_the_embedded_model_answers_with_the_unfinished_picture(server: Running) -> None:
    body = {"prompt": "a red apple", "seed": 5, "steps": 150, "width": 256, "height": 256, "batch_size": 2}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, server, TXT2IMG, body)
        told = eventually(lambda: (now := progress(server))["current_image"] and now)
        assert 0.2 < told["progress"] < 1
        assert opened(base64.b64decode(told["current_image"])).size == (256, 256)
        post(server, "/sdapi/v1/interrupt")
        answer = waiting.result(30)
    found = pictures(answer)
    assert [opened(picture).size for picture in found] == [(256, 256)] * 2
    assert all(array(picture).std() > 5 for picture in found)
    assert info(answer)["all_seeds"] == [5, 6]
    assert progress(server)["progress"] == 0
