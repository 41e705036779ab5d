"""From a checkpoint to the weights that ship: `weights/darkroom-mini`, and how many samples they have learnt from.

Knows where they lie; knows nothing of training.
"""

import argparse
import json
from pathlib import Path

from . import checkpoint, export, resume, runtime
from .checkpoint import Checkpoint
from .samples.archive import Archive


def ship(kept: Checkpoint, archive: Archive) -> int:
    """Write `resume.SHIPPED`, the upscaler beside it, and `resume.SEEN`; returns their size in bytes."""
    size = export.export(kept, archive, resume.SHIPPED)
    resume.SEEN.write_text(json.dumps(kept.seen, indent=2) + "\n", encoding="utf-8")
    return size


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.ship", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the folder that training.train wrote")
    parser.add_argument("--art", type=Path, default=runtime.BUILD / "art.zip", help="for the tokenizer")
    options = parser.parse_args()
    size = ship(checkpoint.load(options.checkpoint), Archive.open(options.art))
    print(f"{resume.SHIPPED}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
