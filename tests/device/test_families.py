"""Whole families on the fake device: the check at load and mixed requests give the CPU's pictures; a step waits for
nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.engine import adapters
from pipelines.models.loader import LoadedModel
from pipelines.plan import AdapterFile, Drawing
from pipelines.spec import Adapter
from tests.device.fake import FakeCuda
from tests.device.placed import on_device, placed, waits_a_step
from tests.families import matrix, tiny
from tests.families.drive import check, draw, drawing
from tests.loras import write_lora

SAME = 1e-5  # seen: 5e-6 where pixels are far beyond 0..1 before they are cut, else 2e-6

Requests = Callable[[LoadedModel], list[Drawing]]
UNET = matrix.text_requests(schedulers=("ddim", "euler", "dpmpp_2m", "unipc"))
TEXT = matrix.text_requests()


def compare(fake_cuda: FakeCuda, build: Callable[[], LoadedModel], requests: Requests) -> LoadedModel:
    """Draw four requests together on the host and on the device. The device's model."""
    on_host = build()
    check(on_host)
    expected = draw(on_host, requests(on_host))
    model = on_device(build())
    check(model)
    drawn = draw(model, requests(model))
    assert on_host.shares
    assert model.shares, model.reason
    assert (drawn.forwards, drawn.fallbacks) == (expected.forwards, 0)
    for job, picture in expected.pictures.items():
        assert float((drawn.pictures[job].cpu() - picture).abs().max()) <= SAME, job
    assert not fake_cuda.unknown, "the host read numbers that nobody knows"
    assert not fake_cuda.mismatches
    return model


@pytest.mark.parametrize(("name", "requests"), [("SD 1.x", UNET), ("SD3", TEXT), ("Qwen-Image", TEXT)])
def test_mixed_requests_draw_the_hosts_pictures(fake_cuda: FakeCuda, name: str, requests: Requests) -> None:
    compare(fake_cuda, lambda: tiny.build(name), requests)


def test_mixed_adapters_draw_the_hosts_pictures(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    listed = []
    for seed, name in enumerate(("a", "b"), 1):
        pipeline = tiny.build("FLUX.1")._base
        listed.append(AdapterFile(name, str(write_lora(pipeline, tmp_path, seed=seed))))

    def build() -> LoadedModel:
        model = tiny.build("FLUX.1")
        model.adapters = adapters.load(model._base, listed)
        assert not model.adapters.broken
        return model

    def requests(model: LoadedModel) -> list[Drawing]:
        wanted = [(), (Adapter("a", 1.0),), (Adapter("b", 0.5),), (Adapter("a", 1.0), Adapter("b", 1.0))]
        return [
            drawing(model, number, matrix.SHORT, steps=3 + number, adapters=each) for number, each in enumerate(wanted)
        ]

    model = compare(fake_cuda, build, requests)
    assert model.adapters.mixed


# Times that the host waits for the device in a step of one run, the first left out, of 6 steps. What is not 0 is the
# libraries' own (a table on the host indexed by a number of the device, and the like): who mends one lowers its number.
WAITS = {
    ("SD 1.x", "euler"): 0.0,
    ("SD 1.x", "dpmpp_2m"): 0.0,
    ("SD 1.x", "euler_a"): 1.0,
    ("SD 1.x", "ddim"): 0.0,
    ("SD 1.x", "unipc"): 5.6,
    ("LCM", "lcm"): 0.8,
    ("SD3", None): 0.0,  # flow_euler
    ("SD3", "flow_unipc"): 0.0,
    ("FLUX.1", None): 0.0,
    ("Qwen-Image", None): 0.0,
    ("Z-Image", None): 0.0,
    ("Lumina 2", None): 8.0,
}


@pytest.mark.parametrize(("name", "scheduler"), WAITS)
def test_a_step_waits_as_often_as_it_is_known_to(fake_cuda: FakeCuda, name: str, scheduler: str | None) -> None:
    model = placed(name)
    one = drawing(model, 1, matrix.SHORT, steps=6, scheduler=scheduler)
    assert waits_a_step(fake_cuda, model, one) == WAITS[name, scheduler], fake_cuda.waits.table()
