"""AMD's devices, as torch's build for ROCm sees them: run as a process of its own, as the front has no torch.

    python -m server.worker.child.rocm_census    # [{"uuid": "", "name": "…", "total_bytes": …, "usable": true}, …]

Knows torch; another build of it is told by its files, and not imported. The numbers are torch's own cuda:0, cuda:1 and
so on. **Never run** where there is such a card.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

_HIP = re.compile(r"^hip\b[^=\n]*=\s*[\"']\d", re.MULTILINE)  # in torch/version.py; None in all other builds


def is_for_rocm(package: Path) -> bool:
    """Is the torch in this folder a build for ROCm?"""
    try:
        return _HIP.search((package / "version.py").read_text(encoding="utf-8")) is not None
    except OSError:
        return False


def look(cuda: Any) -> list[dict[str, Any]]:
    """What ``torch.cuda`` tells of each device. Raises RuntimeError."""
    kernels = {each.partition(":")[0] for each in cuda.get_arch_list()}
    return [_device(cuda.get_device_properties(number), kernels) for number in range(cuda.device_count())]


def _device(card: Any, kernels: set[str]) -> dict[str, Any]:
    architecture = str(getattr(card, "gcnArchName", "")).partition(":")[0]
    is_told = bool(architecture and kernels) and not any("generic" in each for each in kernels)
    usable = architecture in kernels or not is_told
    return {"uuid": "", "name": card.name, "total_bytes": card.total_memory, "usable": usable}


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the libraries print is no line of ours
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None or not is_for_rocm(Path(found.origin).parent):
        sys.exit("torch is no build for ROCm, which AMD's cards need")
    try:
        import torch

        out.write(json.dumps(look(torch.cuda)))
        out.flush()
    except (ImportError, OSError, RuntimeError) as error:
        sys.exit(f"torch does not tell AMD's cards: {(str(error).splitlines() or [type(error).__name__])[0]}")


if __name__ == "__main__":
    main()
