"""``offload: true`` on the fake device: the same pictures, and steps that are measured."""

from __future__ import annotations

import msgspec
import pytest
import torch

from pipelines.models import selfcheck, tuning
from pipelines.models.loader import LoadedModel
from tests.device.fake import FakeCuda
from tests.device.placed import CUDA
from tests.families import tiny
from tests.families.drive import draw, drawing


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_an_offloaded_model_draws_the_same_and_its_steps_are_waited_for(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parameters lie in host memory, so its steps were timed as a CPU's: without waiting for the device."""
    expected = draw(host := tiny.build("FLUX.1"), [drawing(host, 1, "a cat", steps=2)]).pictures["1"]
    base = tiny.build("FLUX.1")
    plan = msgspec.structs.replace(base.plan, offload=True)
    streamed = tuning.place(base._base, plan, CUDA)
    model = LoadedModel(plan, base._base, base.family, CUDA, base.adapters, streamed)
    monkeypatch.setattr(selfcheck, "_COST_COPIES", (1, 2, 3, 4))
    monkeypatch.setattr(selfcheck, "_COST_ROUNDS", 1)
    selfcheck.check(model)
    (denoiser,) = (shared for shared in model.shared_modules.values() if shared.is_denoiser)
    assert next(denoiser.module.parameters()).device.type == "cpu"
    assert denoiser.cost is not None
    assert denoiser.cost.min_rows == 1, "as of a device that is waited for"
    assert fake_cuda.waits.of(kind="synchronize") >= 2 * 4
    assert torch.allclose(draw(model, [drawing(model, 1, "a cat", steps=2)]).pictures["1"], expected, atol=5e-6)
    assert not fake_cuda.mismatches
