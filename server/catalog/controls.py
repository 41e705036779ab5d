"""The ``controlnets`` of models.yaml: what may be written there, and which ControlNets fit which model.

Knows names, folders and families; knows neither HTTP nor torch. What is in a folder is judged by
pipelines.facts.controls.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipelines.facts import controls
from pipelines.facts.component import INDEX
from pipelines.facts.families import Family
from pipelines.plan import ControlFile, ModelPlan
from server.catalog.loras import LoraName

MAX_CONTROLNETS = 32  # of one model: all are loaded with it
ControlName = LoraName  # as adapters are called
Controlnets = Annotated[
    dict[ControlName, Annotated[str, Field(min_length=1)]],
    Field(max_length=MAX_CONTROLNETS),
]


def files(entries: Mapping[str, str], base: Path) -> tuple[ControlFile, ...]:
    """The folders of these ControlNets, by name, with paths relative to ``base`` made whole."""
    return tuple(ControlFile(name, os.path.realpath(base / path)) for name, path in sorted(entries.items()))


def takes_any(family: Family) -> bool:
    """May models of this family have ControlNets?"""
    return family.name in controls.FAMILIES


def of_family(family: Family) -> str:
    """Why models of a family that takes none have no ControlNets."""
    allowed = " and ".join(sorted(controls.FAMILIES))
    return f"family {family.name} takes no ControlNets; {allowed} do (Stable Diffusion 1.x, 2.x and XL)"


def clash(plan: ModelPlan, family: Family) -> str | None:
    """Why the model of a plan cannot have ControlNets at all; None where it can, or where nobody knows what it is."""
    if not plan.controls:
        return None
    is_there = (Path(plan.folder) / INDEX).is_file()
    if not takes_any(family) and (family.classes or is_there or family.name == "stable-diffusion-xl-refiner"):
        return of_family(family)
    if plan.compile:
        return "controlnets cannot be had with compile: what they add would compile the denoiser again"
    return None


def misfits(plan: ModelPlan) -> dict[str, str]:
    """The ControlNets that are for another model, and why, by name."""
    found = {control.name: controls.misfit(plan, control) for control in plan.controls}
    return {name: problem for name, problem in found.items() if problem is not None}


def together(sets: Iterable[tuple[ControlFile, ...]]) -> tuple[ControlFile, ...]:
    """The ControlNets of all IDs that share weights. Raises ValueError for a name that stands for two folders."""
    by_name: dict[str, ControlFile] = {}
    for control in (control for each in sets for control in each):
        if by_name.setdefault(control.name, control).path != control.path:
            raise ValueError(f"{control.name} stands for another folder with an ID that shares these weights")
    return tuple(by_name[name] for name in sorted(by_name))
