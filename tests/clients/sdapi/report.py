"""Runs the cases that a test gives in CASES, and prints one JSON line for each: the pictures it got, or the error as
its user sees it. Pictures are written below OUT, for the test to decode."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Case = dict[str, Any]


def kept(name: str, pictures: Iterable[Any]) -> list[str]:
    """The files of these pictures of Pillow's, as PNG with what they say of themselves."""
    from PIL.PngImagePlugin import PngInfo

    files = []
    for index, picture in enumerate(pictures):
        info, file = PngInfo(), Path(os.environ["OUT"]) / f"{name}-{index}.png"
        for key, value in picture.info.items():
            if isinstance(value, str):
                info.add_itxt(key, value)
        picture.save(file, "PNG", pnginfo=info)
        files.append(str(file))
    return files


def opened(name: str) -> Any:
    """A picture whose path stands in the environment."""
    from PIL import Image

    return Image.open(os.environ[name])


def report(call: Callable[[Case], dict[str, Any]]) -> None:
    """Print what ``call`` makes of each case."""
    for case in json.loads(os.environ["CASES"]):
        line: dict[str, Any] = {"case": case["name"]}
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what libraries say must not come between our lines
                line.update(call(case))
        except Exception as error:
            line["error"] = {"name": type(error).__name__, "message": str(error)}
        print(json.dumps(line), flush=True)
