"""What torch's allocators reserve for an engine whose steps change in rows and size, against what it has in use.

``python -m tests.device.fragmentation`` records what forwards and decodes of an SDXL of real size allocate, once for
each number of rows and size of picture, on the fake device; then it replays random ones through the models of torch's
allocators. Minutes, most of them for recording.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from pipelines.models.loader import quiet_libraries
from tests.device.allocator import Allocator, Caching, Expandable, NoRoom
from tests.device.cards import GIB, H100
from tests.device.fake import FakeCuda, why_not
from tests.device.sizes import HALF, SIZES

SIDES = ((1024, 1024), (1216, 832), (832, 1216), (768, 768), (896, 1152))
ROWS = (1, 2, 3, 4, 6, 8)
DECODED = (1, 2)
SHARE_OF_STEPS = 0.85  # the rest decodes
HELD = 40  # latents and embeddings of runs, which outlive steps
_HELD_BYTES = (256 << 10, 512 << 10, 2560 << 10)

Trace = list[tuple[int, int]]  # (storage, bytes) as allocated, (storage, 0) as freed
HEAD = """| allocator | room above the weights | in use, GiB | reserved | reserved / in use | flushes | out of memory |
|---|--:|--:|--:|--:|--:|--:|"""


def record(rows: tuple[int, ...] = ROWS, sides: tuple[tuple[int, int], ...] = SIDES) -> tuple[list[Trace], list[Trace]]:
    """The traces of steps, and of decodes."""
    pipeline = SIZES["sdxl"].build()
    with torch.no_grad(), FakeCuda(H100, values=1000).on() as device:
        for module in (pipeline.unet, pipeline.vae):
            module.to("cuda")

        def traced(work: Callable[[], Any]) -> Trace:
            trace: Trace = []
            device.trace = trace
            work()
            device.trace = None
            return trace

        steps = [traced(partial(_step, pipeline.unet, n, w, h)) for n in rows for w, h in sides]
        decodes = [traced(partial(_decode, pipeline.vae, n, w, h)) for n in DECODED for w, h in sides]
    return steps, decodes


def _made(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=HALF, device="cuda")


def _step(unet: Any, rows: int, width: int, height: int) -> None:
    added = {"text_embeds": _made(rows, 1280), "time_ids": _made(rows, 6)}
    unet(_made(rows, 4, height // 8, width // 8), 500, _made(rows, 77, 2048), added_cond_kwargs=added)


def _decode(vae: Any, pictures: int, width: int, height: int) -> None:
    vae.decode(_made(pictures, 4, height // 8, width // 8))


def replay(memory: Allocator, steps: list[Trace], decodes: list[Trace], *, count: int, seed: int) -> int:
    """Random steps and decodes, with what runs hold between them. How many had no room."""
    dice = random.Random(seed)
    held: list[Any] = []
    failed = 0
    for _ in range(count):
        while len(held) > HELD:
            memory.free(held.pop(dice.randrange(len(held))))
        held.append(memory.malloc(dice.choice(_HELD_BYTES)))
        failed += not _replayed(memory, dice.choice(steps if dice.random() < SHARE_OF_STEPS else decodes))
    return failed


def _replayed(memory: Allocator, trace: Trace) -> bool:
    """Whether there was room for all of one trace. Nothing of it is left."""
    live: dict[int, Any] = {}
    try:
        for storage, size in trace:
            if size:
                live[storage] = memory.malloc(size)
            elif storage in live:
                memory.free(live.pop(storage))
    except NoRoom:
        return False
    finally:
        for block in live.values():
            memory.free(block)
    return True


def _lines(steps: list[Trace], decodes: list[Trace], count: int, seeds: int, rooms: list[float]) -> Iterator[str]:
    for room in (None, *rooms):
        for kind in (Caching, Expandable):
            for seed in range(seeds):
                memory: Allocator = kind(int((room or 1024) * GIB))
                failed = replay(memory, steps, decodes, count=count, seed=seed)
                used, reserved = memory.peak_allocated / GIB, memory.peak_reserved / GIB
                says = "unbounded" if room is None else f"{room:g} GiB"
                yield (
                    f"| {kind.name} | {says} | {used:.2f} | {reserved:.2f} | {reserved / used:.2f} "
                    f"| {memory.flushes} | {failed} |"
                )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.device.fragmentation", description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=600, help="random steps to replay (default: 600)")
    parser.add_argument(
        "--seeds", type=int, default=3, help="times to do it, each with other random steps (default: 3)"
    )
    parser.add_argument("--room", type=float, action="append", default=[], metavar="GIB", help="also within so much")
    asked = parser.parse_args()
    if (reason := why_not()) is not None:
        parser.exit(2, reason + "\n")
    torch.set_num_threads(1)
    quiet_libraries()
    steps, decodes = record()
    print(HEAD)
    for line in _lines(steps, decodes, asked.steps, asked.seeds, asked.room):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
