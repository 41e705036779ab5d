"""Models whose steps are replayed whatever that brings: what it does on the fake device says nothing of a real one."""

from __future__ import annotations

import math

from pipelines.engine.graphs import StepGraphs, Tally
from pipelines.models.loader import LoadedModel


def drawn_by_graphs(model: LoadedModel) -> LoadedModel:
    """The same model, whose graphs are never dropped for bringing nothing."""
    for each in graphs(model):
        each._max_share = math.inf
    return model


def graphs(model: LoadedModel) -> list[StepGraphs]:
    """Those of its denoiser, and of its ControlNet if it has one."""
    return [shared.graphs for shared in model.shared_modules.values() if shared.graphs is not None]


def tally(model: LoadedModel) -> Tally:
    """Its denoiser's."""
    return next(s.graphs.tally for s in model.shared_modules.values() if s.graphs and s.name in ("unet", "transformer"))
