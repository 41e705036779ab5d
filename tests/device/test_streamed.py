"""Text encoders that stay in host memory, on the fake card: the same output, two units there at most, no waits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.models import streaming
from tests.device.fake import FakeCuda
from tests.unit.pipelines.models.test_streaming import IDS, clip, outputs, qwen3, t5

CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("build", [t5, clip, qwen3])
def test_a_streamed_encoder_runs_on_the_card(
    build: Any, pinned: bool, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "MIN_STREAMED_BYTES", 1024)
    encoder = build()
    expected = outputs(encoder)
    whole = sum(p.nbytes for p in encoder.parameters())
    parts = {"text_encoder": encoder}
    streaming.stream_encoders(SimpleNamespace(components=parts), CUDA, host_bytes=whole if pinned else 0)
    assert fake_cuda.memory.allocated < whole / 10, "only small tensors stay"
    for _ in range(2):
        with torch.no_grad():
            made = encoder(IDS.to(CUDA), output_hidden_states=True)
        assert made[0].device.type == "cuda"
        for one, other in zip([made[0], *made.hidden_states], expected, strict=True):
            torch.testing.assert_close(one.cpu(), other)
        del made, one
    assert not fake_cuda.mismatches
    assert fake_cuda.memory.allocated < whole / 10
