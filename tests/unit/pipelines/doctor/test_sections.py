"""The doctor's sections on the CPU with tiny models: every line that is not CUDA's own, and what they judge."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.doctor import random_weights, sections
from pipelines.doctor.probe import Probe
from pipelines.doctor.record import Record
from pipelines.models.loader import LoadedModel
from server.commands.doctor import gpu
from tests.families import tiny
from tests.unit.pipelines.doctor.shortened import shorten

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["SDXL", "FLUX.2 Klein"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny.build(request.param)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


def run(name: str, model: LoadedModel | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """The figures of a section, and what it says by verdict."""
    figures: dict[str, Any] = {}
    says: dict[str, str] = {}

    def emit(event: dict[str, Any]) -> None:
        figures.update(event.get("figures", {}))
        if "verdict" in event:
            says[event["verdict"]] = says.get(event["verdict"], "") + event["says"] + "\n"

    sections.run(name, Probe(CPU), Record(emit), model)
    return figures, says


@pytest.mark.parametrize("name", list(sections.ALONE))
def test_what_needs_no_model_runs(name: str) -> None:
    figures, says = run(name)
    assert "FAIL" not in says
    assert figures["section_s"] >= 0


@pytest.mark.parametrize("name", list(sections.WITH_MODEL))
def test_what_draws_runs_with_a_unet_and_a_transformer(name: str, model: LoadedModel) -> None:
    _, says = run(name, model)
    assert "FAIL" not in says, says


def test_rows_are_measured_by_their_number(model: LoadedModel) -> None:
    figures, _ = run("rows", model)
    first, second, third = figures["rows"]
    assert [second["rows"], third["rows"]] == [2 * first["rows"], 3 * first["rows"]]
    assert first["difference"] == 0
    assert third["difference"] < 1e-3


def test_graphs_are_told_to_be_no_ones_on_the_cpu(model: LoadedModel) -> None:
    figures, says = run("graphs", model)
    assert [line["rows"] for line in figures["graphs"]] == [1, 2]
    assert all(line["eager_s"] > 0 and "replay_s" not in line for line in figures["graphs"])
    assert says == {"LOOK": "no graphs are captured: the device is no CUDA device\n"}


def test_a_picture_that_changes_on_the_way_is_a_failure(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real device the picture was another one after a stay in host memory."""

    def spoil(device: torch.device) -> None:
        for shared in model.shared_modules.values():
            for parameter in shared.module.parameters():
                parameter.data.mul_(1.01)

    monkeypatch.setattr(model, "move", spoil)
    _, says = run("residency", model)
    assert "the picture is the same" in says["FAIL"]


def test_what_breaks_a_section_is_its_verdict_and_no_traceback(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*anything: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setitem(sections.WITH_MODEL, "engine", fail)
    _, says = run("engine", model)
    assert says["FAIL"].startswith("RuntimeError: CUDA error: no kernel image")


def test_every_section_has_a_limit_and_there_are_ten() -> None:
    assert set(gpu.LIMITS_S) == {*sections.ALONE, *sections.WITH_MODEL}
    assert len(gpu.LIMITS_S) == 10
    assert set(gpu.RANDOM) <= set(random_weights.MODELS)


@pytest.mark.parametrize(
    ("name", "denoiser", "parameters"),
    [("sdxl", "unet", 2.57e9), ("klein-4b", "transformer", 3.88e9), ("sd15", "unet", 0.86e9)],
)
def test_random_models_have_the_size_of_the_real_ones(name: str, denoiser: str, parameters: float) -> None:
    made = random_weights.pipeline(name, torch.device("meta"), torch.bfloat16)
    module = getattr(made, denoiser)
    assert sum(parameter.numel() for parameter in module.parameters()) == pytest.approx(parameters, rel=0.01)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() is torch.float32
