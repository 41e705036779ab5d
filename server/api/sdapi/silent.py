"""What is taken and changes nothing here, although it would have in AUTOMATIC1111: told in ``x-ignored-fields``.

Knows A1111's defaults and what else means nothing; knows no models. A value that would have changed nothing there
either is not told: clients send all of their fields with every request.
"""

from __future__ import annotations

import math
from typing import Any, Final

from server.api.sdapi.controlnet import EXTENSION
from server.api.sdapi.fields import A1111Fields
from server.errors import BadRequest

_NOTHING: Final = frozenset({"", "none", "automatic"})
# Values of these that mean something; everything else has its default.
_CHURN: Final = ("s_churn", "s_tmin", "s_tmax", "s_min_uncond")
_STOCHASTIC: Final = ("ddim", "ddim cfg++")


def silent_fields(fields: A1111Fields, *, edit: bool) -> tuple[str, ...]:
    """The names of the fields that were sent and would have mattered."""
    found = [name for name, matters in _common(fields).items() if matters]
    found += [name for name, matters in (_edits(fields) if edit else _hires(fields)).items() if matters]
    return (*found, *_settings(fields.override_settings), *_scripts(fields.alwayson_scripts))


def require_no_script(fields: A1111Fields) -> None:
    """Raises BadRequest for a script: without it, another picture is drawn."""
    if fields.script_name.strip().lower() not in _NOTHING:
        raise BadRequest("script_name: Script not found; this server has none. Leave it out.", param="script_name")


def _common(fields: A1111Fields) -> dict[str, bool]:
    sampler = (fields.sampler_name or fields.sampler_index).strip().lower()
    return {
        "styles": bool(fields.styles),
        "subseed_strength": fields.subseed_strength > 0,
        "seed_resize_from_h": fields.seed_resize_from_h > 0 and fields.seed_resize_from_w > 0,
        "restore_faces": fields.restore_faces,
        "tiling": fields.tiling,
        "eta": bool(fields.eta) and sampler in _STOCHASTIC,
        **{name: getattr(fields, name) > 0 for name in _CHURN},
        "s_noise": fields.s_noise != 1,
        "clip_skip": fields.clip_skip > 1,
        "refiner_checkpoint": fields.refiner_checkpoint.strip().lower() not in _NOTHING,
        "infotext": bool(fields.infotext.strip()),
    }


def _hires(fields: A1111Fields) -> dict[str, bool]:
    return {
        "firstphase_width": fields.enable_hr and fields.firstphase_width > 0,
        "firstpass_image": fields.enable_hr and bool(fields.firstpass_image),
        "hr_checkpoint_name": fields.enable_hr and fields.hr_checkpoint_name.strip().lower() not in _SAME,
    }


_SAME: Final = _NOTHING | {"use same checkpoint"}


def _edits(fields: A1111Fields) -> dict[str, bool]:
    return {
        "initial_noise_multiplier": fields.initial_noise_multiplier not in (None, 1),
        "latent_mask": bool(fields.latent_mask),
    }


def _settings(override: dict[str, Any]) -> list[str]:
    found = []
    if _number(override.get("CLIP_stop_at_last_layers")) > 1:
        found.append("override_settings.CLIP_stop_at_last_layers")
    vae = override.get("sd_vae")
    if isinstance(vae, str) and vae.strip().lower() not in _NOTHING:
        found.append("override_settings.sd_vae")
    return found


def _scripts(scripts: dict[str, Any]) -> list[str]:
    """Extensions that were given anything to do."""
    named = (name for name, script in scripts.items() if any(arg not in (None, False, "", {}) for arg in _args(script)))
    return [f"alwayson_scripts.{name.strip().replace(' ', '-')}" for name in named if name.strip().lower() != EXTENSION]


def _args(script: Any) -> list[Any]:
    args = script.get("args") if isinstance(script, dict) else script
    return args if isinstance(args, list) else []


def _number(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond a double
        return math.inf if value > 0 else 0.0
    except (TypeError, ValueError):
        return 0.0
