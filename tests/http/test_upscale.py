"""Pictures made larger: what may be asked, what is answered without a network and with one, and what a model's own does
to its pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from server.jobs.limits import Limits
from tests import upscalers
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.pictures import opened, pixels, png, scene, text
from tests.running import ROOT, Running, start

PATH = "/v1/images/upscale"
MODELS = f"""\
default: mini
upscalers:
  twice: twice.safetensors
  four: four.safetensors
  broken: broken.safetensors
models:
  mini:
    path: {ROOT / "weights" / "darkroom-mini"}
    preload: true
    native_size: 64x64
    multiple: 16
    upscaler: twice
  plain: {{ like: mini, upscaler: lanczos }}
  damaged: {{ like: mini, upscaler: broken }}
"""


def write_models(folder: Path) -> Path:
    # Their last layers say little, so that what comes out is about the picture, and still none of Lanczos'.
    for name, scale in (("twice", 2), ("four", 4)):
        weights = {key: value * (0.2 if "body.8" in key else 1) for key, value in upscalers.compact(scale).items()}
        upscalers.write(folder / f"{name}.safetensors", weights)
    (folder / "broken.safetensors").write_bytes(b"nothing of the kind")
    path = folder / "models.yaml"
    path.write_text(MODELS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def upscaling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("upscale")
    with start(folder / "data", models=write_models(folder)) as running:
        yield running
        assert running.stop() == 0, running.log


@pytest.fixture
def several(paper_servers: PaperServers, tmp_path: Path) -> Paper:
    return paper_servers.open(models=write_models(tmp_path))


def by_network(source: Image.Image, scale: int) -> np.ndarray[Any, Any]:
    import torch

    weights = {key: value * (0.2 if "body.8" in key else 1) for key, value in upscalers.compact(scale).items()}
    sent = torch.from_numpy(np.asarray(source.convert("RGB")).copy()).permute(2, 0, 1)[None].float() / 255
    made = upscalers.by_definition(weights, sent, scale)[0].permute(1, 2, 0) * 255
    return made.round().clamp(0, 255).numpy().astype(np.int16)


def made_of(answer: dict[str, Any]) -> bytes:
    return base64.b64decode(answer["data"][0]["b64_json"])


def texts(data: bytes) -> dict[str, str]:
    picture = Image.open(io.BytesIO(data))
    assert isinstance(picture, PngImageFile)
    return {key: str(value) for key, value in picture.text.items()}


def upscale(server: Running, **fields: Any) -> Any:
    with server.client() as client:
        return client.post(PATH, json={"response_format": "b64_json", **fields})


# On paper: what may be asked.


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"scale": 2}, "image", "image is required"),
        ({"image": "IMAGE"}, "scale", "scale or size is required"),
        ({"image": "IMAGE", "scale": 2, "size": "64x64"}, "scale", "has both"),
        ({"image": "IMAGE", "scale": 1}, "scale", "above 1"),
        ({"image": "IMAGE", "scale": 8.01}, "scale", "at most 8"),
        ({"image": "IMAGE", "scale": "two"}, "scale", "must be a number"),
        ({"image": "IMAGE", "scale": True}, "scale", "must be a number"),
        ({"image": "IMAGE", "scale": [2]}, "scale", "must be a number"),
        ({"image": "IMAGE", "size": "auto"}, "size", "WIDTHxHEIGHT"),
        ({"image": "IMAGE", "size": "large"}, "size", "WIDTHxHEIGHT"),
        ({"image": "IMAGE", "size": "20x16"}, "size", "not larger than the picture"),
        ({"image": "IMAGE", "size": "2000x16"}, "size", "more than 8 times"),
        ({"image": ["IMAGE", "IMAGE"], "scale": 2}, "image", "one picture"),
        ({"image": "IMAGE", "scale": 2, "response_format": "tape"}, "response_format", "b64_json"),
    ],
)
def test_what_may_not_be_asked(paper: Paper, fields: dict[str, Any], param: str, says: str) -> None:
    image = text(png(scene(20, 16)))
    sent = json.loads(json.dumps(fields).replace("IMAGE", image))
    answer = paper.post(sent, PATH)
    assert_api_error(answer, 400, "missing_field" if param == "image" and "image" not in fields else "invalid_value")
    assert answer.json()["error"]["param"] == param
    assert says in answer.json()["error"]["message"]
    assert not paper.worker.drawings


def test_no_more_pixels_than_a_picture_may_have(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(max_image_pixels=4096)
    answer = paper.post({"image": text(png(scene(32, 32))), "scale": 2.1}, PATH)
    assert "67 × 67" in assert_api_error(answer, 400, "invalid_value")["message"]
    assert paper.post({"image": text(png(scene(32, 32))), "scale": 2}, PATH).status_code == 200


@pytest.mark.parametrize(("output_format", "side"), [("webp", 8192), ("jpeg", 32751)])
def test_no_larger_than_files_of_the_format_can_be(paper: Paper, output_format: str, side: int) -> None:
    """It was drawn, could then not be written, and was answered 500."""
    sent = {"image": text(png(Image.new("RGB", (side, 8)))), "output_format": output_format}
    answer = paper.post({**sent, "scale": 2}, PATH)
    error = assert_api_error(answer, 400, "invalid_value")
    assert error["param"] == "output_format"
    assert f"{2 * side} × 16" in error["message"]
    assert not paper.worker.drawings
    answer = paper.post({**sent, "size": f"{2 * side - 2}x16"}, PATH)
    assert answer.status_code == 200, answer.text


def test_a_mask_and_two_files_are_refused(paper: Paper) -> None:
    file = ("a.png", png(scene(8, 8)), "image/png")
    with paper.client() as client:
        masked = client.post(PATH, data={"scale": "2"}, files=[("image", file), ("mask", file)])
        two = client.post(PATH, data={"scale": "2"}, files=[("image", file), ("image", file)])
    assert assert_api_error(masked, 400, "invalid_value")["param"] == "mask"
    assert assert_api_error(two, 400, "invalid_value")["param"] == "image"


def test_a_name_of_no_upscaler(several: Paper) -> None:
    answer = several.post({"image": text(png(scene(8, 8))), "scale": 2, "model": "mini"}, PATH)
    message = assert_api_error(answer, 404, "model_not_found")["message"]
    assert "twice, four, broken, lanczos" in message


def test_the_spec_of_a_job(several: Paper) -> None:
    sent = {"image": text(png(scene(30, 20))), "size": "90x80", "model": "four", "prompt": "a cat", "seed": 3}
    answer = several.post(sent, PATH)
    assert answer.status_code == 200
    assert answer.headers["x-ignored-fields"] == "prompt, seed"
    (drawing,) = several.worker.drawings
    spec = drawing.spec
    assert (spec.width, spec.height, spec.steps, spec.upscaler) == (90, 80, 1, "four")
    assert (spec.sources[0].width, spec.sources[0].height) == (30, 20)
    assert [file.name for file in drawing.plan.upscalers] == ["four"]


def test_it_is_counted_and_found_like_any_job(paper_servers: PaperServers, tmp_path: Path) -> None:
    paper = paper_servers.open(keys=True, models=write_models(tmp_path))
    sent = {"image": text(png(scene(500, 500))), "scale": 2}
    with paper.client() as client:
        client.post(PATH, json=sent, headers={"x-job-id": "larger-01"}).raise_for_status()
        job = client.get("/v1/images/jobs/larger-01").raise_for_status().json()
        rows = client.get("/v1/usage").raise_for_status().json()
    assert (job["model"], job["status"]) == ("twice", "done")
    used = rows["data"][0]
    assert (used["model"], used["pictures"]) == ("twice", 1)
    assert used["megapixel_steps"] == pytest.approx(1.0)


def test_a_repeat_joins(several: Paper) -> None:
    sent = {"image": text(png(scene(30, 20))), "scale": 2}
    headers = {"idempotency-key": "once"}
    first = several.post(sent, PATH, headers=headers).json()
    assert several.post(sent, PATH, headers=headers).json() == first
    assert len(several.worker.drawings) == 1
    other = several.post({**sent, "scale": 3}, PATH, headers=headers)
    assert_api_error(other, 409, "idempotency_mismatch")


def test_the_list(several: Paper) -> None:
    with several.client() as client:
        rows = client.get("/v1/images/upscalers").raise_for_status().json()["data"]
        ready = client.get("/readyz").json()
    assert [(row["id"], row["network"], row["scale"], row["default"]) for row in rows] == [
        ("twice", "SRVGGNetCompact", 2, True),
        ("four", "SRVGGNetCompact", 4, False),
        ("broken", None, None, False),
        ("lanczos", None, None, False),
    ]
    assert [row["state"] for row in rows] == ["ready", "ready", "broken", "ready"]
    assert set(ready["upscalers"]) == {"twice", "four", "broken"}
    assert "not a safetensors file" in ready["upscalers"]["broken"]["reason"]
    assert not any("upscaler" in key for key in ready["models"])


# With a worker.


def test_without_a_network_lanczos_and_it_says_so(server: Running) -> None:
    source = scene(64, 48)
    with server.client() as client:
        answer = client.post(PATH, data={"scale": "2", "response_format": "b64_json"}, files={"image": png(source)})
    body = answer.raise_for_status().json()
    assert answer.headers["x-upscaler"] == body["upscaler"] == "lanczos"
    assert body["size"] == "128x96"
    expected = np.asarray(source.resize((128, 96), Image.Resampling.LANCZOS)).astype(np.int16)
    assert np.abs(pixels(made_of(body)) - expected).max() == 0
    assert json.loads(texts(made_of(body))["parameters"])["upscaler"] == "lanczos"
    assert "XML:com.adobe.xmp" not in texts(made_of(body))  # no model has touched it


def test_a_network_makes_it_larger(upscaling: Running) -> None:
    source = scene(64, 48)
    answer = upscale(upscaling, image=text(png(source)), scale=2).raise_for_status()
    body = answer.json()
    assert answer.headers["x-upscaler"] == body["upscaler"] == "twice"
    made = pixels(made_of(body))
    lanczos = np.asarray(source.resize((128, 96), Image.Resampling.LANCZOS)).astype(np.int16)
    assert np.abs(made - by_network(source, 2)).max() <= 4  # bfloat16, where the CPU has it
    assert np.abs(made - lanczos).max() > 20
    assert "XML:com.adobe.xmp" in texts(made_of(body))
    named = upscale(upscaling, image=text(png(source)), size="256x192", model="four").json()
    assert named["upscaler"] == "four"
    assert np.abs(pixels(made_of(named)) - by_network(source, 4)).max() <= 4


def test_transparency_stays(upscaling: Running) -> None:
    cut = scene(64, 48).convert("RGBA")
    cut.paste((0, 0, 0, 0), (0, 0, 32, 48))
    body = upscale(upscaling, image=text(png(cut)), scale=3).raise_for_status().json()
    made = opened(made_of(body))
    assert (made.mode, made.size, body["background"]) == ("RGBA", (192, 144), "transparent")
    alpha = np.asarray(made.getchannel("A"), dtype=np.int16)
    assert alpha[:, :80].mean() < 40 < 200 < alpha[:, 112:].mean()
    flat = upscale(upscaling, image=text(png(cut)), scale=3, output_format="jpeg").raise_for_status().json()
    assert opened(made_of(flat)).mode == "RGB"


def test_a_broken_network_is_unavailable(upscaling: Running) -> None:
    answer = upscale(upscaling, image=text(png(scene(8, 8))), scale=2, model="broken")
    assert_api_error(answer, 503, "model_unavailable")


def drawn(server: Running, model: str, **fields: Any) -> bytes:
    sent = {"model": model, "size": "128x128", "num_inference_steps": 2, "seed": 1, "response_format": "b64_json"}
    return base64.b64decode(server.draw(**{**sent, **fields}).raise_for_status().json()["data"][0]["b64_json"])


def test_a_model_has_its_pictures_enlarged(upscaling: Running) -> None:
    small = opened(drawn(upscaling, "plain", size="64x64"))
    larger, plain = drawn(upscaling, "mini"), drawn(upscaling, "plain")
    assert json.loads(texts(larger)["parameters"])["upscaler"] == "twice"
    assert "upscaler" not in json.loads(texts(plain)["parameters"])
    assert np.abs(pixels(larger) - by_network(small, 2)).max() <= 4
    lanczos = np.asarray(small.resize((128, 128), Image.Resampling.LANCZOS)).astype(np.int16)
    assert np.abs(pixels(plain) - lanczos).max() == 0


def test_one_that_cannot_be_used_leaves_it_to_lanczos(upscaling: Running) -> None:
    assert (pixels(drawn(upscaling, "damaged")) == pixels(drawn(upscaling, "plain"))).all()
    assert "upscaler cannot be used" in upscaling.log


def test_outside_of_a_mask_the_source_stays(upscaling: Running) -> None:
    source, mask = scene(128, 128), Image.new("RGBA", (128, 128), "black")
    mask.paste((0, 0, 0, 0), (32, 32, 96, 96))
    with upscaling.client() as client:
        answer = client.post(
            "/v1/images/edits",
            data={"prompt": "an apple", "model": "mini", "size": "128x128", "num_inference_steps": "4",
                  "response_format": "b64_json"},
            files={"image": png(source), "mask": png(mask)},
        )  # fmt: skip
    data = made_of(answer.raise_for_status().json())
    assert json.loads(texts(data)["parameters"])["upscaler"] == "twice"
    kept = np.abs(pixels(data) - np.asarray(source).astype(np.int16)).max(axis=-1)
    kept[32:96, 32:96] = 0
    assert kept.max() == 0


# In AUTOMATIC1111's words.


def test_extras_know_networks(upscaling: Running) -> None:
    source = scene(64, 48)
    sent = {"image": text(png(source)), "upscaler_1": "FOUR", "upscaling_resize": 4}
    with upscaling.client() as client:
        names = [(row["name"], row["scale"]) for row in client.get("/sdapi/v1/upscalers").json()]
        answer = client.post("/sdapi/v1/extra-single-image", json=sent).raise_for_status()
        mixed = {**sent, "upscaler_1": "Lanczos", "upscaler_2": "four", "extras_upscaler_2_visibility": 0.5}
        half = client.post("/sdapi/v1/extra-single-image", json=mixed).raise_for_status()
    assert ("twice", 2) in names
    assert ("four", 4) in names
    assert "broken" not in dict(names)
    assert "x-ignored-fields" not in answer.headers
    made = pixels(base64.b64decode(answer.json()["image"]))
    assert np.abs(made - by_network(source, 4)).max() <= 4
    for enlarged in (answer, half):
        assert "XML:com.adobe.xmp" in texts(base64.b64decode(enlarged.json()["image"]))  # as from images/upscale
    lanczos = np.asarray(source.resize((256, 192), Image.Resampling.LANCZOS)).astype(np.int16)
    assert np.abs(pixels(base64.b64decode(half.json()["image"])) - (made + lanczos) / 2).max() <= 2


def test_what_means_nothing_is_told_with_a_network_too(several: Paper) -> None:
    """The job of the network took its place."""
    sent = {"image": text(png(scene(8, 8))), "upscaler_1": "twice", "gfpgan_visibility": 1}
    answer = several.post(sent, "/sdapi/v1/extra-single-image").raise_for_status()
    assert len(several.worker.drawings) == 1
    assert answer.headers["x-ignored-fields"] == "gfpgan_visibility"


def test_a_second_pass_begins_with_what_a_network_made(several: Paper) -> None:
    sent = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "enable_hr": True, "hr_scale": 2, "seed": 5}
    for name, ignored in (("four", None), ("other", "hr_upscaler")):
        several.worker.forget()
        answer = several.post({**sent, "hr_upscaler": name, "batch_size": 2}, "/sdapi/v1/txt2img")
        assert answer.status_code == 200, answer.text
        assert answer.headers.get("x-ignored-fields") == ignored
        larger = [drawing for drawing in several.worker.drawings if drawing.plan.only_enlarges]
        assert [each.spec.upscaler for each in larger] == ([] if ignored else ["four", "four"])
        assert {(each.spec.width, each.spec.height) for each in larger} == (set() if ignored else {(128, 128)})
        assert len(several.worker.drawings) == 3 + len(larger)


@pytest.mark.parametrize("limit", [{"max_image_bytes": 1024}, {"max_image_pixels": 3}])
@pytest.mark.parametrize("name", ["Lanczos", "four"])
def test_what_was_drawn_here_may_be_larger_than_what_may_be_sent(
    paper_servers: PaperServers, tmp_path: Path, name: str, limit: dict[str, Any]
) -> None:
    """A second pass was refused with 413 after the first had been drawn."""
    paper = paper_servers.open(models=write_models(tmp_path), **limit)
    paper.worker.ballast = 2000
    sent = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "enable_hr": True, "hr_upscaler": name}
    answer = paper.post(sent, "/sdapi/v1/txt2img")
    assert answer.status_code == 200, answer.text
    assert len(paper.worker.drawings) == (2 if name == "Lanczos" else 3)


def test_a_second_pass_with_a_network_is_drawn(upscaling: Running) -> None:
    sent = {"prompt": "a red apple", "width": 64, "height": 64, "steps": 2, "enable_hr": True, "hr_scale": 2,
            "hr_upscaler": "twice", "seed": 5, "override_settings": {"sd_model_checkpoint": "mini"}}  # fmt: skip
    with upscaling.client() as client:
        answer = client.post("/sdapi/v1/txt2img", json=sent).raise_for_status()
    assert opened(base64.b64decode(answer.json()["images"][0])).size == (128, 128)


def test_keys_of_some_models_have_their_upscalers(paper_servers: PaperServers, tmp_path: Path) -> None:
    paper = paper_servers.open(models=write_models(tmp_path), keys=True)
    keyring = paper.app.state.keyring
    limited = keyring.create("limited", but=lambda entry: replace(entry, limits=Limits(models=("mini",))))
    sent = {"image": text(png(scene(8, 8))), "scale": 2}
    with paper.client(headers={"authorization": f"Bearer {limited}"}) as client:
        assert client.post(PATH, json={**sent, "model": "twice"}).status_code == 200
        assert client.post(PATH, json={**sent, "model": "lanczos"}).status_code == 200
        assert_api_error(client.post(PATH, json={**sent, "model": "four"}), 403, "model_forbidden")
        rows = client.get("/v1/images/upscalers").json()["data"]
        theirs = client.get("/sdapi/v1/upscalers").json()
    assert [row["id"] for row in rows] == ["twice", "lanczos"]
    assert [row["name"] for row in theirs] == ["None", "Lanczos", "Nearest", "twice"]
