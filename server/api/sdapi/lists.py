"""The lists that AUTOMATIC1111's clients fill their menus from, and the options.

Knows which key asks, and so its current model; what is not offered is an empty list, which every client takes. Lists of
ControlNet's extension are controlnet.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import Any, Final

from fastapi import APIRouter, Request

from server.api.allowed import allowed, allowed_upscalers
from server.api.json_body import read_body
from server.api.sdapi import models, options, sampler_list
from server.api.sdapi.choices import ModelChoices
from server.api.sdapi.ignored import tell_ignored
from server.api.sdapi.upscaling import NONE, UPSCALERS
from server.api.services import Services
from server.catalog.catalog import Model

# What nothing here answers to, in the shapes that clients read.
_EMPTY: Final[dict[str, list[Any] | dict[str, Any]]] = {
    "sd-vae": [],
    "latent-upscale-modes": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "extensions": [],
    "prompt-styles": [],
    "scripts": {"txt2img": [], "img2img": []},
    "script-info": [],
    "cmd-flags": {"api": True},
}
_SCALE: Final = 4  # of an upscaler, which programs show; what is asked for decides


def router(services: Services, choices: ModelChoices) -> APIRouter:
    """The options, and every GET that lists something."""
    routes = APIRouter(prefix="/sdapi/v1")

    def usable(request: Request) -> frozenset[str] | None:
        return allowed(services.catalog, request.state.principal.limits)

    def current(request: Request) -> Model:
        return models.current(services.catalog, choices.of(request.state.principal.id), usable(request))

    @routes.get("/options")
    async def get_options(request: Request) -> dict[str, Any]:
        return options.shown(current(request))

    @routes.post("/options")
    async def set_options(request: Request) -> None:
        sent = await read_body(request, dict, may_be_empty=True)
        principal, ids = request.state.principal.id, usable(request)
        tell_ignored(request, options.set_options(services.catalog, choices, principal, sent, ids))

    @routes.get("/sd-models")
    async def sd_models(request: Request) -> list[dict[str, Any]]:
        return models.rows(services.catalog, usable(request))

    @routes.get("/samplers")
    async def samplers(request: Request) -> list[dict[str, Any]]:
        return sampler_list.samplers(current(request))

    @routes.get("/schedulers")
    async def schedulers() -> list[dict[str, Any]]:
        return sampler_list.schedulers()

    @routes.get("/upscalers")
    async def upscalers(request: Request) -> list[dict[str, Any]]:
        networks = allowed_upscalers(services.catalog, request.state.principal.limits).values()
        scales = {each.name: each.shape.scale for each in networks if each.shape is not None}
        return [_upscaler(name, scale) for name, scale in (dict.fromkeys(UPSCALERS, _SCALE) | scales).items()]

    @routes.get("/loras")
    async def loras(request: Request) -> list[dict[str, Any]]:
        ids = usable(request)
        return _loras(model for model in services.catalog if ids is None or model.id in ids)

    @routes.get("/embeddings")
    async def embeddings(request: Request) -> dict[str, Any]:
        return {"loaded": {token: _embedding() for token in sorted(current(request).entry.embeddings)}, "skipped": {}}

    for name, value in _EMPTY.items():
        routes.add_api_route(f"/{name}", _constant(value), methods=["GET"])
    return routes


def _constant(value: Any) -> Callable[[], Any]:
    async def answer() -> Any:
        return value

    return answer


def _upscaler(name: str, scale: int) -> dict[str, Any]:
    return {
        "name": name,
        "model_name": None,
        "model_path": None,
        "model_url": None,
        "scale": 1 if name == NONE else scale,
    }


def _loras(offered: Iterable[Model]) -> list[dict[str, Any]]:
    """Each adapter once, with the models that it may be named beside: a program may choose its model later."""
    found: dict[str, dict[str, Any]] = {}
    for model in offered:
        for name, lora in model.entry.loras.items():
            row = found.setdefault(
                name,
                {
                    "name": name,
                    "alias": name,
                    "path": PurePath(lora.path).name,  # where it lies on the server is nobody's business
                    "metadata": {"description": lora.description, "weight": lora.weight, "models": []},
                },
            )
            row["metadata"]["models"].append(model.id)
    return list(found.values())


def _embedding() -> dict[str, Any]:
    """What of an embedding its file would tell is not read for a list."""
    return dict.fromkeys(("step", "sd_checkpoint", "sd_checkpoint_name", "shape", "vectors"))
