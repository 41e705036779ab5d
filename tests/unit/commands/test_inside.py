"""A server inside this process: what it takes of the settings, and what not."""

from __future__ import annotations

import sys

import pytest

from server import interpreter
from server.commands.inside import opened
from server.errors import ConfigError
from server.settings import Settings
from server.worker.launch import Early

pytestmark = pytest.mark.anyio


async def test_local_draws_here_though_a_cluster_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """With DARKROOM_CLUSTER set, ``--local`` waited for replicas that nobody had connected, and then did not end."""
    taken: list[Settings] = []

    def create(settings: Settings, begun: Early) -> None:
        assert [device.setting for device in begun.devices] == ["cpu"]
        taken.append(settings)
        raise ConfigError("seen")

    monkeypatch.setattr("server.app.create_app", create)
    monkeypatch.setattr(interpreter, "python", lambda module: [sys.executable, "-c", ""])
    with pytest.raises(ConfigError, match="seen"):
        async with opened(Settings(cluster="local", store="s3://bucket", devices="cpu")):
            pass
    assert [(each.cluster, each.store) for each in taken] == [(None, "local")]
