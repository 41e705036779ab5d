"""What the front knows of each model: who may be asked for, and what outlives a worker."""

from __future__ import annotations

import time

import pytest

from pipelines.models.residency import Place
from pipelines.plan import ModelPlan
from server.errors import ModelUnavailable
from server.telemetry import Metrics
from server.worker.status import ModelState, ModelStatuses

MINI, TORN = ModelPlan("mini", "/mini", "other"), ModelPlan("torn", "/torn", "other")


@pytest.fixture
def models() -> ModelStatuses:
    return ModelStatuses([MINI, TORN], Metrics())


def test_the_states_are_those_that_a_worker_tells() -> None:
    assert [state.value for state in ModelState] == [place.value for place in Place]


def test_a_broken_model_is_refused_until_it_may_be_tried_again(models: ModelStatuses) -> None:
    models.require("torn", "dall-e-2")
    models.moved("torn", ModelState.BROKEN, "truncated")
    with pytest.raises(ModelUnavailable, match="dall-e-2"):
        models.require("torn", "dall-e-2")
    models["torn"].since_s = time.monotonic() - 60
    models.require("torn", "dall-e-2")
    with pytest.raises(ModelUnavailable):
        models.require("torn", "dall-e-2", retry=False)


def test_a_worker_takes_its_models_with_it_but_not_what_is_known_of_their_folders(models: ModelStatuses) -> None:
    models.moved("mini", ModelState.LOADING)
    assert models.loading
    models.checked("mini", False, "differs")
    models.moved("mini", ModelState.READY)
    models.moved("torn", ModelState.BROKEN, "truncated")
    assert models.tried([MINI, TORN])
    models.worker_lost()
    assert (models["mini"].state, models["torn"].state) == (ModelState.UNLOADED, ModelState.BROKEN)
    assert (models["mini"].shared, models["mini"].unshared_reason) == (False, "differs")
    assert models["torn"].reason == "truncated"
    assert not models.loading
    models.worker_up()
    assert not models.tried([TORN])


def test_a_model_whose_load_ends_workers_is_broken_and_preloaded_no_more(models: ModelStatuses) -> None:
    """Each new worker loaded it and died, with the drawings of all other models, for ever."""
    for deaths in range(2):
        assert models.may_preload("torn")
        models.worker_up()
        models.moved("mini", ModelState.LOADING)  # expected, as it is preloaded too
        models.told("torn", ModelState.LOADING, "")
        models.worker_lost({"mini", "torn"})
        assert models["torn"].state is (ModelState.BROKEN if deaths else ModelState.UNLOADED)
    assert models["mini"].state is ModelState.UNLOADED
    assert models.may_preload("mini")
    models.worker_up()
    assert not models.may_preload("torn")
    assert models.tried([TORN])  # so that the server is ready without it
    models["torn"].since_s = time.monotonic() - 60  # what is merely broken would be tried again
    with pytest.raises(ModelUnavailable):
        models.require("torn", "dall-e-2")
    models["torn"].since_s = time.monotonic() - 601
    models.require("torn", "dall-e-2")
    assert models.may_preload("torn")


def test_a_load_that_came_to_its_end_wipes_out_what_ended_before(models: ModelStatuses) -> None:
    for _ in range(3):
        models.told("mini", ModelState.LOADING, "")
        models.worker_lost()
        models.told("mini", ModelState.LOADING, "")
        models.told("mini", ModelState.READY, "")
        models.worker_lost({"mini"})
    assert models["mini"].state is ModelState.UNLOADED


def test_a_worker_that_ends_before_it_says_what_it_loads_is_counted_against_what_was_wanted(
    models: ModelStatuses,
) -> None:
    models.told("mini", ModelState.READY, "")
    for _ in range(2):
        models.worker_lost({"mini", "torn"})
        models.told("mini", ModelState.READY, "")
    assert (models["mini"].state, models["torn"].state) == (ModelState.READY, ModelState.BROKEN)


def test_what_is_only_said_again_keeps_what_the_load_took(models: ModelStatuses) -> None:
    models.told("mini", ModelState.READY, "", seconds=9.0, size=7)
    models.told("mini", ModelState.READY, "", seconds=0.0, size=7)
    assert models["mini"].loads.disk_s == 9.0


@pytest.mark.parametrize("ends_worker", [False, True])
def test_an_entry_that_is_changed_and_changed_back_while_it_is_loaded(models: ModelStatuses, ends_worker: bool) -> None:
    """The load was never over for the front, which killed the worker in the end."""
    models.told("mini", ModelState.LOADING, "", MINI.mark)
    models.serve([ModelPlan("mini", "/mini", "other", dtype="float16"), TORN])
    assert models.loading
    models.serve([MINI, TORN])
    states = [models["mini"].state]
    if ends_worker:
        models.worker_lost({"torn"})
        assert (models._deaths["mini"], models._deaths["torn"]) == (1, 0)
    else:
        models.told("mini", ModelState.READY, "", MINI.mark, 9.0)
    states.append(models["mini"].state)
    assert states == [ModelState.LOADING, ModelState.UNLOADED if ends_worker else ModelState.READY]
    assert not models.loading
