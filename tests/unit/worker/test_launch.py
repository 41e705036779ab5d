"""What a worker process finds in its environment."""

from __future__ import annotations

import pytest

from server.worker.devices import WorkerDevice
from server.worker.launch import environment


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)


def test_threads_that_wait_for_each_other_soon_sleep() -> None:
    """They spun for some 10 ms on a core that the awaited one needed: a step took 160 times as long."""
    assert environment(WorkerDevice())["GOMP_SPINCOUNT"] == "5000"


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")])
def test_how_they_wait_is_the_owners_to_say(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    found = environment(WorkerDevice())
    assert {key: found[key] for key in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if key in found} == {name: value}


def test_the_threads_of_a_device_are_those_of_all_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment(WorkerDevice(threads=3))["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert environment(WorkerDevice())["OMP_NUM_THREADS"] == "5"


def test_our_settings_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has no use for the signing key."""
    monkeypatch.setenv("DARKROOM_SIGNING_KEY", "0123456789abcdef")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert not [name for name in environment(WorkerDevice()) if name.startswith(("DARKROOM_", "RAY_"))]
