"""The whole family matrix on the fake device: pictures against the CPU's, the host's waits a step, and CUDA graphs.

``python -m tests.device.matrix`` prints a table and ends with 1 where a row is not as it should be; minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from pipelines.engine.shared import Stage
from pipelines.models.loader import LoadedModel, quiet_libraries
from tests.device.fake import FakeCuda, why_not
from tests.device.placed import placed, waits_a_step
from tests.device.replaying import drawn_by_graphs, tally
from tests.families import matrix, tiny
from tests.families.drive import check, draw

MAX_DIFFERENCE = 2e-5  # of a pixel, 0..1
STEPS = 6  # of the run whose waits are counted

HEAD = """| family | shared | forwards, CPU and device | difference | unknown values | waits a step | in the document \
| replayed | difference |
|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Result:
    row: matrix.Row
    shared: bool
    forwards_on_host: int
    forwards: int
    fallbacks: int
    difference: float  # the largest between a pixel of the host's picture and the device's
    unknown: int  # numbers that the host read and nobody knows, and results of another shape than foretold
    waits: float  # a step of the row's first request, drawn alone
    forward_waits: bool  # did its last forward wait?
    replayed: int  # steps, when the requests are drawn again and again by graphs
    by_graphs: float  # the largest difference between a pixel of theirs and of those without
    told_by_family: bool  # does the families' table know whether a forward waits?

    @property
    def good(self) -> bool:
        return (
            self.shared
            and self.forwards == self.forwards_on_host
            and self.difference <= MAX_DIFFERENCE
            and not self.fallbacks
            and not self.unknown
            and self.waits == self.row.waits
            and self.told_by_family
            and self.by_graphs <= MAX_DIFFERENCE
            and not (self.replayed and self.forward_waits)
        )

    def line(self) -> str:
        return (
            f"| {self.row.name} | {'yes' if self.shared else 'no'} | {self.forwards_on_host}, {self.forwards} "
            f"| {self.difference:.1g} | {self.unknown} | {self.waits:g} | {self.row.waits:g} "
            f"| {self.replayed} | {self.by_graphs:.1g} |"
        )


def run(row: matrix.Row) -> Result:
    """Draw a row's requests together on the host and on the device."""
    on_host = tiny.build(row.name)
    check(on_host)
    expected = draw(on_host, row.requests(on_host))
    with torch.no_grad(), FakeCuda().on() as device:
        model = placed(row.name)
        check(model)
        drawings = row.requests(model)
        drawn = draw(model, drawings)
        first = drawings[0]
        one = msgspec.structs.replace(first, spec=msgspec.structs.replace(first.spec, steps=STEPS))
        with _forwards_seen(device, model) as waited:
            waits = waits_a_step(device, model, one)
        replaying = drawn_by_graphs(placed(row.name, graphs=True))
        check(replaying)
        by_graphs = 0.0
        for _ in range(3):
            for job, picture in draw(replaying, row.requests(replaying)).pictures.items():
                by_graphs = max(by_graphs, float((picture - drawn.pictures[job]).abs().max()))
        off = [float((drawn.pictures[job].cpu() - each).abs().max()) for job, each in expected.pictures.items()]
    unknown = device.unknown.total() + device.mismatches.total()
    return Result(
        row,
        shared=model.shares,
        forwards_on_host=expected.forwards,
        forwards=drawn.forwards,
        fallbacks=drawn.fallbacks,
        difference=max(off),
        unknown=unknown,
        waits=waits,
        forward_waits=waited[-1] > 0,
        replayed=tally(replaying).replayed,
        by_graphs=by_graphs,
        told_by_family=(waited[-1] > 0) is model.family.forward_waits,
    )


@contextlib.contextmanager
def _forwards_seen(device: FakeCuda, model: LoadedModel) -> Iterator[list[int]]:
    """How often each forward of the denoiser in the block waited."""
    shared = next(each for each in model.shared_modules.values() if each.stage is Stage.DENOISE)
    real, waited = shared.function, list[int]()

    def seen(*args: Any, **kwargs: Any) -> Any:
        before = len(device.waits)
        output = real(*args, **kwargs)
        waited.append(len(device.waits) - before)
        return output

    shared.function = seen
    try:
        yield waited
    finally:
        shared.function = real


def main() -> int:
    """Print a line for each row."""
    parser = argparse.ArgumentParser(prog="python -m tests.device.matrix", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="FAMILY", help="these rows alone, by their names in the matrix")
    only = parser.parse_args().only
    if (reason := why_not()) is not None:
        parser.exit(2, reason + "\n")
    rows = [row for row in matrix.MATRIX if only is None or row.name in only]
    if not rows:
        parser.error(f"no such rows; there are {', '.join(row.name for row in matrix.MATRIX)}")
    torch.set_num_threads(1)
    quiet_libraries()
    print(HEAD)
    good, started = True, time.monotonic()
    for row in rows:
        result = run(row)
        good = good and result.good
        print(result.line(), flush=True)
    print(f"{len(rows)} rows in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
