"""The process in which ``darkroom models import --copy`` writes a model of single files as a folder.

Reads one JSON object from standard input, ``{"plan": PLAN, "folder": PATH}``; writes a line of JSON now and then for
the bytes that were written, and one at the end with what went wrong, or null. Knows neither models.yaml nor HTTP;
fetches nothing.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import msgspec

from pipelines.plan import ModelPlan

_REPORT_BYTES = 32 * 1024 * 1024


def main() -> None:
    """Write the plan of standard input into its folder."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the libraries print is no line of ours
    answer(json.load(sys.stdin), out)


def answer(asked: dict[str, Any], out: TextIO) -> None:
    """Write what is asked for, and say what is wrong."""
    try:
        from pipelines.errors import LoadRefused
        from pipelines.models import conversion, loader
    except ImportError as error:
        _say(out, problem=f"needs torch and diffusers: {error}")
        return
    loader.quiet_libraries()
    unsaid = 0

    def progress(written: int) -> None:
        nonlocal unsaid
        unsaid += written
        if unsaid >= _REPORT_BYTES:
            _say(out, wrote=unsaid)
            unsaid = 0

    plan = msgspec.convert(asked["plan"], ModelPlan)
    try:
        conversion.write(plan, Path(asked["folder"]), progress)
    except LoadRefused as refusal:
        _say(out, problem=str(refusal))
    except OSError as error:
        _say(out, problem=f"{error.strerror}: {error.filename}")
    else:
        _say(out, wrote=unsaid)
        _say(out, problem=None)


def _say(out: TextIO, **said: Any) -> None:
    out.write(json.dumps(said) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
