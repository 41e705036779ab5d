"""Tiny models on a fake device, and how often the host waits for it in a step."""

from __future__ import annotations

import threading

import msgspec
import torch

from pipelines.engine.engine import Engine
from pipelines.engine.sink import KeepingSink
from pipelines.models import tuning
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing
from tests.device.fake import FakeCuda
from tests.families import tiny

CUDA = torch.device("cuda")


def placed(name: str, *, graphs: bool = False) -> LoadedModel:
    """The tiny model of a row of the family matrix, on the device."""
    return on_device(tiny.build(name), graphs=graphs)


def on_device(model: LoadedModel, *, graphs: bool = False) -> LoadedModel:
    """The same model, placed on the device as the loader does it; with ``graphs``, steps may be CUDA graphs."""
    plan = msgspec.structs.replace(model.plan, cuda_graphs="auto" if graphs else "off")
    tuning.place(model._base, plan, CUDA, beside=model._nets.modules)
    return LoadedModel(plan, model._base, model.family, CUDA, model.adapters, nets=model._nets.modules)


class _CountingSink(KeepingSink):
    """Notes how many waits there were when each step was done."""

    def __init__(self, device: FakeCuda) -> None:
        super().__init__()
        self.at_steps: list[int] = []
        self._device = device

    def progress(self, drawing: Drawing, done: int, of: int) -> None:
        self.at_steps.append(len(self._device.waits))


def waits_a_step(device: FakeCuda, model: LoadedModel, drawing: Drawing) -> float:
    """Waits of the host from one step of a run to the next, without the first, which also sets the run up."""
    sink = _CountingSink(device)
    engine, ended = Engine(sink), threading.Semaphore(0)
    engine.submit(model, drawing, done=ended.release)
    ended.acquire()
    engine.close()
    assert not sink.errors, sink.errors
    first, last = sink.at_steps[0], sink.at_steps[-1]
    return round((last - first) / (len(sink.at_steps) - 1), 2)
