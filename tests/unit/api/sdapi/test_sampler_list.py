"""Samplers and schedule types, as they are listed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.facts import schedulers
from pipelines.facts.families import FamilyTable
from server.api.sdapi import sampler_list, samplers
from server.catalog.catalog import Model


@pytest.mark.parametrize("solver", [*schedulers.DISCRETE, *schedulers.FLOW])
def test_every_solver_of_ours_has_a_name_that_finds_it(solver: str) -> None:
    sampler, _ = samplers.find(sampler_list.name_of(solver))
    assert sampler is not None
    assert solver in sampler.solvers


@pytest.mark.parametrize("family", ["stable-diffusion", "flux", "stable-diffusion-3", "sana"])
def test_a_model_lists_what_it_samples_with_once(mini: Model, family: str) -> None:
    model = replace(mini, family=FamilyTable().by_name[family])
    rows = sampler_list.samplers(model)
    assert len({row["name"] for row in rows}) == len(rows) == len(model.scheduler_names)
    for row, solver in zip(rows, sorted(model.scheduler_names, key=_place), strict=True):
        sampler, _ = samplers.find(row["name"])
        assert sampler is not None
        assert sampler.solver(model.scheduler_names) == solver


def _place(solver: str) -> int:
    return [sampler.name for sampler in samplers.SAMPLERS].index(sampler_list.name_of(solver))


def test_every_listed_schedule_has_levels_of_its_own() -> None:
    rows = sampler_list.schedulers()
    found = [samplers.find_schedule(row["name"]) for row in rows]
    assert rows[0]["name"] == "automatic"
    assert len({each.sigmas for each in found if each is not None and each.sigmas is not None}) == len(rows)
