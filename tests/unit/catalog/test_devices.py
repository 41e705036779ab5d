"""Models that are bound to devices of the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.catalog.load import load_catalog
from server.errors import ConfigError
from server.worker.devices import WorkerDevice

CARDS = [
    WorkerDevice("cuda:0", "cuda", "GPU-1", other_names=("GPU-1",)),
    WorkerDevice("cuda:1", "cuda", "GPU-2", other_names=("GPU-2",)),
]
ONE = [WorkerDevice()]


def written(folder: Path, devices: str) -> Path:
    file = folder / "models.yaml"
    file.write_text(f"default: a\nmodels:\n  a:\n    path: a\n    devices: {devices}\n  b: {{ like: a }}\n")
    return file


@pytest.mark.parametrize("devices", ["[cuda:1]", "[cuda]", "[GPU-2, cuda:0]"])
def test_a_model_is_bound_with_all_that_share_its_weights(tmp_path: Path, devices: str) -> None:
    catalog = load_catalog(written(tmp_path, devices), CARDS)
    assert catalog.models["b"].plan.devices == catalog.models["a"].plan.devices
    assert len(catalog.plans["a"].devices) == devices.count(",") + 1


@pytest.mark.parametrize("devices", ["[cuda:2]", "[cpu]", "[cuda:0, GPU-9]"])
def test_a_device_that_the_server_has_not_is_refused_with_its_line(tmp_path: Path, devices: str) -> None:
    with pytest.raises(ConfigError, match=r"line 5: models\.a\.devices = .*it has cuda:0, cuda:1"):
        load_catalog(written(tmp_path, devices), CARDS)
    load_catalog(written(tmp_path, devices))  # by a command that knows no devices


@pytest.mark.parametrize("devices", ["cuda:1", "[]", "[gpu0]", "[3]"])
def test_what_is_no_list_of_devices_is_refused(tmp_path: Path, devices: str) -> None:
    with pytest.raises(ConfigError, match=r"models\.a\.devices"):
        load_catalog(written(tmp_path, devices))


def test_one_device_without_a_name_is_the_first_of_its_kind(tmp_path: Path) -> None:
    load_catalog(written(tmp_path, "[cuda:0]"), ONE)
    with pytest.raises(ConfigError, match="a single device"):
        load_catalog(written(tmp_path, "[cuda:1]"), ONE)


def test_weights_are_bound_where_they_are_named(tmp_path: Path) -> None:
    file = written(tmp_path, "[cuda:0]")
    file.write_text(file.read_text().replace("{ like: a }", "{ like: a, devices: [cuda:1] }"))
    with pytest.raises(ConfigError, match=r"models\.b\.devices.*is a's to say"):
        load_catalog(file, CARDS)
