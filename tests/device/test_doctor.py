"""The doctor's sections on the fake device: what only a CUDA device makes them do, and what they judge of it."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.doctor import device_sections, model_sections, sections
from pipelines.doctor.probe import Probe
from pipelines.doctor.record import Record
from tests.device.fake import FakeCuda
from tests.device.placed import CUDA, placed


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_sections, "_COPIES", (1, 2, 3))
    monkeypatch.setattr(model_sections, "_RUNS", 4)
    monkeypatch.setattr(model_sections, "_STEPS", 2)
    monkeypatch.setattr(model_sections, "_BESIDE_TENSORS", 4)
    monkeypatch.setattr(device_sections, "_LAUNCHES", 20)


def run(name: str) -> dict[str, str]:
    """What a section says, by verdict."""
    says: dict[str, str] = {}

    def emit(event: dict[str, Any]) -> None:
        if "verdict" in event:
            says[event["verdict"]] = says.get(event["verdict"], "") + event["says"] + "\n"

    sections.run(name, Probe(CUDA), Record(emit), placed("SDXL") if name in sections.WITH_MODEL else None)
    return says


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("name", [*sections.WITH_MODEL, "environment", "device"])
def test_a_section_runs_to_its_end(name: str, fake_cuda: FakeCuda) -> None:
    says = run(name)
    assert "PASS" in says
    assert "FAIL" not in says, says
    assert not fake_cuda.mismatches
