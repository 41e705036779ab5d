"""One loaded model for all engine tests, and a sink that keeps what happened."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.engine.call import Call
from pipelines.engine.engine import Engine
from pipelines.engine.shared import SharedModule, Stage
from pipelines.engine.sink import KeepingSink
from pipelines.models import selfcheck
from pipelines.models.loader import LoadedModel, load, quiet_libraries
from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import ImageSpec
from server.catalog.load import load_catalog

ROOT = Path(__file__).parent.parent.parent
# Measured: 1e-6 in float32; the bound leaves room for another machine's kernels.
SAME = 5e-5


class Seen(KeepingSink):
    """Everything the engine told, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[str, int, int]] = []
        self.previews: list[tuple[str, int, torch.Tensor]] = []
        self.on_progress: Callable[[Drawing, int], None] = lambda drawing, done: None

    def progress(self, drawing: Drawing, done: int, of: int) -> None:
        self.steps.append((drawing.job_id, done, of))
        self.on_progress(drawing, done)

    def previewed(self, drawing: Drawing, done: int, of: int, picture: torch.Tensor) -> None:
        self.previews.append((drawing.job_id, done, picture.clone()))


@dataclass
class Bench:
    """Draws drawings together on one model and tells what happened."""

    model: LoadedModel

    def drawing(self, name: str, *, n: int = 1, **changes: object) -> Drawing:
        plan = self.model.plan
        fields: dict[str, object] = {
            "model": plan.key,
            "prompt": "a red apple",
            "width": plan.native_width,
            "height": plan.native_height,
            "draw_width": plan.native_width,
            "draw_height": plan.native_height,
            "steps": 3,
            "guidance": 2.0,
        }
        principal = str(changes.pop("principal", "local"))
        seed = int(str(changes.pop("seed", 1)))
        spec = ImageSpec(**{**fields, **changes})  # type: ignore[arg-type]
        return Drawing(name, plan, spec, tuple(range(seed, seed + n)), principal)

    def draw(self, drawings: Sequence[Drawing], seen: Seen | None = None) -> tuple[Seen, Engine]:
        """All of ``drawings`` at once; returns when every one has ended."""
        seen = seen or Seen()
        engine = Engine(seen)
        ended = threading.Semaphore(0)
        engine.submit(self.model, *drawings, done=ended.release)
        for _ in drawings:
            assert ended.acquire(timeout=120)
        engine.close()
        return seen, engine

    def alone(self, drawing: Drawing) -> torch.Tensor:
        seen, _ = self.draw([drawing])
        return seen.pictures[drawing.job_id]


@pytest.fixture(scope="session")
def checked_model() -> LoadedModel:
    quiet_libraries()
    shipped = load_catalog(ROOT / "models.yaml")
    plan: ModelPlan = next(iter(shipped.plans.values()))
    model = load(plan, torch.device("cpu"))
    selfcheck.check(model)
    return model


@pytest.fixture
def bench(checked_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for shared in checked_model.shared_modules.values():
        if shared.prompt_work is not None:  # one test's shortage of memory is none of the next one's
            monkeypatch.setattr(shared.prompt_work, "is_given_up", False)
    return Bench(checked_model)


def denoiser(bench: Bench) -> SharedModule:
    return next(shared for shared in bench.model.shared_modules.values() if shared.stage is Stage.DENOISE)


def faulty(monkeypatch: pytest.MonkeyPatch, shared: SharedModule, raise_if: Any) -> None:
    real = shared.function

    def function(*args: Any, **kwargs: Any) -> Any:
        sample = args[0] if args else kwargs.get("sample", kwargs.get("x"))
        raise_if(sample)
        return real(*args, **kwargs)

    monkeypatch.setattr(shared, "function", function)


def no_memory() -> None:
    """Fails as the CPU does: with a plain RuntimeError."""
    torch.empty(1 << 58)


def decoder(bench: Bench) -> SharedModule:
    return next(shared for shared in bench.model.shared_modules.values() if shared.stage is Stage.DECODE)


def observed(bench: Bench) -> list[Call]:
    """The calls of one run."""
    calls: list[Call] = []
    ended = threading.Semaphore(0)
    engine = Engine(Seen(), observe=calls.append)
    engine.submit(bench.model, bench.drawing("a", steps=1), done=ended.release)
    assert ended.acquire(timeout=60)
    engine.close()
    return calls
