"""Steps as CUDA graphs on a device that is there, with tiny models: the same pictures, drops, and a failed capture."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
import torch

from pipelines.engine.graphs import Tally
from pipelines.models import tuning
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing
from tests.families import tiny
from tests.families.drive import check, draw, drawing

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

STEPS = 14  # of a run: enough for a graph and some replays
SAME = 1e-3  # together: kernels for other rows round otherwise


@pytest.fixture(autouse=True)
def _plain_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def placed(name: str, graphs: str) -> LoadedModel:
    built = tiny.build(name)
    device = torch.device("cuda")
    plan = msgspec.structs.replace(built.plan, cuda_graphs=graphs)
    tuning.place(built._base, plan, device)
    torch.set_float32_matmul_precision("highest")
    model = LoadedModel(plan, built._base, built.family, device)
    for shared in model.shared_modules.values():
        if shared.graphs is not None:
            shared.graphs._max_share = 10.0  # a tiny model's kernels: what they take is no reason
    return model


def tally(model: LoadedModel) -> Tally:
    return next(s.graphs.tally for s in model.shared_modules.values() if s.graphs and s.name in ("unet", "transformer"))


def some(model: LoadedModel, *prompts: str) -> list[Drawing]:
    return [drawing(model, number, prompt, steps=STEPS, guidance=4.0) for number, prompt in enumerate(prompts)]


@pytest.mark.parametrize("name", ["SD 1.x", "SDXL", "SD ControlNet", "SD3", "FLUX.1", "FLUX.2 Klein", "Z-Image"])
def test_pictures_are_those_of_kernel_by_kernel(name: str) -> None:
    plain, model = placed(name, "off"), placed(name, "auto")
    check(model)
    one = some(model, "a red apple")
    assert torch.equal(draw(model, one).pictures["0"], draw(plain, one).pictures["0"]), "bit for bit"
    alone = tally(model).replayed
    assert alone >= 3, tally(model)
    many = some(model, "a red apple", "two dogs", "one cat")
    found, expected = draw(model, many).pictures, draw(plain, many).pictures
    assert max(float((found[job] - picture).abs().max()) for job, picture in expected.items()) <= SAME
    assert tally(model).replayed > alone
    assert not tally(model).refused


def test_graphs_go_with_the_weights_and_come_again() -> None:
    model = placed("SD 1.x", "auto")
    one = some(model, "a red apple")
    before = draw(model, one).pictures["0"]
    assert tally(model).held >= 1
    model.move(torch.device("cpu"))
    assert tally(model).held == 0
    model.move(torch.device("cuda"))
    assert torch.equal(draw(model, one).pictures["0"], before)
    assert tally(model).held >= 1


def test_a_capture_that_fails_leaves_the_device_usable() -> None:
    """A wait that no operator shows voids the capture. The allocator and the generator have to work afterwards."""
    model = placed("SD 1.x", "auto")
    shared = next(shared for shared in model.shared_modules.values() if shared.is_denoiser)
    real = shared.function

    def waits(*args: object, **kwargs: object) -> object:
        torch.cuda.synchronize()
        return real(*args, **kwargs)

    shared.function = waits
    one = some(model, "a red apple")
    before = draw(model, one).pictures["0"]
    assert any(why.startswith("it cannot be captured") for why in tally(model).refused), tally(model)
    torch.cuda.empty_cache()
    torch.randn(4, device="cuda")
    shared.function = real
    assert torch.equal(draw(model, one).pictures["0"], before)
