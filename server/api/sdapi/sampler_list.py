"""Samplers and schedule types as AUTOMATIC1111's clients list them: those that differ here.

Knows what a model offers. A request may name any other that ``samplers`` knows: it draws with the nearest.
"""

from __future__ import annotations

from typing import Any

from server.api.sdapi.samplers import SAMPLERS, SCHEDULES, find
from server.catalog.catalog import Model


def samplers(model: Model) -> list[dict[str, Any]]:
    """The items of ``GET /sdapi/v1/samplers``: one for each solver of this model, in their order."""
    rows = [(name_of(solver), _aliases(solver)) for solver in model.scheduler_names]
    order = [sampler.name for sampler in SAMPLERS]
    rows.sort(key=lambda row: order.index(row[0]) if row[0] in order else len(order))
    return [{"name": name, "aliases": aliases, "options": {}} for name, aliases in rows]


def name_of(solver: str) -> str:
    """What they call one of our solvers; as we do, where they have none such."""
    sampler, _ = find(solver)
    return solver if sampler is None else sampler.name


def _aliases(solver: str) -> list[str]:
    sampler, _ = find(solver)
    return [] if sampler is None else list(sampler.aliases)


def schedulers() -> list[dict[str, Any]]:
    """The items of ``GET /sdapi/v1/schedulers``: one for each way to space noise levels."""
    found: dict[str, dict[str, Any]] = {}
    for schedule in SCHEDULES:
        if schedule.sigmas is not None:
            found.setdefault(
                schedule.sigmas,
                {
                    "name": schedule.name,
                    "label": schedule.label,
                    "aliases": [each for each in schedule.aliases if each] or None,
                    "default_rho": -1.0,
                    "need_inner_model": False,
                },
            )
    return list(found.values())
