"""The doctor's sections in small, for tests: as many lines, a fraction of the work."""

from __future__ import annotations

import pytest

from pipelines.doctor import device_sections, graph_section, model_sections


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_sections, "_COPIES", (1, 2, 3))
    monkeypatch.setattr(graph_section, "_ROWS", (1, 2))
    monkeypatch.setattr(model_sections, "_RUNS", 4)
    monkeypatch.setattr(model_sections, "_STEPS", 2)
    monkeypatch.setattr(model_sections, "_BESIDE_TENSORS", 4)
    monkeypatch.setattr(device_sections, "_LAUNCHES", 20)
