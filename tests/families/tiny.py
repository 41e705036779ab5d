"""A tiny random-weight pipeline of every family, built in memory from configs: no downloads.

Weights are random but not as the libraries initialise them: a layer that starts at zero (ControlNet's, adaLN's) would
hide a wrong argument, and a tensor that starts uninitialised would make the test differ from run to run.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch

from pipelines.facts.families import FamilyTable
from pipelines.models.loader import LoadedModel
from pipelines.plan import ModelPlan
from tests.controlnets import controlnet
from tests.families import dits, unets
from tests.families.parts import Rows

BUILDERS: Rows = {**unets.ROWS, **dits.ROWS}


def build(name: str) -> LoadedModel:
    """The tiny model of a row of the matrix; always the same weights."""
    family, builder = BUILDERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline, native = builder()
    pipeline.set_progress_bar_config(disable=True)
    for component_name, component in pipeline.components.items():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
            _randomise(component, component_name)
    plan = ModelPlan(name, "", family, native_width=native, native_height=native)
    nets = _nets(pipeline) if name in unets.CONTROLLED else None
    return LoadedModel(plan, pipeline, FamilyTable().by_name[family], torch.device("cpu"), nets=nets)


def _nets(pipeline: Any) -> dict[str, torch.nn.Module]:
    cell = pipeline.vae_scale_factor
    return {word: controlnet(pipeline.unet, cell, seed=seed) for seed, word in enumerate("ab")}


def _randomise(module: torch.nn.Module, name: str) -> None:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    for parameter_name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2:  # a norm's weight stays near 1, a bias near 0
            parameter.data = noise * 0.1 + (1.0 if parameter_name.endswith("weight") else 0.0)
        else:
            parameter.data = noise / math.sqrt(parameter[0].numel())
