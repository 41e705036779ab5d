"""Planted faults: a model whose rows are not independent is found out at load, and still draws right pictures.

Each of these breaks sharing in a way that no shape tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

from pipelines.facts.families import FamilyTable
from pipelines.models.loader import LoadedModel
from pipelines.spec import Task
from tests.families import tiny
from tests.families.drive import check, draw, drawing

Plant = Callable[[], LoadedModel]


def _denoiser(model: LoadedModel) -> Any:
    return next(shared.module for shared in model.shared_modules.values() if shared.is_denoiser)


def first_timestep_only() -> LoadedModel:
    """A UNet that reads only timestep[0]."""
    model = tiny.build("SD 1.x")
    unet = _denoiser(model)
    forward = type(unet).forward

    class OneTimestep(type(unet)):  # type: ignore[misc]
        def forward(self, sample: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
            return forward(self, sample, timestep.reshape(-1)[0], *args, **kwargs)

    unet.__class__ = OneTimestep
    return model


def batch_statistics() -> LoadedModel:
    """A norm over the batch, left in training mode."""
    model = tiny.build("SD 1.x")
    norm = torch.nn.BatchNorm2d(8, track_running_stats=False)
    _denoiser(model).conv_in.register_forward_hook(lambda module, inputs, output: norm(output))
    return model


def global_norm() -> LoadedModel:
    """Guidance rescaled by the norm of the whole batch rather than of each row."""
    model = tiny.build("SD3")
    proj_out = _denoiser(model).proj_out
    proj_out.register_forward_hook(lambda module, inputs, output: output / output.norm() * 30)
    return model


def first_block_cache() -> LoadedModel:
    """Diffusers' step cache: what the last step left is compared with this one, whoever's it was."""
    model = tiny.build("FLUX.1")
    _denoiser(model).enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.2))
    return model


def pyramid_attention_broadcast() -> LoadedModel:
    model = tiny.build("FLUX.1")
    _denoiser(model).enable_cache(
        diffusers.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, 1001),
            current_timestep_callback=lambda: 500,
            spatial_attention_block_identifiers=("transformer_blocks",),
        )
    )
    return model


def perturbed_attention() -> LoadedModel:
    """PAG splits the batch in three, by position: normal, unconditional and perturbed rows."""
    plain = tiny.build("SD 1.x")
    parts = plain.pipeline(Task.TEXT_TO_IMAGE).components
    pipeline = diffusers.StableDiffusionPAGPipeline(**parts, requires_safety_checker=False, pag_applied_layers=["mid"])
    pipeline.set_progress_bar_config(disable=True)
    return LoadedModel(plain.plan, pipeline, FamilyTable().by_name["stable-diffusion"], torch.device("cpu"))


PLANTS: tuple[Plant, ...] = (
    first_timestep_only,
    batch_statistics,
    global_norm,
    first_block_cache,
    pyramid_attention_broadcast,
    perturbed_attention,
)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_model_with_dependent_rows_runs_unshared(plant: Plant) -> None:
    model = plant()
    check(model)
    assert not model.shares
    assert model.reason

    drawings = [drawing(model, 1, "a red apple", steps=3), drawing(model, 2, "two dogs on a beach", steps=5)]
    alone = [draw(plant(), [one]) for one in drawings]
    together = draw(model, drawings)
    assert together.forwards == sum(one.forwards for one in alone)
    for one, drawn in zip(drawings, alone, strict=True):
        assert torch.equal(together.pictures[one.job_id], drawn.pictures[one.job_id])


def test_a_sound_model_shares() -> None:
    model = tiny.build("SD 1.x")
    check(model)
    assert model.shares
    assert not model.reason
