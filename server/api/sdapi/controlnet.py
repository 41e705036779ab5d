"""ControlNet's extension, as AUTOMATIC1111's programs drive it: units → controls, and the two lists.

Knows the extension's names; what a control may be, ``server.api.control_fields`` knows. The lists are there where the
key's current model has ControlNets: programs take their absence for there being none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Request

from pipelines.facts.controls import PREPROCESSORS
from server.api import control_fields, spellings
from server.api.allowed import allowed
from server.api.sdapi import models
from server.api.sdapi.choices import ModelChoices
from server.api.sdapi.fields import A1111Fields
from server.api.services import Services
from server.catalog.catalog import Model
from server.errors import BadRequest, NotFound

PARAM: Final = "alwayson_scripts"
EXTENSION: Final = "controlnet"  # in any case
_PLACE: Final = f"{PARAM}.{EXTENSION}.args"
_NONE: Final = frozenset({"", "none"})
_HASH = re.compile(r" *\[[0-9A-Za-z]*\]$", re.ASCII)  # "control_v11p_sd15_canny [d14c016b]"
_KEYS: Final = {"name": "model", "image": "image", "weight": "weight", "start": "guidance_start",
                "end": "guidance_end", "preprocess": "module"}  # fmt: skip
# What the extension does by default; anything else would have made another picture there.
_DEFAULTS: Final[dict[str, frozenset[Any]]] = {
    "control_mode": frozenset({None, 0, "0", "", "balanced"}),
    "resize_mode": frozenset({None, 1, "1", "", "crop and resize", "scale to fit (inner fit)"}),
}


@dataclass(frozen=True)
class Units:
    """The units of a request that are on, as our controls."""

    controls: tuple[dict[str, Any], ...] = ()
    names: tuple[tuple[str, str], ...] = ()  # what refusals call a key of ours → the client's name for it
    ignored: tuple[str, ...] = ()


def read_units(fields: A1111Fields, model: Model, *, edit: bool) -> Units:
    """The units that steer a picture. Raises BadRequest for one that this model cannot follow: without it, another
    picture would be drawn."""
    own = fields.init_images[0] if edit and fields.init_images else None
    units = [(number, unit) for number, unit in enumerate(_args(fields)) if _is_on(unit, own)]
    if not units:
        return Units()
    if not model.control_names:
        raise BadRequest(f"{PARAM}: {models.title(model)} has no ControlNets.", param=PARAM)
    if len(units) > control_fields.MAX_CONTROLS:
        raise BadRequest(f"{PARAM}: at most {control_fields.MAX_CONTROLS} units of ControlNet at once.", param=PARAM)
    found, names, ignored = [], [], []
    for index, (number, unit) in enumerate(units):
        place = f"{_PLACE}[{number}]"
        found.append(_control(unit, model, place, own))
        names += [(control_fields.param(index, ours), f"{place}.{theirs}") for ours, theirs in _KEYS.items()]
        ignored += [f"{_PLACE}.{key}" for key, usual in _DEFAULTS.items() if _word(unit.get(key)) not in usual]
    return Units(tuple(found), tuple(names), tuple(dict.fromkeys(ignored)))


def infotexts(fields: tuple[control_fields.ControlFields, ...]) -> dict[str, str]:
    """What an infotext says of them, as the extension writes it."""
    return {
        f"ControlNet {number}": f"Module: {each.preprocess}, Model: {each.name}, Weight: {each.weight:g},"
        f" Guidance Start: {each.start:g}, Guidance End: {each.end:g}"
        for number, each in enumerate(fields)
    }


def router(services: Services, choices: ModelChoices) -> APIRouter:
    """``/controlnet/model_list`` and ``/controlnet/module_list``."""
    routes = APIRouter(prefix="/controlnet")

    def require_any(request: Request) -> tuple[str, ...]:
        principal = request.state.principal
        ids = allowed(services.catalog, principal.limits)
        names = models.current(services.catalog, choices.of(principal.id), ids).control_names
        if not names:
            raise NotFound("The current model has no ControlNets.")
        return names

    @routes.get("/model_list")
    async def model_list(request: Request) -> dict[str, list[str]]:
        return {"model_list": list(require_any(request))}

    @routes.get("/module_list")
    async def module_list(request: Request) -> dict[str, Any]:
        require_any(request)
        details = {name: {"model_free": False, "sliders": []} for name in PREPROCESSORS}
        return {"module_list": list(PREPROCESSORS), "module_detail": details}

    return routes


def _args(fields: A1111Fields) -> list[Any]:
    scripts = (script for name, script in fields.alwayson_scripts.items() if name.strip().lower() == EXTENSION)
    script = next(scripts, None)
    args = script.get("args") if isinstance(script, dict) else script
    return args if isinstance(args, list) else []


def _is_on(unit: Any, own: str | None) -> bool:
    """Has it a picture, and is it not switched off? An edit's own picture is one to a unit that is switched on."""
    enabled = spellings.boolean(unit.get("enabled")) if isinstance(unit, dict) else False
    if not isinstance(unit, dict) or enabled in (False, 0):
        return False
    return bool(_picture(unit)) or bool(own and enabled and _word(unit.get("model")) not in (None, *_NONE))


def _picture(unit: dict[str, Any]) -> Any:
    """Some programs wrap it, beside a mask."""
    sent = unit.get("image") or unit.get("input_image")
    return sent.get("image") if isinstance(sent, dict) else sent


def _control(unit: dict[str, Any], model: Model, place: str, own: str | None) -> dict[str, Any]:
    said: dict[str, Any] = {
        "name": _name(unit.get("model"), model, f"{place}.model"),
        "image": _picture(unit) or own,
        "preprocess": _module(unit.get("module"), f"{place}.module"),
    }
    for ours in ("weight", "start", "end"):
        sent = spellings.number(unit.get(_KEYS[ours]))
        if not spellings.is_empty(sent):
            said[ours] = sent
    return said


def _name(sent: Any, model: Model, param: str) -> str:
    plain = _HASH.sub("", sent.strip()) if isinstance(sent, str) else ""
    known = {name.casefold(): name for name in model.control_names}
    if plain.casefold() not in known:
        raise BadRequest(
            f"{param} must be one of the ControlNets of {models.title(model)}: {', '.join(model.control_names)}.",
            param=param,
        )
    return known[plain.casefold()]


def _module(sent: Any, param: str) -> str:
    word = _word(sent)
    if word is None or word in _NONE:
        return "none"
    if word not in PREPROCESSORS:
        raise BadRequest(
            f"{param} must be {' or '.join(PREPROCESSORS)}: this server has no other preprocessor. Send what the"
            " ControlNet reads, with module none.",
            param=param,
        )
    return str(word)


def _word(sent: Any) -> Any:
    """A text in small letters; numbers as they are, and what is neither as nothing known."""
    if isinstance(sent, str):
        return sent.strip().lower()
    return sent if sent is None or isinstance(sent, int | float) else "?"
