"""webuiapi, which AgentScope and others build on: every call that this API answers."""

from __future__ import annotations

import threading
import time
from typing import Any
from urllib.parse import urlsplit

import webuiapi
from report import Case, kept, opened, report  # type: ignore[import-not-found]  # beside this program

LISTS = (
    "options", "cmd_flags", "progress", "samplers", "sd_vae", "upscalers", "latent_upscale_modes", "loras", "sd_models",
    "hypernetworks", "face_restorers", "realesrgan_models", "prompt_styles", "scripts", "embeddings", "memory",
    "schedulers",
)  # fmt: skip


def lists(api: Any, _: Case) -> dict[str, Any]:
    found = {name: getattr(api, f"get_{name}")() for name in LISTS}
    found["refresh"] = api.refresh_checkpoints()
    found["interrupt"], found["skip"] = api.interrupt(), api.skip()
    return {"result": found}


def model(api: Any, case: Case) -> dict[str, Any]:
    api.set_options(api.get_options())
    api.util_set_model(case["model"])
    api.util_wait_for_ready(check_interval=0.1)
    return {"result": [api.util_get_current_model(), *api.util_get_model_names()]}


def draw(api: Any, case: Case) -> dict[str, Any]:
    made = api.txt2img(
        prompt="a red apple", seed=7, steps=4, width=64, height=64, n_iter=2, sampler_name="Euler a", cfg_scale=2.5
    )
    return {"pictures": kept(case["name"], made.images), "info": made.info, "png_info": api.png_info(made.image).info}


def edit(api: Any, case: Case) -> dict[str, Any]:
    made = api.img2img(
        images=[opened("SOURCE")],
        mask_image=opened("MASK") if case.get("mask") else None,
        mask_blur=0,
        inpaint_full_res=False,
        prompt="a red apple",
        seed=7,
        steps=4,
        width=96,
        height=96,
        cfg_scale=2.5,
        denoising_strength=case.get("strength", 0.8),
        sampler_name="Euler a",
    )
    return {"pictures": kept(case["name"], made.images), "info": made.info}


def upscale(api: Any, case: Case) -> dict[str, Any]:
    source = opened("SOURCE")
    one = api.extra_single_image(source, upscaler_1="Lanczos", upscaling_resize=2)
    two = api.extra_batch_images([source, source], upscaler_1="Nearest", upscaling_resize=3)
    return {"pictures": kept(case["name"], [one.image, *two.images]), "info": one.info}


def interrupt(api: Any, case: Case) -> dict[str, Any]:
    """Draw for long, see it go on, and stop it."""
    made: list[Any] = []

    def drawing() -> None:
        try:
            made.append(api.txt2img(prompt="a red apple", seed=7, steps=150, width=512, height=512, n_iter=4))
        except Exception as error:
            made.append(error)

    thread = threading.Thread(target=drawing)
    thread.start()
    seen: list[dict[str, Any]] = []
    while thread.is_alive() and not (seen and seen[-1]["current_image"]):
        time.sleep(0.05)
        seen.append(api.get_progress())
    said = api.interrupt()
    thread.join(60)
    if isinstance(made[0], Exception):
        raise made[0]
    last = {**seen[-1], "current_image": bool(seen[-1]["current_image"])}
    return {"pictures": kept(case["name"], made[0].images), "result": [said, last]}


def unknown_model(api: Any, _: Case) -> dict[str, Any]:
    made = api.txt2img(prompt="x", override_settings={"sd_model_checkpoint": "no-such.safetensors [0123456789]"})
    return {"result": str(made.info)}


TASKS = {each.__name__: each for each in (lists, model, draw, edit, upscale, interrupt, unknown_model)}


def call(case: Case) -> dict[str, Any]:
    address = urlsplit(case["url"])
    api = webuiapi.WebUIApi(host=address.hostname, port=address.port)
    if case.get("key"):
        api.set_auth("anybody", case["key"])
    return TASKS[case["task"]](api, case)


report(call)
