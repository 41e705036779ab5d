"""Samplers and schedule types by every name that clients give them."""

from __future__ import annotations

import pytest

from pipelines.facts import schedulers
from server.api.sdapi.samplers import SAMPLERS, SCHEDULES, find, find_schedule


@pytest.mark.parametrize(
    ("name", "sampler", "schedule"),
    [
        ("Euler a", "Euler a", None),
        ("EULER A", "Euler a", None),
        ("k_euler_a", "Euler a", None),
        ("euler_ancestral", "Euler a", None),
        ("DPM++ 2M", "DPM++ 2M", None),
        ("dpmpp_2m", "DPM++ 2M", None),
        ("dpm++2m", "DPM++ 2M", None),
        ("DPM++ 2M Karras", "DPM++ 2M", "Karras"),
        ("DPM2 a Karras", "DPM2 a", "Karras"),
        ("DPM++ 2M SDE Exponential", "DPM++ 2M SDE", "Exponential"),
        ("DPM++ 3M SDE SGM Uniform", "DPM++ 3M SDE", "SGM Uniform"),
        ("uni_pc", "UniPC", None),
        ("heun", "Heun", None),
        ("Karras", None, None),
        ("Nobody Karras", None, None),
        ("nobody's", None, None),
        ("", None, None),
    ],
)
def test_names(name: str, sampler: str | None, schedule: str | None) -> None:
    found, behind = find(name)
    assert (found.name if found else None, behind.label if behind else None) == (sampler, schedule)


@pytest.mark.parametrize(
    ("name", "label"),
    [("Automatic", "Automatic"), ("", "Automatic"), ("KARRAS", "Karras"), ("sgm_uniform", "SGM Uniform"),
     ("SGM Uniform", "SGM Uniform"), ("discrete", "Uniform"), ("no such", None)],
)  # fmt: skip
def test_schedules(name: str, label: str | None) -> None:
    found = find_schedule(name)
    assert (found.label if found else None) == label


def test_every_solver_of_ours_is_some_sampler_and_every_one_named_is_there() -> None:
    ours = {*schedulers.DISCRETE, *schedulers.FLOW}
    assert {solver for sampler in SAMPLERS for solver in sampler.solvers} == ours
    assert {schedule.sigmas for schedule in SCHEDULES} == {*schedulers.SIGMAS, "default", None}


@pytest.mark.parametrize("flow", [True, False])
def test_every_sampler_draws_with_every_kind_of_model(flow: bool) -> None:
    for sampler in SAMPLERS:
        assert sampler.solver(schedulers.names(flow=flow)) is not None


def test_a_flow_model_draws_with_its_own_multistep_solvers() -> None:
    offered = schedulers.FLOW
    assert [find(name)[0].solver(offered) for name in ("DPM++ 2M", "UniPC", "Heun", "Euler a")] == [  # type: ignore[union-attr]
        "flow_dpmpp_2m", "flow_unipc", "flow_heun", "flow_euler"
    ]  # fmt: skip
