"""Every command runs in a folder of its own, in an environment that names no server and no key."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.commands import child
from tests.unit.commands.near_child import NearChild


@pytest.fixture(autouse=True)
def _plain_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DARKROOM_URL", "DARKROOM_API_KEY", "DARKROOM_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DARKROOM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def near_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands do in this process what they have a child do."""
    monkeypatch.setattr(child, "start", NearChild)
