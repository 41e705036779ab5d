"""Prompts as AUTOMATIC1111's clients write them → what a model reads, and the LoRAs that they name.

Knows the marks: ``<lora:NAME:WEIGHT>``, ``(words:1.3)``, ``[words]``, ``[from:to:when]``, ``BREAK``, ``AND``; knows no
model. A model that weighs its prompts itself (``pipelines.facts.prompt_weights``) is left brackets and ``BREAK``; for
any other they are taken out, and the words stay.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.facts import prompt_weights
from server.catalog.loras import MAX_WEIGHT

_NETWORK = re.compile(r"<(\w{1,40}):([^<>]{1,300})>", re.ASCII)
_EDITED = re.compile(r"(?<!\\)\[([^\[\]:()]{0,500}):([^\[\]:()]{0,500}):\s*([0-9.]{1,10})\s*\]")
_BOTH = re.compile(r"\bAND\b")
_HALF = 0.5
_EARLY = 10  # steps: about half of the usual number


@dataclass(frozen=True)
class Prompt:
    """What is left of a prompt, and the LoRAs in it by the names that it says."""

    text: str
    loras: Mapping[str, float]
    ignored: tuple[str, ...] = ()  # names of networks that are no LoRAs


def read(text: str) -> Prompt:
    """Take the tags of networks out of a prompt. Of a name that is there twice, the last weight counts."""
    loras: dict[str, float] = {}
    ignored: list[str] = []
    for kind, said in _NETWORK.findall(text):
        name, _, rest = said.partition(":")
        if kind.lower() == "lora":
            loras[name.strip()] = _weight(rest.partition(":")[0])
        else:
            ignored.append(kind.lower())
    return Prompt(_NETWORK.sub("", text).strip() if loras or ignored else text, loras, tuple(ignored))


def settled(text: str) -> str:
    """A prompt without the marks that no model here reads: of ``[from:to:when]`` one, and commas for ``AND``."""
    # The blanks round AND go with it. A pattern that says so takes quadratic time for many of them.
    first, *others = _BOTH.split(_EDITED.sub(_longest, text))
    if not others:
        return first
    *between, last = others
    return ", ".join((first.rstrip(), *(part.strip() for part in between), last.lstrip()))


def plain(text: str) -> str:
    """The words of a prompt without weights; an empty one where it is nothing but marks."""
    text = settled(text)
    try:
        sections = prompt_weights.parse(text)
    except prompt_weights.TooHeavy:
        return text
    return " ".join("".join(piece.text for piece in section).strip() for section in sections).strip()


def named(loras: Mapping[str, float], offered: Mapping[str, Any]) -> tuple[dict[str, float], tuple[str, ...]]:
    """The LoRAs by our names, in whatever case they were written; and the names that there are none of."""
    known = {name.casefold(): name for name in offered}
    found: dict[str, float] = {}
    unknown: list[str] = []
    for name, weight in loras.items():
        ours = known.get(name.casefold())
        if ours is None:
            unknown.append(name)
        else:
            found[ours] = weight
    return found, tuple(unknown)


def from_field(items: list[Any]) -> dict[str, float]:
    """The LoRAs of stable-diffusion.cpp's field: ``[{"path": …, "multiplier": …}]``."""
    found: dict[str, float] = {}
    for item in items:
        path = item.get("path") if isinstance(item, dict) else None
        if isinstance(path, str):
            stem = path.replace("\\", "/").rpartition("/")[2].removesuffix(".safetensors")
            found[stem] = _weight(item.get("multiplier"))
    return found


def _weight(value: Any) -> float:
    """1 where there is none that is finite; never beyond what an adapter may weigh."""
    try:
        weight = float(value)
    except (TypeError, ValueError, OverflowError):  # the last of an integer beyond a double
        return 1.0
    return max(-MAX_WEIGHT, min(MAX_WEIGHT, weight)) if math.isfinite(weight) else 1.0


def _longest(match: re.Match[str]) -> str:
    """Of ``[from:to:when]``, what would be drawn in most of the steps: ``when`` is their share, or their number."""
    try:
        when = float(match[3])
    except ValueError:
        return match[0]
    return match[2] if when <= _HALF or 1 <= when <= _EARLY else match[1]
