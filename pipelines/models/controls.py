"""The ControlNets of a loaded model: from their folders to modules in its memory, and to pipelines that call them.

Knows diffusers' loading of one network; what a folder must be, pipelines/facts/controls.py knows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import diffusers
import torch

from pipelines.engine.shared import SharedModule, Stage
from pipelines.errors import LoadRefused, Unsupported
from pipelines.facts import controls
from pipelines.facts.folder import Part
from pipelines.models import verify
from pipelines.models.tasks import pipeline_for
from pipelines.plan import ModelPlan
from pipelines.spec import Task


def load(
    plan: ModelPlan, dtype: torch.dtype, component_done: Callable[[], None] = lambda: None
) -> dict[str, torch.nn.Module]:
    """A plan's ControlNets by name, in host memory. Raises LoadRefused for one whose tensors are not its class's."""
    found: dict[str, torch.nn.Module] = {}
    for control, part in zip(plan.controls, parts(plan), strict=True):
        compare(part)
        with _named(part):
            found[control.name] = _load(part, dtype)
        component_done()
    verify.refuse_unloaded({component_name(name): net for name, net in found.items()})
    return found


def _load(part: Part, dtype: torch.dtype) -> torch.nn.Module:
    variant = part.files.variant
    net: torch.nn.Module = diffusers.ControlNetModel.from_pretrained(
        str(part.folder),
        torch_dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        **({} if variant is None else {"variant": variant}),
    )
    return net.eval().requires_grad_(False)


def compare(part: Part) -> None:
    """Compare a ControlNet's tensors with those of its class, without loading them. Raises LoadRefused."""
    with _named(part):
        verify.compare(part)


@contextlib.contextmanager
def _named(part: Part) -> Iterator[None]:
    """Raise LoadRefused that names the ControlNet for what the libraries raise in the block, which is of all kinds."""
    try:
        yield
    except (LoadRefused, torch.AcceleratorError):
        raise
    except Exception as error:
        said = str(error).replace(str(part.folder), part.folder.name)[:500]
        raise LoadRefused(
            f"{part.component.name}: diffusers could not load it: {type(error).__name__}: {said}"
        ) from error


def parts(plan: ModelPlan) -> tuple[Part, ...]:
    """The ControlNets of a plan with the files that loading reads. Raises LoadRefused."""
    return tuple(controls.part(control) for control in plan.controls)


def component_name(name: str) -> str:
    """What a ControlNet is called among the components of its model."""
    return f"{controls.KEY}.{name}"


class ControlNets:
    """Those of one loaded model: modules that runs share, and a pipeline for each task made when first wanted."""

    def __init__(self, base: Any, nets: Mapping[str, torch.nn.Module]) -> None:
        """``base`` is the model's pipeline, ``nets`` are by name."""
        self.modules = dict(nets)
        self._shared = {name: SharedModule(component_name(name), net, net, Stage.CONTROL) for name, net in nets.items()}
        self._base = base
        self._by_task: dict[Task, Any] = {}

    @property
    def shared_modules(self) -> dict[int, SharedModule]:
        """By the module's identity."""
        return {id(shared.module): shared for shared in self._shared.values()}

    def controlled(self, task: Task, names: Sequence[str]) -> tuple[Any, list[SharedModule]]:
        """The pipeline that does ``task`` with ControlNets, in whose place a run puts its own, and those of these
        names. Raises Unsupported."""
        lacking = sorted(set(names) - self.modules.keys())
        if lacking:
            raise Unsupported(f"this model has no ControlNet {lacking[0]}")
        if task not in self._by_task:
            together = diffusers.MultiControlNetModel(list(self.modules.values()))
            self._by_task[task] = pipeline_for(task, self._base, controlnet=together)
        return self._by_task[task], [self._shared[name] for name in names]
