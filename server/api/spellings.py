"""Spellings: one value in the many ways in which programs write it → the one way of ``server.api.wire``.

Knows types, not fields' bounds. What can be read in one way only is read; anything else is handed back as it came, for
``server.api.wire`` to refuse.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from pipelines.facts import schedulers

_MAX_TEXT = 64  # characters; no longer text can be a number, a size or a name
_MAX_EXACT = 2**53  # floats beyond this do not tell one integer from the next
# Full-width characters, as East Asian keyboards write them, and their space. Other scripts' digits are not read.
_WIDE: Final = {0x3000: " ", **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}}

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}(?:\.0*)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,5}) ?(?:px)? ?[xX*×✕✖⨯] ?([0-9]{1,5}) ?(?:px)?", re.ASCII)
_RATIO = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,3})?) ?[:/xX×] ?([0-9]{1,4}(?:\.[0-9]{1,3})?)", re.ASCII)

_SHAPE = re.compile(r"([0-9]{1,2}) ?: ?([0-9]{1,2})", re.ASCII)  # more digits could be pixels

_TRUE = frozenset({"true", "1", "on", "yes"})
_FALSE = frozenset({"false", "0", "off", "no"})

# Sizes that fal and its clients know by name.
_NAMED_SIZES: Final = {
    "square": "512x512",
    "square_hd": "1024x1024",
    "portrait_4_3": "768x1024",
    "portrait_16_9": "576x1024",
    "landscape_4_3": "1024x768",
    "landscape_16_9": "1024x576",
}
_SOURCES_SIZE = frozenset({"auto", "match_input_image", "match_input"})

_SYNONYMS: Final[dict[str, dict[str, str]]] = {
    "response_format": {"base64": "b64_json", "b64": "b64_json", "b64json": "b64_json", "b64-json": "b64_json"},
    "output_format": {"jpg": "jpeg", "image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg",
                      "image/webp": "webp"},
    "spacing": {"dense-start": "dense_start", "dense start": "dense_start", "densestart": "dense_start"},
}  # fmt: skip

# Samplers as AUTOMATIC1111, ComfyUI, stable-diffusion.cpp, Stability and diffusers call them; compared without blanks,
# marks and case. Those that no scheduler of ours draws alike are not here.
_SAMPLERS: Final = {
    **{name.replace("_", ""): name for name in (*schedulers.DISCRETE, *schedulers.FLOW)},
    "eulerdiscrete": "euler",
    "eulerancestral": "euler_a",
    "eulerancestraldiscrete": "euler_a",
    "dpmsolver++": "dpmpp_2m",
    "dpm++2m": "dpmpp_2m",
    "dpmsolvermultistep": "dpmpp_2m",
    "unipcmultistep": "unipc",
    "flowmatcheuler": "flow_euler",
    "flowmatcheulerdiscrete": "flow_euler",
    "flowmatchheun": "flow_heun",
    "flowmatchheundiscrete": "flow_heun",
}
# How other programs space a sampler's noise levels, which is the model's to say here: their ``scheduler`` beside a
# sampler. The first leave it to the model.
_OWN_SPACINGS = frozenset({"", "auto", "automatic", "default", "none", "normal", "simple", "discrete", "uniform"})
_SPACINGS = frozenset({"karras", "exponential", "polyexponential", "beta", "sgmuniform", "ddimuniform",
                       "linearquadratic", "kloptimal", "alignyoursteps", "ays", "gits", "smoothstep", "trailing",
                       "turbo"})  # fmt: skip


def is_empty(value: Any) -> bool:
    """Is it as good as left out? Programs send null or "" for what nobody filled in."""
    return value is None or (isinstance(value, str) and (not value or value.isspace()))


def plain(text: str) -> str:
    """Without blanks around it, and in ASCII where it is written full-width. Longer text is handed back as it is."""
    return text.translate(_WIDE).strip() if len(text) <= _MAX_TEXT else text


def integer(value: Any) -> Any:
    """2, 2.0, "2", "2.0"; not true, 1.5 or "two"."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= _MAX_EXACT:
        return int(value)
    if isinstance(value, str) and _INTEGER.fullmatch(text := plain(value)):
        return int(text.partition(".")[0])
    return value


def number(value: Any) -> Any:
    """7, 7.5, "7.5", "1e1"; not true, "nan" or "7,5"."""
    if isinstance(value, str) and _NUMBER.fullmatch(text := plain(value)):
        found = float(text)
        return found if math.isfinite(found) else value
    return value


def boolean(value: Any) -> Any:
    """true, and the texts of forms: "True", "1", "on", "yes"; not the number 1."""
    if isinstance(value, str):
        text = plain(value).lower()
        return True if text in _TRUE else False if text in _FALSE else value
    return value


def choice(field: str, value: Any) -> Any:
    """One of few words, in any case, or as others call it."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        return value
    text = plain(value).lower()
    return _SYNONYMS.get(field, {}).get(text, text)


def size(value: Any) -> Any:
    """ "1024x1024" from "1024X1024", "1024*1024", "1024 × 1024", [1024, 1024], {"width": 1024, "height": 1024}."""
    if isinstance(value, list) and len(value) == 2:
        return _sides(value, value[0], value[1])
    if isinstance(value, dict) and value.keys() == {"width", "height"}:
        return _sides(value, value["width"], value["height"])
    if not isinstance(value, str):
        return value
    text = plain(value)
    if match := _SIZE.fullmatch(text):
        return f"{match[1]}x{match[2]}"
    text = text.lower()
    if text in _SOURCES_SIZE:
        return "auto"
    return _NAMED_SIZES.get(text, value)


def _sides(value: Any, width: Any, height: Any) -> Any:
    sides = integer(width), integer(height)
    return f"{sides[0]}x{sides[1]}" if all(type(side) is int for side in sides) else value


def aspect_ratio(value: Any) -> Any:
    """ "16:9" from "16:9", "16 / 9", "16x9"; auto, which leaves the choice, from its other names."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    if match := _RATIO.fullmatch(text):
        return f"{match[1]}:{match[2]}"
    return "auto" if text.lower() in _SOURCES_SIZE else value


def ratio_as_size(value: Any) -> str | None:
    """ "16:9" of a size, as Gemini's and Replicate's clients write it; None where it is no such shape."""
    match = _SHAPE.fullmatch(plain(value)) if isinstance(value, str) else None
    return f"{match[1]}:{match[2]}" if match is not None else None


def scheduler(value: Any) -> tuple[Any, bool]:
    """Our name of a sampler, and whether the value asks for a spacing of noise levels beside it or alone, which is not
    offered. The name is None where the value names no sampler."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        return value, False
    text = plain(value)
    key = _sampler_key(text)
    if key in _SAMPLERS:
        return _SAMPLERS[key], False
    if key in _OWN_SPACINGS:
        return None, False
    if key in _SPACINGS:
        return None, True
    # "DPM++ 2M Karras", as AUTOMATIC1111 once named both in one.
    rest, _, last = text.rpartition(" ")
    if _sampler_key(last) in _SPACINGS and _sampler_key(rest) in _SAMPLERS:
        return _SAMPLERS[_sampler_key(rest)], True
    return value, False


def _sampler_key(text: str) -> str:
    key = text.lower().removeprefix("k_").removesuffix("scheduler").removesuffix("sampler")
    return key.replace("_", "").replace("-", "").replace(" ", "")
