"""How another Python process of ours is started: the worker, and the server of the demo.

Knows the interpreter's flags and environment; knows nothing of what runs in it. Python puts the working folder, or
that of a program's file, before its own library: any ``torch.py`` or ``json.py`` there would be executed. So the folder
is left out, and the packages are found where this process found them.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]  # holds the packages server and pipelines


def python(module: str) -> list[str]:
    """The beginning of a command line that runs one of our modules, whatever the working folder holds."""
    own_site = ["-s"] if sys.flags.no_user_site else []
    return [sys.executable, "-P", *own_site, "-m", module]


def environment(outer: Mapping[str, str]) -> dict[str, str]:
    """``outer`` for such a process: its own children leave out the working folder, too."""
    return {**outer, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(_paths(outer))}


def _paths(outer: Mapping[str, str]) -> list[str]:
    """The folders of PYTHONPATH, and before them our packages' where no installation names it.

    An empty entry, as ``PYTHONPATH=$PYTHONPATH:/more`` makes one, stands for the working folder: it is left out.
    """
    named = "" if sys.flags.ignore_environment else outer.get("PYTHONPATH", "")
    paths = [str(Path(entry).absolute()) for entry in named.split(os.pathsep) if entry]
    installed = {Path(folder).resolve() for folder in (*site.getsitepackages(), site.getusersitepackages())}
    if _ROOT in installed or str(_ROOT) in paths:
        return paths
    return [str(_ROOT), *paths]
