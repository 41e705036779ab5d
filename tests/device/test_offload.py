"""``offload: true`` on the fake device: the same pictures, and steps that are timed."""

from __future__ import annotations

import msgspec
import pytest
import torch

from pipelines.engine.stopwatch import CudaStopwatch
from pipelines.models import selfcheck, tuning
from pipelines.models.loader import LoadedModel
from tests.device.fake import FakeCuda
from tests.device.placed import CUDA
from tests.families import tiny
from tests.families.drive import draw, drawing


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_an_offloaded_model_draws_the_same_and_its_steps_are_timed_by_the_device(
    fake_cuda: FakeCuda,
) -> None:
    """Its parameters lie in host memory, so its steps were timed as a CPU's: by what the host takes to launch them."""
    expected = draw(host := tiny.build("FLUX.1"), [drawing(host, 1, "a cat", steps=2)]).pictures["1"]
    base = tiny.build("FLUX.1")
    plan = msgspec.structs.replace(base.plan, offload=True)
    streamed = tuning.place(base._base, plan, CUDA)
    model = LoadedModel(plan, base._base, base.family, CUDA, base.adapters, streamed)
    selfcheck.check(model)
    (denoiser,) = (shared for shared in model.shared_modules.values() if shared.is_denoiser)
    assert next(denoiser.module.parameters()).device.type == "cpu"
    assert denoiser.cost is not None
    assert denoiser.cost.min_rows == 1, "as of a device that keeps its own time"
    assert isinstance(denoiser.stopwatch, CudaStopwatch)
    assert torch.allclose(draw(model, [drawing(model, 1, "a cat", steps=2)]).pictures["1"], expected, atol=5e-6)
    assert not fake_cuda.mismatches
