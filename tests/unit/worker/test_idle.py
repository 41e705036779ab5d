"""Who leaves when nobody asks for it, and when the worker itself does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from pipelines.plan import ModelPlan
from server.catalog.load import load_catalog
from server.errors import ConfigError
from server.settings import Settings
from server.worker.fleet import Fleet
from server.worker.idle import IdleWatch
from server.worker.local import LocalWorker
from server.worker.served import ServedCatalog
from server.worker.status import ModelState, ModelStatus

TEXT = "default: a\nmodels:\n  a: { path: a%s }\n  b: { path: b }\n"


class Quiet:
    """Stands in for a worker that has been idle for ``rested_s``."""

    up, asleep, busy, device = True, False, False, "cuda:0"

    def __init__(self) -> None:
        self.rested_s = 0.0
        self.models = {key: ModelStatus(ModelState.READY) for key in "ab"}
        self.used: set[str] = set()
        self.rest = self

    def serve(self, *ignored: Any) -> None: ...

    def in_use(self, plan: ModelPlan) -> bool:
        return plan.key in self.used

    def idle_s(self, key: str = "") -> float:
        return self.rested_s

    def leave(self, plan: ModelPlan, place: ModelState) -> None:
        self.models[plan.key] = ModelStatus(place)

    def sleep(self) -> None:
        self.asleep = True

    def states(self) -> tuple[str, ...]:
        return tuple(str(status.state) for status in self.models.values())


class House:
    def __init__(self, folder: Path, keys: str = "", **settings: Any) -> None:
        file = folder / "models.yaml"
        file.write_text(TEXT % keys)
        self.worker = Quiet()
        served = ServedCatalog(file, load_catalog(file), cast(Fleet, self.worker))
        self.worker.models = {key: ModelStatus(ModelState.READY) for key in "ab"}
        self.watch = IdleWatch(Settings(**settings), served, cast(LocalWorker, self.worker))

    def after(self, seconds: float) -> tuple[str, ...]:
        self.worker.rested_s = seconds
        self.watch.look()
        return self.worker.states()


def test_nothing_leaves_unless_it_is_told_to(tmp_path: Path) -> None:
    house = House(tmp_path)
    assert house.after(1e9) == ("ready", "ready")
    house.worker.models = {key: ModelStatus() for key in "ab"}
    house.after(1e9)
    assert not house.worker.asleep


def test_models_leave_for_host_memory_then_the_disk_and_the_worker_with_the_last(tmp_path: Path) -> None:
    house = House(tmp_path, ", idle: 10s, idle_unload: 1m", idle_s=20, idle_unload_s=120)
    assert house.after(9) == ("ready", "ready")
    assert house.after(10) == ("offloaded", "ready")
    assert house.after(20) == ("offloaded", "offloaded")
    assert house.after(60) == ("unloaded", "offloaded")
    assert not house.worker.asleep
    assert house.after(120) == ("unloaded", "unloaded")
    assert house.worker.asleep


def test_what_is_used_or_kept_stays(tmp_path: Path) -> None:
    house = House(tmp_path, ", keep: true", idle_s=1, idle_unload_s=2)
    house.worker.used = {"b"}
    assert house.after(100) == ("ready", "ready")
    house.worker.used = set()
    assert house.after(100) == ("ready", "unloaded")
    house.after(100)
    assert not house.worker.asleep, "one of its models is kept"


def test_on_a_cpu_host_memory_is_where_they_are(tmp_path: Path) -> None:
    house = House(tmp_path, idle_s=5, idle_unload_s=60)
    house.worker.device = "cpu"
    assert house.after(5) == ("unloaded", "unloaded")
    assert house.worker.asleep


@pytest.mark.parametrize(
    "keys", [", keep: true, idle: 1m", ", keep: true, idle_unload: 1m", ", idle: 10", ", idle: 0m"]
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, keys: str) -> None:
    with pytest.raises(ConfigError, match=r"line 3: models\.a"):
        House(tmp_path, keys)
