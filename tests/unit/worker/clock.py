"""A clock that stands still until a test sets it on, for modules that read ``time.monotonic``."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import pytest


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def set_clock(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made.monotonic))
    return made
