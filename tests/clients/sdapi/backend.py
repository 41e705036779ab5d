"""sd-backend-client, which reads every answer strictly: it finds out what this server is, and what it can do."""

from __future__ import annotations

from typing import Any

from report import Case, kept, opened, report  # type: ignore[import-not-found]  # beside this program
from sd_backend_client.api.detect import connect_to_backend
from sd_backend_client.api.shared_data.diffusion_params import DiffusionParams

LISTS = ("checkpoints", "vaes", "loras", "hypernetworks", "samplers", "schedulers", "upscalers")
QUICK = {"prompt": "a red apple", "seed": 7, "steps": 4, "cfg_scale": 2.5}


def lists(backend: Any, _: Case) -> dict[str, Any]:
    found: dict[str, Any] = {name: [each.name for each in getattr(backend, f"list_{name}")()] for name in LISTS}
    found["controlnet"] = backend.list_controlnet_models()
    found["capabilities"] = vars(backend.get_capabilities())
    backend.get_script_info()
    backend.get_styles()
    for refresh in (backend.refresh_checkpoints, backend.refresh_vae, backend.refresh_loras):
        refresh()
    backend.set_config(backend.get_config())
    return {"result": found}


def draw(backend: Any, case: Case) -> dict[str, Any]:
    return _made(case, backend.submit_txt2img(DiffusionParams(width=64, height=64, batch_size=2, **QUICK)))


def edit(backend: Any, case: Case) -> dict[str, Any]:
    params = DiffusionParams(width=96, height=96, init_images=[opened("SOURCE")], denoising_strength=0.3, **QUICK)
    return _made(case, backend.submit_img2img(params))


def inpaint(backend: Any, case: Case) -> dict[str, Any]:
    params = DiffusionParams(width=96, height=96, denoising_strength=0.8, **QUICK)
    params.init_images, params.mask, params.mask_blur = [opened("SOURCE")], opened("MASK").convert("L"), 0
    params.inpaint_full_res = bool(case.get("only_masked"))
    return _made(case, backend.submit_inpaint(params))


def upscale(backend: Any, case: Case) -> dict[str, Any]:
    return _made(case, backend.submit_upscale(opened("SOURCE"), 192, 192))


def cancel(backend: Any, case: Case) -> dict[str, Any]:
    """Draw for long, see it go on, and stop it."""
    slow = {**QUICK, "steps": 150, "batch_size": 4}
    handle = backend.submit_txt2img(DiffusionParams(width=512, height=512, **slow))
    stopped: list[bool] = []
    seen: list[str] = []

    def heard(progress: Any) -> None:
        seen.append(progress.status.value)
        if progress.status.value == "active" and progress.progress and progress.progress > 0.01 and not stopped:
            stopped.append(handle.cancel())

    try:
        handle.wait(timeout=120, poll_interval=0.05, on_progress=heard)
    except Exception as error:
        return {"result": [stopped, seen[-1], type(error).__name__]}
    return {"result": [stopped, seen[-1], None]}


def _made(case: Case, handle: Any) -> dict[str, Any]:
    found = handle.wait(timeout=120, poll_interval=0.05)
    return {"pictures": kept(case["name"], found.images), "seeds": found.seeds}


TASKS = {each.__name__: each for each in (lists, draw, edit, inpaint, upscale, cancel)}


def call(case: Case) -> dict[str, Any]:
    key = case.get("key")
    backend = connect_to_backend(case["url"], credentials_provider=lambda: ("anybody", key) if key else None)
    return TASKS[case["task"]](backend, case)


report(call)
