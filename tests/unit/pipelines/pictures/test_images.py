"""Finished pixels become exactly the size and the file that were asked for, with or without their parameters."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.pictures import images
from pipelines.pictures.fitting import to_pixels
from pipelines.pictures.images import encode, finish
from pipelines.spec import Encoding, ImageSpec, Window
from tests.pictures import right_half, scene

SPEC = ImageSpec("m", "кот ☕ 猫", 40, 20, 64, 64, 8, 2.5, negative_prompt="rain", scheduler="euler")


@pytest.fixture
def drawn() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("kept", [True, False])
def test_parameters_are_in_the_file_unless_switched_off(drawn: np.ndarray, format_: str, kept: bool) -> None:
    picture = encode(finish(drawn, SPEC), SPEC, Encoding(format_, 90, kept), index=3, seed=77)
    image = Image.open(io.BytesIO(picture.data))
    image.load()
    assert (image.size, picture.width, picture.height, picture.index, picture.seed) == ((40, 20), 40, 20, 3, 77)
    assert picture.mime == f"image/{format_}"
    if format_ == "png" and kept:
        found = json.loads(image.info["parameters"])
        assert (found["prompt"], found["seed"], found["steps"], found["model"]) == (SPEC.prompt, 77, 8, "m")
        assert (found["negative_prompt"], found["scheduler"], found["size"]) == ("rain", "euler", "40x20")
    assert (b"Darkroom" in picture.data) is kept
    assert (b"rain" in picture.data) is kept


@pytest.mark.parametrize("prompt", ["café", "猫 😀", 'quotes " and \\ and \n', "\x00\x7f\x85", "\u2028"])
def test_parameters_in_exif_are_json_whatever_the_prompt(drawn: np.ndarray, prompt: str) -> None:
    """Letters beyond ASCII were written as \\xe9 and \\U0001f600, which no JSON reader takes."""
    spec = ImageSpec("m", prompt, 40, 20, 64, 64, 8, 2.5, negative_prompt=prompt)
    for format_ in ("jpeg", "webp"):
        picture = encode(finish(drawn, spec), spec, Encoding(format_), index=0, seed=77)
        kept = json.loads(Image.open(io.BytesIO(picture.data)).getexif()[0x010E].encode("ascii"))
        assert (kept["prompt"], kept["negative_prompt"], kept["seed"]) == (prompt, prompt, 77)


def test_what_the_aspect_has_too_much_of_is_cut_evenly() -> None:
    array = np.zeros((64, 64, 3), dtype=np.uint8)
    array[16:48] = 255  # the middle half
    assert np.asarray(finish(array, SPEC))[2:-2].min() > 200


def test_a_picture_of_its_own_size_is_left_alone(drawn: np.ndarray) -> None:
    spec = ImageSpec("m", "x", 64, 64, 64, 64, 1, 1.0)
    picture = encode(finish(drawn, spec), spec, Encoding(), index=0, seed=0)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture.data))), drawn)


@pytest.mark.parametrize(
    ("prompt", "negative"), [("猫" * 11_000, None), ("🐈" * 4_000, "🐕" * 4_000), ("\x01" * 32_000, None)]
)
def test_a_prompt_that_exif_has_no_room_for_is_cut_short_in_it(
    drawn: np.ndarray, prompt: str, negative: str | None
) -> None:
    """Pillow refuses such a JPEG: all the work was done, and the answer was a 500."""
    spec = ImageSpec("m", prompt, 40, 20, 64, 64, 8, 2.5, negative_prompt=negative)
    for format_ in ("jpeg", "webp", "png"):
        picture = encode(finish(drawn, spec), spec, Encoding(format_), index=0, seed=77)
        image = Image.open(io.BytesIO(picture.data))
        image.load()
        if format_ != "png":
            kept = json.loads(image.getexif()[0x010E].encode("ascii"))
            assert (kept["seed"], kept["prompt"][0]) == (77, prompt[0])


def test_a_picture_is_not_lost_for_want_of_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        if pin_memory:
            raise torch.AcceleratorError("CUDA error: out of memory")
        return torch.zeros(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", empty)
    assert images._host_memory(torch.ones(2, 3, dtype=torch.uint8)).shape == (2, 3)


def test_a_text_may_stand_in_the_place_of_the_parameters(drawn: np.ndarray) -> None:
    encoding = Encoding(texts=("Steps: 1", "Steps: 2, \u732b"))
    picture = encode(finish(drawn, SPEC), SPEC, encoding, index=1, seed=77)
    assert Image.open(io.BytesIO(picture.data)).info["parameters"] == "Steps: 2, \u732b"
    bare = encode(finish(drawn, SPEC), SPEC, Encoding(metadata=False, texts=encoding.texts), index=1, seed=77)
    assert "parameters" not in Image.open(io.BytesIO(bare.data)).info


def test_a_window_is_laid_into_its_picture(drawn: np.ndarray) -> None:
    """Under its mask, and stretched to the window; what is around it is untouched, to the bit."""
    whole, window = scene(100, 60), Window(20, 10, 40, 30)
    mask = to_pixels(right_half(40, 30))
    source = to_pixels(whole.crop(window.box))
    spec = ImageSpec(
        "m", "x", 100, 60, 64, 64, 1, 1.0, sources=(source,), mask=mask, kept=to_pixels(whole), window=window
    )
    result, kept = np.asarray(finish(drawn, spec)), np.asarray(whole)
    changed = (result != kept).any(axis=2)
    assert result.shape == (60, 100, 3)
    assert changed[10:40, 40:60].mean() > 0.99
    changed[10:40, 40:60] = False
    assert not changed.any()
    stretched = np.asarray(Image.fromarray(drawn).resize((40, 30), Image.Resampling.LANCZOS))
    assert np.array_equal(result[10:40, 40:60], stretched[:, 20:])
