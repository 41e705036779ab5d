"""From a model folder to diffusers pipelines, one per task, on shared weights.

Knows diffusers' loading; never fetches (local files only), never unpickles (safetensors only), never runs
code from the folder. Knows neither runs nor HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DiffusionPipeline,
)

from pipelines import folder as model_folder
from pipelines.errors import LoadRefused, Unsupported
from pipelines.families import Family, FamilyTable
from pipelines.plan import ModelPlan
from pipelines.spec import Task

log = logging.getLogger("darkroom.loader")

_AUTO = {
    Task.TEXT_TO_IMAGE: AutoPipelineForText2Image,
    Task.IMAGE_TO_IMAGE: AutoPipelineForImage2Image,
    Task.INPAINTING: AutoPipelineForInpainting,
}


def choose_device(setting: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` stands for on this machine."""
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(setting)


def choose_dtype(setting: str, device: torch.device) -> torch.dtype:
    """The weights' dtype; ``auto`` is bfloat16 on CUDA and float32 on the CPU."""
    if setting == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = getattr(torch, setting)
    assert isinstance(dtype, torch.dtype)
    return dtype


class LoadedModel:
    """A model on its device: one set of weights, and a pipeline for each task made when first wanted."""

    def __init__(self, plan: ModelPlan, pipeline: Any, family: Family, device: torch.device) -> None:
        self.plan = plan
        self.family = family
        self.device = device
        self._base = pipeline
        self._by_task: dict[Task, Any] = {}
        self._lock = threading.Lock()

    def pipeline(self, task: Task) -> Any:
        """The pipeline that does ``task``, sharing this model's weights. Raises Unsupported."""
        with self._lock:
            if task not in self._by_task:
                self._by_task[task] = self._make(task)
            return self._by_task[task]

    def _make(self, task: Task) -> Any:
        native = Task.TEXT_TO_IMAGE if Task.TEXT_TO_IMAGE in self.family.tasks else Task.IMAGE_TO_IMAGE
        if task is native or (self.family.by_instruction and task is not Task.INPAINTING):
            return self._base
        try:
            made = _AUTO[task].from_pipe(self._base)
        except (ValueError, AttributeError) as error:
            raise Unsupported(f"{type(self._base).__name__} has no pipeline for {task}") from error
        made.set_progress_bar_config(disable=True)
        return made


def load(plan: ModelPlan, device: torch.device) -> LoadedModel:
    """Load a model folder onto ``device``. Raises LoadRefused for a folder that is missing, broken or unsafe."""
    started = time.monotonic()
    path = Path(plan.folder)
    weight_bytes = model_folder.inspect(path)
    try:
        # Refused by inspect(): pickles, foreign code, paths that leave the folder.
        pipeline = DiffusionPipeline.from_pretrained(
            str(path), dtype=choose_dtype(plan.dtype, device), local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, TypeError, ImportError) as error:
        raise LoadRefused(f"diffusers could not load it: {type(error).__name__}: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    families = FamilyTable()
    family = families.by_name.get(plan.family) or families.detect(path)
    log.info(
        "model loaded",
        extra={
            "model": plan.key,
            "pipeline": type(pipeline).__name__,
            "device": str(device),
            "weight_mib": round(weight_bytes / 2**20, 1),
            "seconds": round(time.monotonic() - started, 2),
        },
    )
    return LoadedModel(plan, pipeline, family, device)


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and advice out of the server's log."""
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
