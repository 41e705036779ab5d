"""The models.yaml that ships with Darkroom, and where an installation has it.

Knows places; knows nothing of what the file says.
"""

from __future__ import annotations

import sys
from pathlib import Path


def shipped_models_file() -> Path | None:
    """The models.yaml beside the package in a checkout, else the one that the wheel installed; None without either."""
    candidates = (
        Path(__file__).parents[2] / "models.yaml",
        Path(sys.prefix) / "share" / "darkroom" / "models.yaml",
    )
    return next((file for file in candidates if file.is_file()), None)
