"""Models of real size, without weights, on a card of 24 GB and one of 80 GB: what fits, and what it takes.

``python -m tests.device.real_sizes`` writes each model as a folder of true headers and no bytes, has the real loader
put it onto a fake card, checks it as a worker does, and draws mixed requests. A line of a Markdown table for each; for
one that is refused, lines of what ``quantise`` would make of it, told from its headers: those libraries' kernels do not
run here. Minutes a model.
"""

from __future__ import annotations

import argparse
import gc
import math
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import torch

from pipelines.engine.embeddings import EmbeddingCache
from pipelines.engine.learning import Curve, StepCosts
from pipelines.engine.sink import KeepingSink
from pipelines.errors import DrawError
from pipelines.models import loader, selfcheck
from pipelines.models.loader import LoadedModel, quiet_libraries
from pipelines.models.shortcheck import ShortCheck
from pipelines.plan import Drawing, ModelPlan
from server.worker.child.device import Device
from server.worker.child.link import Link
from tests.device.allocator import ALLOCATORS
from tests.device.cards import GIB, H100, RTX_4090, Card
from tests.device.fake import FakeCuda, why_not
from tests.device.placed import CUDA, waits_a_step
from tests.device.sizes import SIZES, Size
from tests.device.sparse import write_folder
from tests.families import drive

CARDS = {"24": RTX_4090, "80": H100}
KEPT_VALUES = 65_536  # elements: timesteps, token ids and masks have numbers, activations have none
_PROMPTS = ("a red apple", "two dogs on a wide beach, in the evening, seen from far above", "an old map of the sea")

HEAD = """| model | card | outcome | weights, GiB | peak in use | peak reserved | OOMs | waits a step | s here |
|---|---|---|--:|--:|--:|--:|--:|--:|"""


@dataclass(frozen=True)
class Otherwise:
    """A model as another word of models.yaml would have it, told from its headers."""

    word: str
    weights: int  # bytes on the device
    on_host: bool  # are its text encoders in host memory?
    room: int  # bytes for weights

    @property
    def says(self) -> str:
        where = ", text encoders on the host" * self.on_host
        return f"computed, not run: {self.word}{where}: {'fits' if self.weights <= self.room else 'refused'}"


@dataclass(frozen=True)
class Result:
    """What came of a model on a card. Bytes are 0 where it was refused."""

    size: Size
    card: Card
    outcome: str
    promised: int  # bytes of weights, told from headers
    weights: int = 0  # bytes of weights, once it was loaded
    peak: int = 0  # bytes in use at most: of the check and the requests
    reserved: int = 0
    ooms: int = 0
    waits: float = 0.0  # of the host for the device, a step of one request
    seconds: float = 0.0  # on the machine that this ran on: says nothing of a card
    otherwise: tuple[Otherwise, ...] = ()  # where it was refused

    def lines(self) -> Iterator[str]:
        yield self.line()
        card = f"{math.ceil(self.card.total / GIB)} GB"
        for each in self.otherwise:
            yield f"| {self.size.name} | {card} | {each.says} | {each.weights / GIB:.2f} | | | | | |"

    def line(self) -> str:
        card = f"{math.ceil(self.card.total / GIB)} GB"
        if not self.weights:
            return f"| {self.size.name} | {card} | {self.outcome} | {self.promised / GIB:.2f} | | | | | |"
        figures = " | ".join(f"{value / GIB:.2f}" for value in (self.weights, self.peak, self.reserved))
        return (
            f"| {self.size.name} | {card} | {self.outcome} | {figures} | {self.ooms} | {self.waits:g} "
            f"| {self.seconds:.0f} |"
        )


def try_on(size: Size, card: Card, *, requests: int, allocator: str, more: dict[str, Any]) -> Result:
    """Load, check and draw on a fake card. ``more`` are words of models.yaml."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write_folder(size.build(), folder)
        plan = ModelPlan(
            size.name, str(folder), size.family, native_width=size.native, native_height=size.native, **more
        )
        with torch.no_grad(), FakeCuda(card, allocator=allocator, values=KEPT_VALUES).on() as device:
            promised = loader.weight_bytes(plan, CUDA)
            try:
                model = _brought(plan)
            except DrawError as error:
                return Result(size, card, f"refused: {error}", promised, otherwise=tuple(otherwise(plan)))
            weights = device.memory.allocated
            selfcheck.check(model)
            _bound_rows(model)
            sink = KeepingSink()
            drawings = list(_mixed(model, size, requests))
            drive.run(model, drawings, sink, EmbeddingCache())
            waits = _waits(device, model, size)
            outcome = "shared" if model.shares else f"unshared: {model.reason}"
            if sink.errors:
                outcome = f"{len(sink.errors)} of {len(drawings)} failed: {next(iter(sink.errors.values()))}"
            memory = device.memory
            return Result(
                size,
                card,
                outcome,
                promised,
                weights,
                memory.peak_allocated,
                memory.peak_reserved,
                memory.ooms,
                waits,
                time.monotonic() - started,
            )


def _brought(plan: ModelPlan) -> LoadedModel:
    """The model on the device, by the sizes and within the budget of a worker. Raises DrawError where it is refused."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = Device(CUDA, Link(ours))

        def load(wanted: ModelPlan) -> LoadedModel:
            return loader.load(wanted, CUDA, host_encoders=worker._host_encoders[wanted])

        worker._residency._load = load  # without the check, which comes when the weights have been weighed
        try:
            found = worker._residency.pin(plan)
            assert isinstance(found, LoadedModel)
            return found
        finally:
            worker.close()
            worker._link.close()


def otherwise(plan: ModelPlan) -> Iterator[Otherwise]:
    """What a plan's weights would take with each kind of ``quantise``, as a worker would decide it on this card."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = Device(CUDA, Link(ours))
        try:
            for kind in ("int8", "nf4"):
                changed = msgspec.structs.replace(plan, quantise=kind)
                weights = worker._size_of(changed)
                room = worker._residency.limit(changed)
                yield Otherwise(f"quantise: {kind}", weights, worker._host_encoders[changed], room)
        finally:
            worker.close()
            worker._link.close()


def _bound_rows(model: LoadedModel) -> None:
    """The rows of a device that one picture fills. What the check measured is this machine's time, and no card's."""
    for shared in model.shared_modules.values():
        if shared.is_denoiser:
            area = (model.plan.native_width // 8) ** 2
            shared.costs = StepCosts(Curve(area, ((1, 0.1, 0.01), (2, 0.2, 0.01))))


def _mixed(model: LoadedModel, size: Size, count: int) -> Iterator[Drawing]:
    side = size.native
    shapes = ((side, side), (side * 3 // 4 // 32 * 32, side), (side, side * 3 // 4 // 32 * 32))
    for number in range(count):
        yield drive.drawing(
            model,
            number,
            _PROMPTS[number % 3],
            steps=2 + number % 2,
            guidance=size.guidance,
            size=shapes[number % 3 if number % 4 == 3 else 0],
        )


def _waits(device: FakeCuda, model: LoadedModel, size: Size) -> float:
    return waits_a_step(device, model, drive.drawing(model, 99, _PROMPTS[0], steps=3, guidance=size.guidance))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.device.real_sizes", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SIZES, metavar="MODEL", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--card", choices=CARDS, action="append", help="GB; both if not given")
    parser.add_argument("--requests", type=int, default=16, help="mixed requests, drawn at once (default: 16)")
    parser.add_argument(
        "--allocator", choices=ALLOCATORS, default="expandable", help="of device memory (default: expandable)"
    )
    parser.add_argument("--quantise", choices=("int8", "nf4", "float8"), help="as models.yaml has it")
    parser.add_argument("--offload", action="store_true", help="as models.yaml has it")
    asked = parser.parse_args()
    if (reason := why_not()) is not None:
        parser.exit(2, reason + "\n")
    more = {"quantise": asked.quantise, "offload": asked.offload}
    torch.set_num_threads(1)
    quiet_libraries()
    print(HEAD)
    for name in asked.only or SIZES:
        for card in asked.card or CARDS:
            with (
                mock.patch.object(ShortCheck, "of", return_value=None),
                mock.patch.object(selfcheck, "refuse_deaf"),  # what encoders make has no numbers here
            ):
                result = try_on(SIZES[name], CARDS[card], requests=asked.requests, allocator=asked.allocator, more=more)
            print(*result.lines(), sep="\n", flush=True)
            gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
