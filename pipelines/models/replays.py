"""Which models' steps may be launched as CUDA graphs: told by models.yaml, the device, the family and the weights.

Knows plans and modules; knows neither captures nor steps (pipelines/engine/graphs.py).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from pipelines.engine.graph_pool import GraphPool
from pipelines.engine.graphs import StepGraphs
from pipelines.engine.shared import SharedModule
from pipelines.facts.families import Family
from pipelines.models import allocator, transfer
from pipelines.plan import ModelPlan

AUTO, OFF = "auto", "off"  # of cuda_graphs in models.yaml


def equip(
    modules: Iterable[SharedModule], plan: ModelPlan, family: Family, device: torch.device, pool: GraphPool | None
) -> None:
    """Give the modules that are called at every step graphs in ``pool``, or say why they have none; all know the pool,
    for when memory is short. Without one the model has one of its own; on another device than CUDA's it has none."""
    if device.type != "cuda":
        return
    pool = GraphPool(device) if pool is None else pool
    for shared in modules:
        shared.pool = pool
        if shared.is_denoiser and plan.cuda_graphs != OFF:
            shared.graphs = StepGraphs(shared.module, pool)
            shared.graphs.refuse(why_not(shared, plan, family))


def why_not(shared: SharedModule, plan: ModelPlan, family: Family) -> str:
    """Why none of a module's steps can be a graph; empty if they may be."""
    if torch.version.hip is not None:
        return "graphs of AMD's cards were never tried"
    if allocator.is_async():
        return "torch's allocator is cudaMallocAsync, whose memory a graph does not keep"
    if family.forward_waits:
        return f"a forward of {family.name} waits for the device"
    if plan.offload:
        return "offload: its weights come and go"
    if shared.compiled:
        return "compile: it launches few kernels as it is"
    tensors = (*shared.module.parameters(), *shared.module.buffers())
    if plan.quantise is not None or not all(transfer.is_plain(tensor) for tensor in tensors):
        return "its weights are quantised: their library's kernels may do what no graph can hold"
    if any(
        getattr(module, name, None) for module in shared.module.modules() for name in ("_diffusers_hook", "_hf_hook")
    ):
        return "hooks of its library run at every call"
    if shared.keeps_state():
        return "it has a step cache"
    return ""
