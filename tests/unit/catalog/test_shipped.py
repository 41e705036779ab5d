from __future__ import annotations

from pathlib import Path

import pytest

from server.catalog import shipped
from server.catalog.shipped import shipped_models_file
from tests.running import ROOT


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder in place of the one that is running."""
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setattr(shipped, "files", lambda name: tmp_path / name)
    return folder


def test_a_checkout_serves_its_own() -> None:
    assert shipped_models_file() == ROOT / "models.yaml"


def test_the_packages_own_comes_before_one_beside_the_package(package: Path) -> None:
    assert shipped_models_file() is None
    beside, inside = package.parent / "models.yaml", package / "data" / "models.yaml"
    beside.touch()
    assert shipped_models_file() == beside
    inside.parent.mkdir()
    inside.touch()
    assert shipped_models_file() == inside
