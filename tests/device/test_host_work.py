"""What the CPU does for the device, counted: launches and waits of a step, of a run and of a picture.

Up to 4 to 8 rows of a UNet the host is what takes time, by its launches (docs/gpu.md): whoever brings more of them, or
another wait, raises a number here, and says what it buys.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from pipelines.models.loader import LoadedModel
from tests.device.fake import FakeCuda
from tests.device.placed import placed
from tests.device.replaying import drawn_by_graphs
from tests.families.drive import check, draw, drawing


class Work(NamedTuple):
    launches: int
    waits: int

    def __sub__(self, other: Work) -> Work:
        return Work(self.launches - other.launches, self.waits - other.waits)


def work(device: FakeCuda, model: LoadedModel, *, runs: int = 1, steps: int = 1, n: int = 1) -> Work:
    """What drawing so many runs has the host do, from prompts to pixels that are copied out."""
    before = Work(device.launches, len(device.waits))
    drawings = [drawing(model, number, "a cat", steps=steps, n=n, guidance=4.0) for number in range(runs)]
    for picture in draw(model, drawings).pictures.values():
        picture.cpu()
    return Work(device.launches, len(device.waits)) - before


def a_step(device: FakeCuda, model: LoadedModel, *, runs: int = 1, n: int = 1) -> Work:
    """What a step more takes."""
    return work(device, model, runs=runs, steps=4, n=n) - work(device, model, runs=runs, steps=3, n=n)


# Of tiny models: those of real size have more layers, and as many launches a layer.
STEPS = {
    "SD 1.x": Work(598, 0),
    "SDXL": Work(702, 0),
    "SD3": Work(415, 0),
    "FLUX.1": Work(577, 0),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step(fake_cuda: FakeCuda, name: str) -> None:
    model = placed(name)
    work(fake_cuda, model)
    found = a_step(fake_cuda, model)
    assert found.launches <= STEPS[name].launches, found
    assert found.waits <= STEPS[name].waits, fake_cuda.waits.table()


def test_a_run_more_adds_few_launches_to_a_step(fake_cuda: FakeCuda) -> None:
    """21 when this was written: its scheduler, its guidance, and its rows in and out of the batch."""
    model = placed("SD 1.x")
    check(model)
    alone, shared = a_step(fake_cuda, model), a_step(fake_cuda, model, runs=3)
    assert (shared.launches - alone.launches) / 2 <= 21
    assert shared.launches < 1.2 * alone.launches, "they shared it"
    assert shared.waits == alone.waits


def test_a_picture_more_adds_no_launches_to_a_run(fake_cuda: FakeCuda) -> None:
    model = placed("SD 1.x")
    work(fake_cuda, model)
    one, two = work(fake_cuda, model, steps=3), work(fake_cuda, model, steps=3, n=2)
    assert two.launches <= one.launches, two - one
    assert two.waits <= one.waits, two - one


def test_a_run(fake_cuda: FakeCuda) -> None:
    """Its set-up and its decode: what is left of a run of three steps without these."""
    model = placed("SD 1.x")
    work(fake_cuda, model)
    step = a_step(fake_cuda, model)
    run = work(fake_cuda, model, steps=3)
    assert run.launches - 3 * step.launches <= 391, run
    assert run.waits - 3 * step.waits <= 6, fake_cuda.waits.table()


def test_a_step_that_is_replayed(fake_cuda: FakeCuda) -> None:
    """One launch for the graph, and those that copy to and from it beside a run's own."""
    model = placed("SD 1.x", graphs=True)
    drawn_by_graphs(model)
    for runs, launches in ((1, 19), (2, 46)):
        work(fake_cuda, model, runs=runs, steps=8)
        found = a_step(fake_cuda, model, runs=runs)
        assert (found.launches <= launches, found.waits) == (True, 0), found
