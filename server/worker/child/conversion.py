"""The process in which ``darkroom models import --copy`` writes a model of single files as a folder.

Reads one JSON object from standard input, ``{"plan": PLAN, "folder": PATH}``; writes a line of JSON now and then for
the bytes that were written, and one at the end with what went wrong, or null. Knows neither models.yaml nor HTTP;
fetches nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

import msgspec

from pipelines.plan import ModelPlan
from server.worker.child.answers import Progress, main, say


def answer(asked: dict[str, Any], out: TextIO) -> None:
    """Write what is asked for, and say what is wrong."""
    try:
        from pipelines.errors import LoadRefused
        from pipelines.models import conversion, loader
    except ImportError as error:
        say(out, problem=f"needs torch and diffusers: {error}")
        return
    loader.quiet_libraries()
    progress = Progress(lambda written: say(out, wrote=written))
    plan = msgspec.convert(asked["plan"], ModelPlan)
    try:
        conversion.write(plan, Path(asked["folder"]), progress)
    except LoadRefused as refusal:
        say(out, problem=str(refusal))
    except OSError as error:
        say(out, problem=f"{error.strerror}: {error.filename}")
    else:
        progress.flush()
        say(out, problem=None)


if __name__ == "__main__":
    main(answer)
