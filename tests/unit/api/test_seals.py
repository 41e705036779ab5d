"""When the files of seals are looked at."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from pipelines.plan import ModelPlan
from server.api.seals import SealStates
from server.catalog.load import load_catalog
from tests.running import ROOT


class Watched(SealStates):
    """Counts its looks, and the threads that they were on."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 100.0
        super().__init__(folder, clock=lambda: self.now_s)
        self.looks: list[threading.Thread] = []

    def of(self, plan: ModelPlan) -> dict[str, Any] | None:
        self.looks.append(threading.current_thread())
        return {"state": "unknown", "verified_at": len(self.looks)}


@pytest.mark.anyio
async def test_files_are_looked_at_once_a_second_and_off_the_loop(tmp_path: Path) -> None:
    """Every list of models sent a look to a thread: that was half of what a list took of the CPU."""
    catalog, states = load_catalog(ROOT / "models.yaml"), Watched(tmp_path)
    found = await asyncio.gather(*(states.look(catalog) for _ in range(20)))
    assert len(states.looks) == len(catalog.plans) == 1
    assert states.looks[0] is not threading.current_thread()
    assert all(each == {"darkroom-mini": {"state": "unknown", "verified_at": 1}} for each in found)
    states.now_s += 0.9
    await states.look(catalog)
    assert len(states.looks) == 1
    states.now_s += 0.1
    assert await states.look(catalog) == {"darkroom-mini": {"state": "unknown", "verified_at": 2}}
    await states.look(load_catalog(ROOT / "models.yaml"))
    assert len(states.looks) == 3, "of another catalog nothing is known yet"
