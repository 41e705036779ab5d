"""ControlNets by name: the picture is the one that plain diffusers draws with them."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from tests.pictures import png, scene, text
from tests.running import ROOT, Running, start

MINI = ROOT / "weights" / "darkroom-mini"
EDGES = scene(80, 40)

PROMPT = "a red apple on a blue background"
FIELDS = {"prompt": PROMPT, "seed": 5, "size": "64x64", "num_inference_steps": 6, "guidance_scale": 3.0,
          "response_format": "b64_json"}  # fmt: skip
LIVE = f"""\
default: mini
models:
  mini:
    path: {MINI}
    preload: true
    native_size: 64x64
    multiple: 16
    controlnets: {{ a: a, b: b }}
  bare: {{ path: {MINI}, native_size: 64x64, multiple: 16 }}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import UNet2DConditionModel

    from tests.controlnets import save_controlnet

    folder = tmp_path_factory.mktemp("controls")
    unet = UNet2DConditionModel.from_pretrained(MINI / "unet")
    for seed, name in enumerate("ab"):
        save_controlnet(unet, 4, folder / name, seed=seed)
    (folder / "models.yaml").write_text(LIVE)
    return folder


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[Running]:
    with start(folder / "data", models=folder / "models.yaml", device="cpu") as running:
        yield running


def drawn(answer: Any) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["data"]
    with Image.open(io.BytesIO(base64.b64decode(row["b64_json"]))) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


A = {"name": "a", "image": text(png(scene(64, 64)))}


def test_a_control_changes_the_picture_and_a_weight_of_0_does_not(live: Running) -> None:
    plain = drawn(live.draw(**FIELDS))
    steered = drawn(live.draw(**FIELDS, controls=[A]))
    assert np.abs(plain - steered).max() > 20
    assert np.array_equal(plain, drawn(live.draw(**FIELDS, controls=[{**A, "weight": 0}])))
    assert np.abs(steered - drawn(live.draw(**FIELDS, controls=[{**A, "name": "b"}]))).max() > 20
    assert np.array_equal(plain, drawn(live.draw(**FIELDS, model="bare"))), "a model with none draws the same"


def test_requests_that_meet_draw_what_each_draws_alone(live: Running) -> None:
    bodies: list[dict[str, Any]] = [
        FIELDS,
        {**FIELDS, "controls": [A]},
        {**FIELDS, "controls": [{**A, "name": "b", "weight": 0.6, "end": 0.5}]},
        {**FIELDS, "controls": [A, {**A, "name": "b"}], "prompt": "a blue cup"},
        {**FIELDS, "controls": [A], "image": text(png(scene(64, 64))), "strength": 0.9},
    ]
    alone = [drawn(live.draw(**body)) for body in bodies]
    together: dict[int, np.ndarray[Any, Any]] = {}
    threads = [
        threading.Thread(target=lambda n=n, body=body: together.update({n: drawn(live.draw(**body))}))
        for n, body in enumerate(bodies)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, picture in enumerate(alone):
        assert np.abs(picture - together[number]).max() <= 1, number


def test_the_picture_is_the_one_that_diffusers_draws(live: Running, folder: Path) -> None:
    import torch
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    net = ControlNetModel.from_pretrained(folder / "a")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(MINI, controlnet=net, torch_dtype=torch.float32)
    with torch.no_grad():
        image = pipeline(
            prompt=PROMPT,
            image=scene(64, 64),
            num_inference_steps=6,
            guidance_scale=3.0,
            width=64,
            height=64,
            generator=torch.Generator().manual_seed(5),
        ).images[0]
    expected = np.asarray(image.convert("RGB"), dtype=np.int16)
    assert np.abs(drawn(live.draw(**FIELDS, controls=[A])) - expected).max() <= 1


def test_the_openai_client_sends_them_and_the_picture_names_them(live: Running) -> None:
    client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="x", max_retries=0)
    with client:
        answer = client.images.generate(
            prompt=PROMPT, response_format="b64_json", size="256x256", extra_body={"controls": [{**A, "weight": 0.5}]}
        )
        assert answer.data is not None
        with Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or ""))) as image:
            said = json.loads(image.info["parameters"])
        assert said["controls"] == [{"name": "a", "weight": 0.5, "start": 0.0, "end": 1.0}]
        edges = io.BytesIO(png(EDGES))
        edited = client.images.edit(
            image=("x.png", png(scene(64, 64))),
            prompt="x",
            response_format="b64_json",
            extra_body={"controls": [{"name": "a", "image": base64.b64encode(edges.getvalue()).decode()}]},
        )
        assert edited.data is not None


def test_n_pictures_previews_and_the_step_cache_go_with_them(live: Running) -> None:
    with live.client() as client:
        body = {**FIELDS, "n": 2, "controls": [A], "num_inference_steps": 20, "step_cache": True, "stream": True,
                "partial_images": 1}  # fmt: skip
        with client.stream("POST", "/v1/images/generations", json=body) as answer:
            text = answer.read().decode()
    assert answer.status_code == 200, text
    assert text.count("event: image_generation.partial_image") == 2
    assert text.count("event: image_generation.completed") == 2


def test_a1111_draws_with_them(live: Running) -> None:
    unit = {"enabled": True, "image": text(png(scene(64, 64))), "module": "none", "model": "a", "weight": 1}
    body = {"prompt": PROMPT, "seed": 5, "width": 64, "height": 64, "steps": 6, "cfg_scale": 3}
    with live.client() as client:
        plain = client.post("/sdapi/v1/txt2img", json=body).json()
        steered = client.post(
            "/sdapi/v1/txt2img", json={**body, "alwayson_scripts": {"controlnet": {"args": [unit]}}}
        ).json()
    pictures = []
    for answer in (plain, steered):
        with Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))) as image:
            pictures.append(np.asarray(image.convert("RGB"), dtype=np.int16))
    assert np.abs(pictures[0] - pictures[1]).max() > 20
    assert "ControlNet 0" in json.loads(steered["info"])["infotexts"][0]
