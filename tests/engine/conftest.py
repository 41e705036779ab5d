"""One loaded model for all engine tests, and a sink that keeps what happened."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import selfcheck
from pipelines.engine import Engine
from pipelines.errors import DrawError
from pipelines.loader import LoadedModel, load, quiet_libraries
from pipelines.plan import DrawJob, ModelPlan
from pipelines.run import Call
from pipelines.spec import ImageSpec
from pipelines.target import Target
from server.catalog import load_catalog

ROOT = Path(__file__).parent.parent.parent
# Measured: 1e-6 in float32; the bound leaves room for another machine's kernels.
SAME = 5e-5


@dataclass
class Seen:
    """A sink: everything the engine told, in order."""

    drawn_by_job: dict[str, torch.Tensor] = field(default_factory=dict)
    errors: dict[str, DrawError] = field(default_factory=dict)
    steps: list[tuple[str, int, int]] = field(default_factory=list)
    previews: list[tuple[str, int, torch.Tensor]] = field(default_factory=list)
    on_progress: Callable[[DrawJob, int], None] = lambda job, done: None

    def started(self, job: DrawJob) -> None:
        pass

    def progress(self, job: DrawJob, done: int, of: int) -> None:
        self.steps.append((job.job_id, done, of))
        self.on_progress(job, done)

    def previewed(self, job: DrawJob, done: int, of: int, picture: torch.Tensor) -> None:
        self.previews.append((job.job_id, done, picture.clone()))

    def drawn(self, job: DrawJob, drawn: torch.Tensor) -> None:
        self.drawn_by_job[job.job_id] = drawn.clone()

    def failed(self, job: DrawJob, error: DrawError) -> None:
        self.errors[job.job_id] = error


@dataclass
class Bench:
    """Draws jobs together on one model and tells what happened."""

    model: LoadedModel

    def job(self, name: str, *, n: int = 1, **changes: object) -> DrawJob:
        plan = self.model.plan
        fields: dict[str, object] = {
            "model": plan.key,
            "prompt": "a red apple",
            "width": plan.native_width,
            "height": plan.native_height,
            "draw_width": plan.native_width,
            "draw_height": plan.native_height,
            "seed": 0,
            "steps": 3,
            "guidance": 2.0,
        }
        principal = str(changes.pop("principal", "local"))
        seed = int(str(changes.pop("seed", 1)))
        spec = ImageSpec(**{**fields, **changes})  # type: ignore[arg-type]
        return DrawJob(name, plan, spec, tuple(range(seed, seed + n)), principal)

    def draw(self, jobs: Sequence[DrawJob], seen: Seen | None = None) -> tuple[Seen, Engine]:
        """All of ``jobs`` at once; returns when every one has ended."""
        seen = seen or Seen()
        engine = Engine(seen)
        ended = threading.Semaphore(0)
        engine.submit(self.model, *jobs, done=ended.release)
        for _ in jobs:
            assert ended.acquire(timeout=120)
        engine.close()
        return seen, engine

    def alone(self, job: DrawJob) -> torch.Tensor:
        seen, _ = self.draw([job])
        return seen.drawn_by_job[job.job_id]


@pytest.fixture(scope="session")
def checked_model() -> LoadedModel:
    quiet_libraries()
    shipped = load_catalog(ROOT / "models.yaml")
    plan: ModelPlan = next(iter(shipped.plans.values()))
    model = load(plan, torch.device("cpu"))
    selfcheck.check(model)
    return model


@pytest.fixture
def bench(checked_model: LoadedModel) -> Bench:
    return Bench(checked_model)


def denoiser(bench: Bench) -> Target:
    return next(target for target in bench.model.targets.values() if target.is_denoiser)


def faulty(monkeypatch: pytest.MonkeyPatch, target: Target, raise_if: Any) -> None:
    real = target.function

    def function(*args: Any, **kwargs: Any) -> Any:
        sample = args[0] if args else kwargs.get("sample", kwargs.get("x"))
        raise_if(sample)
        return real(*args, **kwargs)

    monkeypatch.setattr(target, "function", function)


def no_memory() -> None:
    """Fails as the CPU does: with a plain RuntimeError."""
    torch.empty(1 << 58)


def decoder(bench: Bench) -> Target:
    return next(target for target in bench.model.targets.values() if target.name == "vae")


def observed(bench: Bench) -> list[Call]:
    """The calls of one run."""
    calls: list[Call] = []
    ended = threading.Semaphore(0)
    engine = Engine(Seen(), observe=calls.append)
    engine.submit(bench.model, bench.job("a", steps=1), done=ended.release)
    assert ended.acquire(timeout=60)
    engine.close()
    return calls
