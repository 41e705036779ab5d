"""The process in which ``darkroom check`` builds models without their weights: the front has no torch.

Reads one JSON object from standard input, ``{"plans": {KEY: PLAN}, "deep": false}``; writes a line of JSON for each
plan as it is done, and with ``deep`` one now and then for the bytes that were read. Knows neither models.yaml nor
HTTP; fetches nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TextIO

import msgspec

from pipelines.plan import ModelPlan
from server.worker.child.answers import Progress, main, say


def answer(asked: dict[str, Any], out: TextIO) -> None:
    """Write what is wrong with each plan that is asked for."""
    try:
        from pipelines.models import dry_run, loader
    except ImportError as error:
        say(out, missing=str(error))
        return
    loader.quiet_libraries()
    for key, plan in asked["plans"].items():
        progress = Progress(partial(_tell, out, key)) if asked["deep"] else None
        problem = dry_run.problem(msgspec.convert(plan, ModelPlan), progress)
        if progress is not None:
            progress.flush()
        say(out, key=key, problem=problem)


def _tell(out: TextIO, key: str, read: int) -> None:
    say(out, key=key, read=read)


if __name__ == "__main__":
    main(answer)
