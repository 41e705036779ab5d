"""A1111's API over a real socket with the embedded model: pixels that change, and pixels that stay."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.pictures import opened, png, scene, text
from tests.running import Running, eventually
from tests.sdapi import IMG2IMG, TXT2IMG, info, pictures, post, progress


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
