"""Prompts of many requests on the fake device: encoded together, they take few launches."""

from __future__ import annotations

import pytest

from pipelines.engine.sink import KeepingSink
from pipelines.models import encodercheck
from pipelines.models.loader import LoadedModel
from tests.device.fake import FakeCuda
from tests.device.placed import placed
from tests.families import tiny
from tests.families.drive import check, draw, drawing, run

RUNS = 16
SAME = 1e-5


def launches(device: FakeCuda, model: LoadedModel, runs: int) -> int:
    """What the device computes for so many requests of one step, which come together."""
    before = device.launches
    sink = KeepingSink()
    drawings = [drawing(model, number, f"picture number {number}", steps=1) for number in range(runs)]
    run(model, drawings, sink)
    assert not sink.errors, sink.errors
    return device.launches - before


@pytest.mark.parametrize("name", ["SDXL", "SD3"])
def test_sixteen_requests_have_their_prompts_encoded_in_few_launches(fake_cuda: FakeCuda, name: str) -> None:
    """On an H200, where a launch takes the host 14 us, 16 requests of SDXL had 64 forwards of text encoders, one after
    another, while nobody stepped."""
    model = placed(name)
    check(model)
    assert all(not shared.apart for shared in encodercheck.encoders(model))
    together = launches(fake_cuda, model, RUNS)
    encodercheck.set_apart(model)
    one_by_one = launches(fake_cuda, model, RUNS)
    assert together < one_by_one / 2, "seen: 3,268 of 8,108, and 3,710 of 16,612, with encoders of two layers"


@pytest.mark.parametrize("name", ["SD 1.x", "FLUX.1"])
def test_they_draw_the_hosts_pictures(fake_cuda: FakeCuda, name: str) -> None:
    def requests(model: LoadedModel) -> dict[str, object]:
        drawings = [drawing(model, number, f"picture number {number}", steps=2) for number in range(4)]
        return dict(draw(model, drawings).pictures)

    on_host = tiny.build(name)
    check(on_host)
    expected = draw(on_host, [drawing(on_host, number, f"picture number {number}", steps=2) for number in range(4)])
    model = placed(name)
    check(model)
    drawn = draw(model, [drawing(model, number, f"picture number {number}", steps=2) for number in range(4)])
    for job, picture in expected.pictures.items():
        assert float((drawn.pictures[job].cpu() - picture).abs().max()) <= SAME, job
    assert not fake_cuda.mismatches
