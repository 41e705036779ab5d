"""Infotext, read: the parameters of a picture as AUTOMATIC1111 writes them into it, and our own, as JSON.

Knows texts; knows no picture files. An infotext is the prompt, a line ``Negative prompt: …`` where there is one, and a
last line of pairs: ``Steps: 20, Sampler: Euler a, Seed: 1, Size: 512x512, …``. A text without either is a prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from server.api.json_object import read_json
from server.api.sdapi import sampler_list
from server.errors import BadRequest

MIN_PAIRS: Final = 3  # in the last line; with fewer it is a line of the prompt
_NEGATIVE: Final = "Negative prompt:"
_KEY: Final = re.compile(r"\s*([^\W_][\w /-]{1,63}):\s*")
_SIZE: Final = re.compile(r"([0-9]{1,5})x([0-9]{1,5})", re.ASCII)

# Our parameters, and what they are called there.
_OURS: Final = {
    "steps": "Steps",
    "scheduler": "Sampler",
    "spacing": "Schedule type",
    "guidance": "CFG scale",
    "seed": "Seed",
    "size": "Size",
    "model": "Model",
    "strength": "Denoising strength",
    "software": "Version",
}


def infotext(text: str) -> str:
    """The infotext of a picture whose ``parameters`` are ``text``: as it stands, or of our JSON what it says."""
    ours = _own(text)
    return text if ours is None else _written(ours)


def parsed(text: str) -> dict[str, str]:
    """Everything that an infotext says, by AUTOMATIC1111's names; ``Size`` also as ``Size-1`` and ``Size-2``."""
    lines = text.strip().split("\n")
    pairs = dict(_pairs(lines[-1]))
    if len(pairs) < MIN_PAIRS:
        pairs = {}
    else:
        lines.pop()
    at = next((number for number, line in enumerate(lines) if line.strip().startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(line.strip() for line in lines[at:]).removeprefix(_NEGATIVE)
    found = {"Prompt": "\n".join(line.strip() for line in lines[:at]), "Negative prompt": negative.strip()}
    for key, value in pairs.items():
        if size := _SIZE.fullmatch(value):
            found[f"{key}-1"], found[f"{key}-2"] = size[1], size[2]
        found[key] = value
    return found


def _own(text: str) -> Mapping[str, Any] | None:
    """Our parameters; None where the text is no JSON of ours."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        found = read_json(text.encode("utf-8", "replace"))
    except BadRequest:
        return None
    return found if found.get("software") == "Darkroom" else None


def _written(ours: Mapping[str, Any]) -> str:
    lines = [str(ours.get("prompt", ""))]
    if ours.get("negative_prompt"):
        lines.append(f"{_NEGATIVE} {ours['negative_prompt']}")
    said = dict(ours)
    if isinstance(ours.get("scheduler"), str):
        said["scheduler"] = sampler_list.name_of(ours["scheduler"])
    pairs = [f"{name}: {_quoted(said[key])}" for key, name in _OURS.items() if said.get(key) is not None]
    return "\n".join((*lines, ", ".join(pairs)))


def _quoted(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if {",", ":", "\n"} & {*text} else text


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """Each ``Key: value`` of a line. Values with commas stand in quotation marks, as JSON has them."""
    at, closed = 0, True
    while at < len(line):
        match = _KEY.match(line, at)
        if match is None:
            at = line.find(",", at) + 1 or len(line)
            continue
        start, value = match.end(), None
        if closed and line.startswith('"', start):
            end = _end_of_text(line, start)
            closed = end > 0  # else none of those that follow is, and no other is looked for
            value = _unquoted(line[start:end]) if closed else None
            start = end if closed else start
        end = line.find(",", start)
        end = len(line) if end < 0 else end
        yield match[1], line[start:end].strip() if value is None else value
        at = end + 1


def _end_of_text(line: str, start: int) -> int:
    """Behind the mark that ends the text that begins at ``start``; 0 where there is none."""
    at = start + 1
    while at < len(line):
        if line[at] == '"':
            return at + 1
        at += 2 if line[at] == "\\" else 1
    return 0


def _unquoted(text: str) -> str:
    """What stands in the quotation marks; with them, where it is no text that could be answered with."""
    try:
        found = str(json.loads(text))
        found.encode()  # a lone surrogate, "\\ud800", is JSON to some and text to nobody
    except ValueError:
        return text
    return found
