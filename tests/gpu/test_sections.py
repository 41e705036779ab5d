"""The doctor's sections on a CUDA device that is there, with tiny models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.doctor import sections
from pipelines.doctor.probe import Probe
from pipelines.doctor.record import Record
from pipelines.models import tuning
from pipelines.models.loader import LoadedModel
from tests.families import tiny

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module", params=["SDXL", "FLUX.2 Klein"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    built = tiny.build(request.param)
    device = torch.device("cuda")
    tuning.place(built._base, built.plan, device)
    return LoadedModel(built.plan, built._base, built.family, device)


def failures(name: str, model: LoadedModel | None) -> list[str]:
    events: list[dict[str, Any]] = []
    sections.run(name, Probe(torch.device("cuda")), Record(events.append), model)
    return [event["says"] for event in events if event.get("verdict") == "FAIL"]


@pytest.mark.parametrize("name", list(sections.ALONE))
def test_the_device_passes(name: str) -> None:
    assert failures(name, None) == []


@pytest.mark.parametrize("name", list(sections.WITH_MODEL))
def test_a_model_passes(name: str, model: LoadedModel) -> None:
    assert failures(name, model) == []
