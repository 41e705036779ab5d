"""What the README of an older openai package shows, run by the Python that has it: a picture, an edit, a wrong model.

Prints one JSON line: the names of the PNG files that it wrote into OUT, and the error as its user sees it.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import openai  # 0.28 or 1

URL, KEY, OUT = os.environ["URL"] + "/v1", os.environ["KEY"], Path(os.environ["OUT"])
SOURCE, MASK = Path(os.environ["SOURCE"]), Path(os.environ["MASK"])
PROMPT = {"prompt": "a red apple", "n": 2, "size": "256x256", "response_format": "b64_json"}
EDIT = {"prompt": "a bear", "n": 1, "size": "256x256", "response_format": "b64_json"}


def kept(name: str, answer: Any) -> list[str]:
    files = []
    for number, picture in enumerate(answer["data"]):
        file = OUT / f"{name}-{number}.png"
        file.write_bytes(base64.b64decode(picture["b64_json"]))
        files.append(str(file))
    return files


def of_old(module: Any) -> dict[str, Any]:
    """openai 0.28: a module with settings."""
    module.api_key, module.api_base = KEY, URL
    found: dict[str, Any] = {"made": kept("made", module.Image.create(**PROMPT))}
    with SOURCE.open("rb") as source, MASK.open("rb") as mask:
        found["edited"] = kept("edited", module.Image.create_edit(image=source, mask=mask, **EDIT))
    try:
        module.Image.create(model="no-such-model", **PROMPT)
    except module.error.InvalidRequestError as error:
        found["error"] = str(error)
    return found


def of_one(module: Any) -> dict[str, Any]:
    """openai 1: a client."""
    client = module.OpenAI(api_key=KEY, base_url=URL)
    found: dict[str, Any] = {"made": kept("made", client.images.generate(**PROMPT).model_dump())}
    with SOURCE.open("rb") as source, MASK.open("rb") as mask:
        found["edited"] = kept("edited", client.images.edit(image=source, mask=mask, **EDIT).model_dump())
    try:
        client.images.generate(model="no-such-model", **PROMPT)
    except module.NotFoundError as error:
        found["error"] = str(error)
    return found


if __name__ == "__main__":
    module: Any = openai
    print(json.dumps(of_old(module) if module.VERSION.startswith("0.") else of_one(module)), file=sys.stdout)
