"""The models.yaml that ships: where it is, and when it is the one to serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.catalog.load import find_models_file
from server.catalog.shipped import shipped_models_file
from server.errors import ConfigError
from tests.running import ROOT


def test_a_checkout_ships_its_own_file() -> None:
    assert shipped_models_file() == ROOT / "models.yaml"


def test_the_file_of_this_folder_goes_before_the_one_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_models_file(None) == ROOT / "models.yaml"
    (tmp_path / "models.yaml").touch()
    assert find_models_file(None) == tmp_path / "models.yaml"


def test_an_installation_without_the_file_says_how_to_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("server.catalog.load.shipped_models_file", lambda: None)
    with pytest.raises(ConfigError, match="--models"):
        find_models_file(None)
