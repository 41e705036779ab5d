"""What others have published, beside what was measured here.

Knows bench/field.json: figures of other servers, each with its hardware and its source, and the names under which the
bench measures the same. None of them was taken by us.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bench.tables import table

_FIGURES = Path(__file__).parent / "field.json"
_HEAD = ("model", "what", "side", "s", "on", "here, s", "source")


def beside(ours: Mapping[str, float], device: str) -> str:
    """A table of the field's figures; ``ours`` are seconds of one request by the bench's names of models."""
    rows = []
    for figure in json.loads(_FIGURES.read_text(encoding="utf-8")):
        here = ours.get(figure.get("bench", ""))
        rows.append(
            (
                figure["model"],
                figure["what"],
                figure["side"],
                figure.get("seconds", ""),
                figure["device"],
                "" if here is None else f"{here:.3g} ({device})",
                figure["source"],
            )
        )
    return table(_HEAD, rows)
