"""When the interpreter looks for garbage, and what it need not look at.

A full collection walks all objects that there are: half a million beneath torch, diffusers and one model, 0.25 s in
which no thread of the worker goes on. It comes in the middle of a load. What will stay is therefore set aside.
"""

from __future__ import annotations

import gc

MANY = 100_000  # objects, which a full collection walks in some 50 ms


def settle(many: int = MANY) -> None:
    """Where a full collection would walk so ``many`` objects: collect what is over, and set aside what is left, which
    later collections pass by. While nothing is drawn: what a drawing made would be kept."""
    if len(gc.get_objects(generation=2)) >= many:
        collect()
        gc.freeze()


def collect() -> None:
    """Collect all that is over, and what was set aside and is over since."""
    gc.unfreeze()
    gc.collect()
