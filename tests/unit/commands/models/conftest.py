from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from server.commands.models import hub as hubs
from tests.unit.commands.models.hub import Hub, open_hub
from tests.unit.commands.models.repository import BESIDE, READ, pull


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tmp_path / "hub"
    for name, content in {**dict.fromkeys(BESIDE, b"torn"), **READ}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (tmp_path / "models.yaml").write_text("default: z\nmodels:\n  z: { path: model, hub: org/z-image }\n")
    monkeypatch.setattr(hubs, "pause", lambda tries: None)
    with open_hub(folder) as opened:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", opened.url)
        yield opened


@pytest.fixture
def model(hub: Hub, tmp_path: Path) -> Path:
    """The folder after a pull."""
    assert pull(tmp_path) == 0
    hub.asked.clear()
    return tmp_path / "model"
