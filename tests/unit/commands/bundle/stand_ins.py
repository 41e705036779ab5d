"""A wheel that calls itself Darkroom, and the pip that Python itself brings: nothing is fetched."""

from __future__ import annotations

import ensurepip
import platform
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

_MAIN = """
import os, sys
def main():
    print("stand-in:", *sys.argv[1:])
    sys.exit(int(os.environ.get("STAND_IN_EXIT", "0")))
"""


def facts(**changes: Any) -> dict[str, Any]:
    """What the manifest of a bundle for this machine says beside its files."""
    here = {"python": "{}.{}".format(*sys.version_info[:2]), "system": platform.system()}
    return {"darkroom": "9.9", "machine": platform.machine(), "extras": "", **here, **changes}


def wheels(folder: Path) -> None:
    """Put the stand-in's wheel, and pip's, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    info = "darkroom-9.9.dist-info"
    with zipfile.ZipFile(folder / "darkroom-9.9-py3-none-any.whl", "w") as wheel:
        wheel.writestr("darkroom_stand_in.py", _MAIN)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: darkroom\nVersion: 9.9\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\ndarkroom = darkroom_stand_in:main\n")
        wheel.writestr(f"{info}/RECORD", "")
    [pip] = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    shutil.copy(pip, folder)
