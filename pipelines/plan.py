"""What the front asks of a worker: a model to load, a job to draw.

Plain frozen data that crosses the pipe; no torch.
"""

from __future__ import annotations

import msgspec

from pipelines.spec import ImageSpec


class ModelPlan(msgspec.Struct, frozen=True):
    """One set of weights on one device. Several IDs of models.yaml may share a plan, and so the weights."""

    key: str  # the ID of the entry that names the folder
    folder: str  # absolute path
    family: str  # a name of pipelines.families, or "other"
    dtype: str = "auto"  # auto, float32, bfloat16 or float16


class DrawJob(msgspec.Struct, frozen=True):
    """One request's work: the same spec drawn once per seed, as one batch in one pipeline call."""

    job_id: str
    plan: ModelPlan
    spec: ImageSpec
    seeds: tuple[int, ...]
