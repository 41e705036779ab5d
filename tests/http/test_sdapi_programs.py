"""What programs that speak A1111's API send, as recorded: each draws, with a worker of paper."""

from __future__ import annotations

from typing import Any

import pytest

from tests.paper import Paper
from tests.pictures import opened
from tests.sdapi import IMG2IMG, SOURCE, TXT2IMG, info, pictures, post

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
