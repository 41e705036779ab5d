"""The doctor's sections on the fake device: what only a CUDA device makes them do, and what they judge of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from pipelines.doctor import sections
from pipelines.doctor.probe import Probe
from pipelines.doctor.record import Record
from pipelines.models.loader import LoadedModel
from server.catalog.catalog import Catalog
from server.worker.child import inspection
from tests.device.fake import FakeCuda
from tests.device.placed import CUDA, placed
from tests.unit.pipelines.doctor.shortened import shorten


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


def run(name: str, model: LoadedModel | None = None) -> dict[str, str]:
    """What a section says, by verdict."""
    says: dict[str, str] = {}

    def emit(event: dict[str, Any]) -> None:
        if "verdict" in event:
            says[event["verdict"]] = says.get(event["verdict"], "") + event["says"] + "\n"

    sections.run(name, Probe(CUDA), Record(emit), model)
    return says


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_the_sections_with_a_model_run_to_their_end(fake_cuda: FakeCuda) -> None:
    model = placed("SD 1.x", graphs=True)
    says = {name: run(name, model) for name in sections.WITH_MODEL}
    assert [name for name, said in says.items() if "PASS" not in said or "FAIL" in said] == [], says
    assert not fake_cuda.mismatches
    assert "a replay equals its step, bit for bit" in says["graphs"]["PASS"]
    assert "at 2 rows" in says["graphs"]["PASS"]
    model = placed("Lumina 2", graphs=True)
    assert "a forward of lumina2 waits" in run("graphs", model)["LOOK"]


def test_the_environment_is_told(fake_cuda: FakeCuda) -> None:
    says = run("environment")
    assert "PASS" in says
    assert "FAIL" not in says, says


@pytest.fixture
def _build(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that was built with CUDA."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")


@pytest.mark.usefixtures("_build")
def test_a_models_room_is_what_residency_would_give_it(fake_cuda: FakeCuda, shipped: Catalog) -> None:
    (plan,) = shipped.plans.values()
    found = inspection.answer(inspection.Inquiry("cuda", (plan,), device_memory="2GiB"))
    sizes = found.models[plan.key]
    assert found.device == "cuda"
    assert sizes.problem is None
    assert not sizes.encoders_on_host
    assert sizes.room_bytes is not None
    assert 3 << 29 <= sizes.room_bytes < 2 << 30, "a quarter is kept at most, and less where the work is known"
    assert sizes.as_it_is < sizes.room_bytes


@pytest.mark.usefixtures("_build")
def test_encoders_that_would_not_fit_are_counted_where_they_stay(fake_cuda: FakeCuda, shipped: Catalog) -> None:
    (plan,) = shipped.plans.values()
    whole = inspection.answer(inspection.Inquiry("cuda", (plan,))).models[plan.key].as_it_is
    tight = inspection.answer(inspection.Inquiry("cuda", (plan,), device_memory=f"{whole >> 20}MiB")).models[plan.key]
    assert tight.encoders_on_host
    assert tight.as_it_is < whole
    kept = msgspec.structs.replace(plan, encoders="device")
    tight = inspection.answer(inspection.Inquiry("cuda", (kept,), device_memory=f"{whole >> 20}MiB")).models[plan.key]
    assert not tight.encoders_on_host
    assert tight.otherwise["encoders: host"] < tight.as_it_is
