"""POST …/images/generations against the real thing: every field, and the worked examples of the specification."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from server.catalog.catalog import Catalog, Model
from tests.assertions import assert_api_error
from tests.pictures import files, opened, parameters, pixels, png, right_half, scene, text
from tests.running import Running

CAT = {"prompt": "A cute cat programming on a laptop, digital art style"}
CITY = {
    "model": "dall-e-3",
    "prompt": "A futuristic city skyline at sunset with flying cars and neon lights",
    "size": "1792x1024",
    "quality": "hd",
    "style": "vivid",
    "response_format": "b64_json",
}


def curl(running: Running, body: Mapping[str, object], tmp_path: Path) -> dict[str, Any]:
    """The specification's own command, with host and key changed."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl: apt-get install curl")
    answer = tmp_path / "answer.json"
    command = ["curl", "-sS", "--fail-with-body", "--noproxy", "*", "-X", "POST"]
    command += [f"{running.url}/api/images/generations", "-H", "Content-Type: application/json"]
    command += ["-H", "Authorization: Bearer any-key", "-d", json.dumps(body), "-o", str(answer)]
    subprocess.run(command, check=True, timeout=150)
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def test_the_first_worked_example_through_curl(server: Running, tmp_path: Path) -> None:
    before = int(time.time())
    answer = curl(server, CAT, tmp_path)
    assert isinstance(answer["created"], int)
    assert before <= answer["created"] <= time.time()
    (item,) = answer["data"]
    assert item["url"].startswith(f"{server.url}/files/")
    fetched = httpx.get(item["url"], trust_env=False, verify=False)  # no Authorization: the URL is the permission
    assert fetched.headers["content-type"] == "image/png"
    assert opened(fetched.content).size == (1024, 1024)
    assert parameters(fetched.content)["prompt"] == CAT["prompt"]


def test_the_second_worked_example_through_curl(server: Running, shipped: Catalog, tmp_path: Path) -> None:
    answer = curl(server, CITY, tmp_path)
    (item,) = answer["data"]
    assert "url" not in item
    picture = base64.b64decode(item["b64_json"], validate=True)
    assert opened(picture).size == (1792, 1024)
    assert opened(picture).format == "PNG"
    model = shipped.resolve("dall-e-3")
    fine, plain = model.preset("hd", "vivid").steps, model.preset("standard", "vivid").steps
    assert fine is not None
    assert plain is not None
    assert parameters(picture)["steps"] == fine > plain


def test_every_size_of_every_shipped_model_is_answered_exactly(server: Running, shipped: Catalog) -> None:
    asked = 0
    for model in shipped:
        sizes = ["1536x1024", "333x77", "16x16"] if model.entry.sizes == "any" else model.entry.sizes
        if model.entry.sizes == "any" and model.id != "gpt-image-1":
            sizes = ["777x512"]
        for size in sizes:
            answer = server.draw(model=model.id, size=size, num_inference_steps=1, output_format="jpeg")
            (picture,) = files(answer)
            assert opened(picture).size == tuple(map(int, size.split("x"))), (model.id, size)
            assert answer.json()["size"] == size
            asked += 1
    assert asked >= 9


def test_extreme_shapes_are_drawn(server: Running) -> None:
    for size in ("2048x16", "16x2048"):
        (picture,) = files(server.draw(model="gpt-image-1", size=size, num_inference_steps=1))
        assert opened(picture).size == tuple(map(int, size.split("x")))


def test_ten_pictures_have_ten_seeds_and_are_ten_pictures(server: Running, mini: Model) -> None:
    size = f"{mini.area.native_width}x{mini.area.native_height}"
    answer = server.draw(model=mini.id, size=size, n=10, seed=2**63 - 4, num_inference_steps=2)
    seeds = [item["seed"] for item in answer.json()["data"]]
    assert seeds == [(2**63 - 4 + offset) % 2**63 for offset in range(10)]
    pictures = files(answer)
    assert [parameters(picture)["seed"] for picture in pictures] == seeds
    assert len({pixels(picture).tobytes() for picture in pictures}) == 10


def test_random_seeds_are_reported_and_draw_the_same_again(server: Running, mini: Model) -> None:
    fields = {"model": mini.id, "size": f"{mini.area.native_width}x{mini.area.native_height}", "num_inference_steps": 2}
    first = server.draw(**fields)
    again = server.draw(**fields, seed=first.json()["data"][0]["seed"])
    assert first.json()["data"][0]["url"] != again.json()["data"][0]["url"]
    assert files(first) == files(again)


@pytest.mark.parametrize(("format_", "mime"), [("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")])
def test_formats(server: Running, format_: str, mime: str) -> None:
    sizes = []
    for compression in (20, 95):
        fields = {"size": "256x256", "num_inference_steps": 1, "seed": 1}
        answer = server.draw(**fields, output_format=format_, output_compression=compression)
        url = answer.json()["data"][0]["url"]
        fetched = httpx.get(url, trust_env=False, verify=False)
        assert fetched.headers["content-type"] == mime
        assert opened(fetched.content).format == format_.upper()
        assert answer.json()["output_format"] == format_
        sizes.append(len(fetched.content))
    assert sizes[0] < sizes[1] or format_ == "png"


def test_every_scheduler_draws(server: Running, mini: Model) -> None:
    fields = {"model": mini.id, "size": f"{mini.area.native_width}x{mini.area.native_height}", "seed": 3}
    drawn = {}
    for name in mini.scheduler_names:
        (picture,) = files(server.draw(**fields, num_inference_steps=4, scheduler=name))
        assert parameters(picture)["scheduler"] == name
        drawn[name] = pixels(picture)
    assert len({picture.tobytes() for picture in drawn.values()}) >= len(drawn) - 1


def test_each_control_changes_the_picture(server: Running, mini: Model) -> None:
    width, height = mini.area.native_width, mini.area.native_height
    base = {"model": mini.id, "size": f"{width}x{height}", "seed": 5, "num_inference_steps": 4}
    source = {"image": text(png(scene(width, height))), "num_inference_steps": 6}
    masked = {**source, "mask": text(png(right_half(width, height)))}
    variants: list[dict[str, Any]] = [
        {},
        {"num_inference_steps": 5},
        {"guidance_scale": 6},
        {"negative_prompt": "a blue car", "guidance_scale": 6},
        {"prompt": "a green tree"},
        {"seed": 6},
        {**source, "strength": 0.4},
        {**source, "strength": 0.9},
        masked,
    ]
    drawn = [pixels(files(server.draw(**{**base, **variant}))[0]) for variant in variants]
    assert len({picture.tobytes() for picture in drawn}) == len(variants)
    # An edit is nearer to its source the less of it is drawn anew.
    wanted = np.asarray(scene(width, height)).astype(np.int16)
    assert np.abs(drawn[6] - wanted).mean() < np.abs(drawn[7] - wanted).mean()


def test_strength_so_low_that_no_step_is_left_is_a_400(server: Running, mini: Model) -> None:
    answer = server.draw(image=text(png(scene(32, 32))), strength=0.01, num_inference_steps=4, size="256x256")
    assert assert_api_error(answer, 400, "invalid_value")["param"] == "strength"


def test_image_as_our_own_url_as_data_url_as_base64_and_in_an_array(server: Running, mini: Model) -> None:
    fields = {"size": "256x256", "seed": 9, "num_inference_steps": 3, "strength": 0.7}
    made = server.draw(size="256x256", seed=1, num_inference_steps=1)
    url = made.json()["data"][0]["url"]
    (source,) = files(made)
    forms = [url, f"data:image/png;base64,{text(source)}", text(source), [text(source)]]
    drawn = [files(server.draw(**fields, image=form))[0] for form in forms]
    assert drawn[0] == drawn[1] == drawn[2] == drawn[3]
    assert parameters(drawn[0])["task"] == "image-to-image"


def test_a_mask_keeps_what_it_does_not_cover(server: Running, mini: Model) -> None:
    width, height = mini.area.native_width, mini.area.native_height
    source = scene(width, height)
    transparent = source.convert("RGBA")
    transparent.putalpha(right_half(width, height).point(lambda value: 255 - value))
    fields = {"model": mini.id, "size": f"{width}x{height}", "seed": 2, "num_inference_steps": 4}
    by_alpha, by_white = (
        files(server.draw(**fields, image=text(png(source)), mask=text(png(mask))))[0]
        for mask in (transparent, right_half(width, height))
    )
    assert by_alpha == by_white  # OpenAI's convention and the field's
    change = np.abs(pixels(by_alpha) - np.asarray(source).astype(np.int16)).mean(axis=(0, 2))
    quarter = width // 4
    assert change[:quarter].mean() < change[-quarter:].mean() / 2
