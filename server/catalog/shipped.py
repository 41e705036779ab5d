"""The models.yaml that ships, with the embedded model beside it: where it lies on this machine.

Knows the two places where it can be; reads nothing. An installed package is a folder on disk, never a zip (torch
could not be imported from one), so ``files("server")`` is a real path, and weights can be mapped from it.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def shipped_models_file() -> Path | None:
    """The installed package's models.yaml, else the checkout's; None where neither is."""
    package = Path(str(files("server")))
    # pyproject.toml puts it into the wheel under data/; in a checkout it lies beside server/.
    candidates = (package / "data" / "models.yaml", package.parent / "models.yaml")
    return next((path for path in candidates if path.is_file()), None)
