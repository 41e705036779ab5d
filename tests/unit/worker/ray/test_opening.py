"""What has to be right before Ray is started or joined, and what is said where it is not. Without Ray."""

from __future__ import annotations

import importlib.util
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from server.errors import ConfigError
from server.settings import Settings
from server.worker.devices import WorkerDevice
from server.worker.ray import opening, token


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (token.TOKEN, token.TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def _has_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def cluster(data_dir: Path, address: str = "local", **settings: Any) -> Settings:
    return Settings(cluster=address, data_dir=data_dir, **settings)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as refused:
        opening.open_cluster(cluster(tmp_path), ())
    assert str(refused.value) == (
        "DARKROOM_CLUSTER (--cluster) = local: Ray is not installed; `pip install 'darkroom[ray]'` brings it"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_of_its_own_has_a_token_that_its_owner_alone_reads(tmp_path: Path) -> None:
    path = token.make_own(cluster(tmp_path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert len(text) == 64
    assert token.make_own(cluster(tmp_path)).read_text() == text, "two servers of one folder have one token"
    assert [each.name for each in tmp_path.iterdir()] == ["ray_token"]


def test_a_token_that_others_read_is_refused(tmp_path: Path) -> None:
    path = token.make_own(cluster(tmp_path))
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        token.make_own(cluster(tmp_path))


def test_a_short_token_is_refused_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(token.TOKEN, "hunter2")
    with pytest.raises(ConfigError, match="fewer than 16 characters") as refused:
        token.check_given(cluster(tmp_path, "head:6379"))
    assert "hunter2" not in str(refused.value)


def test_a_cluster_is_not_joined_without_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN_PATH"):
        token.check_given(cluster(tmp_path, "head:6379"), home=tmp_path)
    monkeypatch.setenv(token.TOKEN_PATH, str(tmp_path / "away"))
    with pytest.raises(ConfigError, match="cannot be read"):
        token.check_given(cluster(tmp_path, "head:6379"))
    own = tmp_path / ".ray" / "auth_token"
    own.parent.mkdir()
    own.write_text("0" * 32)
    own.chmod(0o600)
    monkeypatch.delenv(token.TOKEN_PATH)
    token.check_given(cluster(tmp_path, "head:6379"), home=tmp_path)


@pytest.mark.usefixtures("_has_ray")
def test_a_head_that_nobody_reaches_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself tries for a minute, and says that it may have been stopped."""
    monkeypatch.setenv(token.TOKEN, "0" * 32)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(ConfigError, match=f"{address}: no cluster can be reached there"):
        opening.open_cluster(cluster(tmp_path, address), ())


@pytest.mark.usefixtures("_has_ray")
def test_devices_of_two_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not both"):
        opening.open_cluster(cluster(tmp_path), (WorkerDevice("cuda:0", "cuda"), WorkerDevice("cpu", "cpu")))


@pytest.mark.usefixtures("_has_ray")
@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_a_device_that_ray_does_not_place_is_refused(tmp_path: Path, kind: str) -> None:
    """What was drawn on was the CPU."""
    with pytest.raises(ConfigError, match=f"Ray places nothing on {kind}; name CUDA devices or cpu"):
        opening.open_cluster(cluster(tmp_path, devices=kind), (WorkerDevice(kind, kind),))


def test_ray_is_told_to_ask_for_the_token_and_to_tell_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"RAY_ADDRESS": "elsewhere:6379", "DARKROOM_SIGNING_KEY": "canary", "PATH": os.environ["PATH"]}
    opening.prepare(environment, loopback=True)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert not environment.keys() & {"RAY_ADDRESS", "DARKROOM_SIGNING_KEY"}
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in _prepared(loopback=False)


def _prepared(*, loopback: bool) -> dict[str, str]:
    environment: dict[str, str] = {}
    opening.prepare(environment, loopback=loopback)
    return environment
