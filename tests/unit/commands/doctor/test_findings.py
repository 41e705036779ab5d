"""What the doctor says of machines that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.facts import requirements
from server.catalog.catalog import Catalog
from server.commands.doctor import cards
from server.commands.doctor.findings import Finding, Level, examine
from server.commands.doctor.machine import GIB, Host
from server.settings import Settings
from server.worker.child.inspection import Answer, Card, Sizes
from server.worker.devices import WorkerDevice
from tests.unit.commands.doctor.machines import GTX_1080, HOST, RTX_4090, TESLA_T4, catalog, host, on

SMALL = Sizes("bfloat16", 5 * GIB, {"quantise: nf4": 3 * GIB}, 2_600_000_000)
FLUX = Sizes("bfloat16", 32 * GIB, {"quantise: int8": 20 * GIB, "quantise: nf4": 15 * GIB, "offload: true": GIB})


def said_of(
    found: Catalog,
    said: Answer,
    of: Host = HOST,
    settings: Settings | None = None,
    environ: dict[str, str] | None = None,
) -> list[Finding]:
    return examine(of, said, found, settings or Settings(), environ or {})


def problems(found: list[Finding]) -> list[str]:
    return [f"{each.section}: {each.text}" for each in found if each.level is Level.PROBLEM]


def notes(found: list[Finding]) -> str:
    return "\n".join(each.text for each in found if each.level is Level.NOTE)


def text(found: list[Finding]) -> str:
    return "\n".join(each.text for each in found)


def test_a_model_that_fits_is_no_problem(tmp_path: Path) -> None:
    found = said_of(catalog(tmp_path), on(RTX_4090, SMALL))
    assert problems(found) == []
    assert "NVIDIA GeForce RTX 4090: 24.0 GiB, 23.0 GiB free, compute capability 8.9, driver 580.95.05" in text(found)
    assert "its weights take 5.0 GiB of the device as bfloat16: it fits; otherwise: quantise: nf4 3.0 GiB" in text(
        found
    )


def test_one_that_does_not_fit_is_told_with_what_would_make_it_fit(tmp_path: Path) -> None:
    """FLUX.1-dev on a 24 GB card was refused with two figures, and no word of what to do."""
    (only,) = problems(said_of(catalog(tmp_path), on(RTX_4090, FLUX)))
    assert "takes" not in only
    assert "take 32.0 GiB of the device as bfloat16, of 17.2 GiB: it does not fit." in only
    assert "It would with quantise: nf4 (15.0 GiB) or offload: true (1.0 GiB)" in only
    assert "int8" not in only


def test_what_the_server_would_do_with_a_models_encoders_and_room_counts(tmp_path: Path) -> None:
    """A quarter of the device was kept for work, and encoders had to fit: models were refused here that are served."""
    sizes = Sizes("bfloat16", 18 * GIB, encoders_on_host=True, room_bytes=20 * GIB)
    found = said_of(catalog(tmp_path), on(RTX_4090, sizes))
    assert problems(found) == []
    assert "18.0 GiB of the device as bfloat16 with text encoders in host memory: it fits" in text(found)


def test_one_that_nothing_makes_fit_is_said_to_be_so(tmp_path: Path) -> None:
    large = Sizes("bfloat16", 60 * GIB, {"quantise: nf4": 30 * GIB})
    (only,) = problems(said_of(catalog(tmp_path), on(RTX_4090, large)))
    assert "it does not fit, nor otherwise: quantise: nf4 30.0 GiB" in only


def test_a_folder_that_is_broken_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("default: a\nmodels:\n  a: { path: nowhere }\n")
    from server.catalog.load import load_catalog

    (only,) = problems(said_of(load_catalog(file), on(None, Sizes(problem="gone"))))
    assert only.startswith("model a:")
    assert "the folder does not exist" in only


@pytest.mark.parametrize(
    ("card", "level", "says"),
    [
        (TESLA_T4, Level.NOTE, "dtype: auto is float16 there"),
        (GTX_1080, Level.PROBLEM, "has no kernels for it, only for"),
    ],
)
def test_a_card_that_is_too_old_for_something_is_told(tmp_path: Path, card: Card, level: Level, says: str) -> None:
    found = said_of(catalog(tmp_path), on(card, SMALL))
    assert any(each.level is level and says in each.text for each in found if each.section == "machine")


def test_a_device_that_cannot_be_used_is_a_problem(tmp_path: Path) -> None:
    said = on(None, SMALL, device_problem="the driver is too old")
    assert problems(said_of(catalog(tmp_path), said)) == ["machine: the device cannot be used: the driver is too old"]


def test_the_container_counts_and_not_the_machine(tmp_path: Path) -> None:
    found = said_of(catalog(tmp_path), on(None, SMALL), host(memory_limit_bytes=2 * GIB))
    assert "64.0 GiB of memory; this container may use 2.0 GiB: little for a server with torch" in notes(found)


def test_a_data_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    found = said_of(catalog(tmp_path), on(None, SMALL), host(data_dir_problem="/data is not writable for user 10001"))
    assert problems(found) == ["machine: /data is not writable for user 10001; keys and pictures are kept there"]


def test_compile_without_a_compiler_is_a_problem_on_cuda_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model was broken at load, after minutes, with a BackendCompilerFailed."""
    monkeypatch.setattr(requirements, "missing_for_compile", lambda: "compile: true needs a C compiler: install one")
    compiled = catalog(tmp_path, ", compile: true")
    assert problems(said_of(compiled, on(RTX_4090, SMALL))) == [
        "model a: compile: true needs a C compiler: install one"
    ]
    found = said_of(compiled, on(None, SMALL))
    assert problems(found) == []
    assert "models.a: compile has no effect on cpu" in notes(found)


def test_extras_that_are_missing_are_named(tmp_path: Path) -> None:
    found = said_of(catalog(tmp_path), on(RTX_4090, SMALL, versions={"torch": "2.13.0"}))
    assert "pip install 'darkroom[quantise]'" in notes(found)
    assert "pip install 'darkroom[vision]'" in notes(found)


def test_models_to_keep_that_do_not_fit_together_are_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    catalog(tmp_path, ", keep: true")
    file.write_text(file.read_text() + file.read_text().splitlines()[-1].replace("a:", "b:", 1) + "\n")
    from server.catalog.load import load_catalog

    ten = Sizes("bfloat16", 10 * GIB)
    said = on(RTX_4090, ten, models={"a": ten, "b": ten})
    assert problems(said_of(load_catalog(file), said)) == [
        "settings: models with keep (a, b) take 20.0 GiB together, of 17.2 GiB"
    ]


def test_settings_that_disagree_are_noted(tmp_path: Path) -> None:
    settings = Settings(queue_size=8, running_jobs=16)
    environ = {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}
    found = said_of(catalog(tmp_path), on(RTX_4090, SMALL), settings=settings, environ=environ)
    assert "queue_size 8 is less than running_jobs 16" in notes(found)
    assert "PYTORCH_ALLOC_CONF is set, and does not name expandable_segments" in notes(found)


def test_speed_is_estimated_for_known_cards_alone_and_marked(tmp_path: Path) -> None:
    of = catalog(tmp_path, ", family: stable-diffusion-xl, native_size: 1024x1024")
    assert "an estimate, not measured: 0.12 to 0.29 s a step" in text(said_of(of, on(RTX_4090, SMALL)))
    strange = Card("A Card", 24 * GIB, 23 * GIB, (8, 9), True, True)
    assert "an estimate" not in text(said_of(of, on(strange, SMALL)))


@pytest.mark.parametrize(
    ("name", "sheet"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40", None),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100"),
    ],
)
def test_a_name_finds_its_own_data_sheet(name: str, sheet: str | None) -> None:
    found = cards.find(name)
    assert (found.name if found else None) == sheet


def test_each_device_that_draws_is_named(tmp_path: Path) -> None:
    """It advised one server for each card."""
    two = (WorkerDevice("cuda:0", "cuda"), WorkerDevice("cuda:1", "cuda"))
    told = examine(HOST, on(RTX_4090, SMALL, cards=[RTX_4090, TESLA_T4]), catalog(tmp_path), Settings(), {}, two)
    assert "2 workers, one for each of cuda:0, cuda:1" in text(told)
    assert "the cards differ in memory" in notes(told)
    told = examine(HOST, on(RTX_4090, SMALL), catalog(tmp_path), Settings(), {}, "cuda:5 is not there")
    assert problems(told) == ["settings: cuda:5 is not there"]
