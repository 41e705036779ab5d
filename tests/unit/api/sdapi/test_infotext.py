"""What answers say of their pictures: the keys that strict clients want, and the text that A1111's tools read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from server.api.sdapi.fields import read_fields
from server.api.sdapi.infotext import info, infotext
from server.api.sdapi.infotext_reading import parsed
from server.api.sdapi.png_text import with_text
from server.api.sdapi.translation import A1111Submission, translate
from tests.pictures import opened, png, scene, text
from tests.unit.api.sdapi.test_translation import of_family
from tests.unit.catalog.models_files import catalog

# Of sd-backend-client, which reads them strictly.
STRICT = {
    "prompt": str, "all_prompts": list, "negative_prompt": str, "all_negative_prompts": list, "seed": int,
    "all_seeds": list, "subseed": int, "all_subseeds": list, "subseed_strength": float, "width": int, "height": int,
    "sampler_name": str, "cfg_scale": float, "steps": int, "batch_size": int, "restore_faces": bool,
    "sd_model_name": str, "sd_model_hash": str, "seed_resize_from_w": int, "seed_resize_from_h": int,
    "extra_generation_params": dict, "index_of_first_image": int, "infotexts": list, "styles": list,
    "job_timestamp": str, "clip_skip": int, "is_using_inpainting_conditioning": bool, "version": str,
}  # fmt: skip
OR_NULL = {"denoising_strength", "sd_vae_name", "sd_vae_hash", "face_restoration_model"}


def submission(tmp_path: Path, family: str = "stable-diffusion", *, edit: bool = False, **sent: Any) -> A1111Submission:
    model = of_family(catalog(tmp_path).resolve("dall-e-2"), family)
    return translate(read_fields(sent), model, edit=edit)


def test_every_key_has_its_type(tmp_path: Path) -> None:
    asked = submission(tmp_path, prompt="a cat", seed=5, batch_size=2)
    said = json.loads(info(asked, (5, 6), int(time.time())))
    assert set(said) == set(STRICT) | OR_NULL
    for key, kind in STRICT.items():
        assert type(said[key]) is kind or (kind is float and type(said[key]) is int), key
    assert said["all_seeds"] == [5, 6]
    assert [len(said[key]) for key in ("all_prompts", "all_negative_prompts", "all_subseeds", "infotexts")] == [2] * 4
    assert said["index_of_first_image"] == 0
    assert len(said["job_timestamp"]) == 14
    assert said["sd_model_name"] == "mini"  # the weights, as sd-models lists them


def test_the_text_of_a_picture(tmp_path: Path) -> None:
    asked = submission(
        tmp_path, prompt="a cat", negative_prompt="rain", steps=20, cfg_scale=7, sampler_name="DPM++ 2M Karras"
    )
    lines = infotext(asked, 9).split("\n")
    assert lines[:2] == ["a cat", "Negative prompt: rain"]
    assert lines[2].startswith(
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 9, Size: 512x512, Model: mini, "
    )
    assert len(lines) == 3


def test_no_line_where_nothing_is_kept_out(tmp_path: Path) -> None:
    assert infotext(submission(tmp_path, prompt="a\ncat"), 1).split("\n")[:2] == ["a", "cat"]
    assert "Negative" not in infotext(submission(tmp_path, prompt="a cat"), 1)
    assert "Denoising" not in infotext(submission(tmp_path, prompt="a cat"), 1)


@pytest.mark.parametrize("prompt", ["", "a cat", "steps: 20, then: stop, and: go", 'say "hi"\nand: bye', "猫 ☕"])
def test_it_is_read_back_as_it_was_written(tmp_path: Path, prompt: str) -> None:
    picture = text(png(scene(8, 8)))
    asked = submission(
        tmp_path, edit=True, prompt=prompt, negative_prompt="x", init_images=[picture], mask=picture, mask_blur_x=2
    )
    found = parsed(infotext(asked, 77))
    assert (found["Prompt"], found["Negative prompt"], found["Seed"]) == (prompt, "x", "77")
    assert (found["Mask blur"], found["Inpaint area"], found["Denoising strength"]) == ("2x4", "Only masked", "0.75")


def test_distilled_models_say_their_guidance_under_its_name(tmp_path: Path) -> None:
    found = parsed(infotext(submission(tmp_path, "flux", distilled_cfg_scale=3.5, cfg_scale=1), 1))
    assert (found["CFG scale"], found["Distilled CFG Scale"]) == ("1", "3.5")


def test_a_second_pass_is_told(tmp_path: Path) -> None:
    asked = submission(tmp_path, enable_hr=True, hr_scale=2, width=256, height=256, denoising_strength=0.4)
    found = parsed(infotext(asked, 1))
    assert (found["Hires resize"], found["Hires upscaler"], found["Denoising strength"]) == (
        "512x512",
        "Lanczos",
        "0.4",
    )


def test_a_text_is_put_into_a_png() -> None:
    picture = png(scene(8, 8))
    image = opened(with_text(picture, "parameters", "猫, a cat\nSteps: 1"))
    assert image.info["parameters"] == "猫, a cat\nSteps: 1"
    assert image.tobytes() == scene(8, 8).tobytes()
