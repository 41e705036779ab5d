"""What the engine asks of a loaded model.

Knows no loader: ``pipelines.models.loader.LoadedModel`` is one such model, and a test may bring its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pipelines.engine.adapters import Adapters
from pipelines.engine.shared import SharedModule
from pipelines.facts.families import Family
from pipelines.spec import Task


class Model(Protocol):
    """A set of weights on a device, with a diffusers pipeline for each task."""

    family: Family
    shares: bool  # may its runs share steps?

    @property
    def shared_modules(self) -> Mapping[int, SharedModule]:
        """The modules that runs share, by the identity of the torch module."""

    @property
    def adapters(self) -> Adapters:
        """The LoRA adapters that lie on those modules."""

    def pipeline(self, task: Task) -> Any:
        """The pipeline that does ``task``. Raises Unsupported."""

    def controlled(self, task: Task, names: Sequence[str]) -> tuple[Any, list[SharedModule]]:
        """The pipeline that does ``task`` with ControlNets, and those of these names. Raises Unsupported."""
