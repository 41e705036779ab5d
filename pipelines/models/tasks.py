"""What a diffusers pipeline does, and the pipelines that do the rest on its parts.

Knows diffusers' tables of pipelines by task; knows neither weights nor runs.
"""

from __future__ import annotations

import inspect
from typing import Any

import diffusers

from pipelines.errors import Unsupported
from pipelines.spec import Task

# Named, for they import every family of pipelines that diffusers has: a seventh of what a worker imports.
_AUTO = {
    Task.TEXT_TO_IMAGE: "AutoPipelineForText2Image",
    Task.IMAGE_TO_IMAGE: "AutoPipelineForImage2Image",
    Task.INPAINTING: "AutoPipelineForInpainting",
}


def native_task(pipeline: Any) -> Task:
    """What a pipeline does as it is: told by what its call takes, for a folder may name any of a family's classes."""
    takes = inspect.signature(type(pipeline).__call__).parameters
    if "mask_image" in takes:
        return Task.INPAINTING
    return Task.IMAGE_TO_IMAGE if "strength" in takes else Task.TEXT_TO_IMAGE


def pipeline_for(task: Task, base: Any, **more: Any) -> Any:
    """The pipeline that does ``task`` on the parts of ``base``, and on ``more``. Raises Unsupported."""
    try:
        made = getattr(diffusers, _AUTO[task]).from_pipe(base, **more)
    except (ValueError, AttributeError) as error:
        beside = f" with a {', a '.join(more)}" if more else ""
        raise Unsupported(f"{type(base).__name__} has no pipeline for {task}{beside}") from error
    made.set_progress_bar_config(disable=True)
    return made
