"""LiteLLM's own calls for pictures, as its README shows them for an OpenAI-compatible server: run by the Python that
has it.

Prints one JSON line: the names of the PNG files that it wrote into OUT, and the error as its user sees it.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import litellm  # type: ignore[import-not-found,unused-ignore]

OUT, SOURCE = Path(os.environ["OUT"]), Path(os.environ["SOURCE"])
SERVER = {"api_base": os.environ["URL"] + "/v1", "api_key": os.environ["KEY"]}


def kept(name: str, answer: Any) -> list[str]:
    files = []
    for number, picture in enumerate(answer.data):
        file = OUT / f"{name}-{number}.png"
        file.write_bytes(base64.b64decode(picture.b64_json))
        files.append(str(file))
    return files


def main() -> None:
    made = litellm.image_generation(prompt="a red apple", model="openai/gpt-image-1", n=2, size="512x512", **SERVER)
    found: dict[str, Any] = {"made": kept("made", made)}
    with SOURCE.open("rb") as source:
        edited = litellm.image_edit(image=source, prompt="a bear", model="openai/gpt-image-1", size="512x512", **SERVER)
    found["edited"] = kept("edited", edited)
    try:
        litellm.image_generation(prompt="a red apple", model="openai/no-such-model", **SERVER)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
