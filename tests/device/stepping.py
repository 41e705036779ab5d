"""A small module whose steps are launched as graphs, on the fake device."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import torch

from pipelines.engine import graphs as step_graphs
from pipelines.engine.adapters import Adapters
from pipelines.engine.batch import Batch
from pipelines.engine.call import Call, History
from pipelines.engine.collate import Merger
from pipelines.engine.graph_pool import GraphPool
from pipelines.engine.graphs import StepGraphs
from pipelines.engine.model import Model
from pipelines.engine.shared import SharedModule, Stage
from pipelines.plan import Drawing

CUDA = torch.device("cuda")
WIDTH = 4


class Net(torch.nn.Module):
    """Looks at each row by itself. ``inside`` is called in each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.3, 1.7, WIDTH))
        self.forwards = 0
        self.inside: Callable[[torch.Tensor], torch.Tensor] = lambda sample: sample

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
        self.forwards += 1
        return (self.inside(sample * self.weight + timestep.expand(len(sample))[:, None]),)


class Steps:
    """A module on the device, and calls of it."""

    def __init__(self, pool: GraphPool | None = None, *, max_share: float = math.inf) -> None:
        """``max_share``: of what a step takes; the fake device's replays take what the host's arithmetic takes."""
        self.net = Net().eval().requires_grad_(False).to(CUDA)
        self.shared = SharedModule("unet", self.net, self.net, Stage.DENOISE, device=CUDA)
        self.pool = GraphPool(CUDA) if pool is None else pool
        self.shared.pool = self.pool
        self.graphs = self.shared.graphs = StepGraphs(self.net, self.pool, max_share=max_share)
        self.counts: Counter[str] = Counter()
        modules = {id(self.net): self.shared}
        self.model = cast(Model, SimpleNamespace(shares=True, adapters=Adapters(), shared_modules=modules))
        self._numbers = torch.Generator().manual_seed(0)

    def call(self, rows: int = 1, width: int = WIDTH, adapters: tuple[str, ...] = ()) -> Call:
        sample = torch.randn(rows, width, generator=self._numbers).to(CUDA)
        timestep = torch.full((), float(torch.rand((), generator=self._numbers))).to(CUDA)
        drawing = cast(Drawing, SimpleNamespace(principal="p", spec=SimpleNamespace(adapters=adapters)))
        return Call(self.model, drawing, History(steps_of=1), self.shared, (sample, timestep), {}, None)

    def step(self, *calls: Call) -> list[torch.Tensor]:
        """What one batch gives each of its calls. Right, or this fails."""
        expected = [self._expected(call) for call in calls]
        Batch(calls, Merger(), self.counts).run()
        for call, right in zip(calls, expected, strict=True):
            if call.error is not None:
                raise call.error
            assert torch.equal(call.output[0], right)
        return [call.output[0] for call in calls]

    def _expected(self, call: Call) -> torch.Tensor:
        sample, timestep = call.args
        expected: torch.Tensor = sample.mul(self.net.weight).add(timestep)
        return expected

    def alone(self, rows: int = 1, times: int = 1) -> None:
        for _ in range(times):
            self.step(self.call(rows))

    def together(self, runs: int, times: int = 1) -> None:
        for _ in range(times):
            self.step(*(self.call() for _ in range(runs)))

    @property
    def replayed(self) -> int:
        return self.graphs.tally.replayed


# Steps of a form, of which the last is captured: what the third that was timed took is read at the next.
ENOUGH = step_graphs.ASKED + 2
