"""What the front makes of its worker's messages."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest

from pipelines.plan import ModelPlan
from server.settings import Settings
from server.telemetry import Metrics
from server.worker import protocol
from server.worker.local import LocalWorker


def test_a_client_that_left_is_no_failure_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    worker = LocalWorker(Settings(), [], [], Metrics())
    with caplog.at_level(logging.INFO):
        asyncio.run(worker._on_message(protocol.Failed("job_1", "Cancelled", "the client left")))
    assert not caplog.records


class Wire:
    """Takes what is sent to the child."""

    def write(self, data: bytes) -> None:
        pass

    async def drain(self) -> None:
        pass


def test_a_server_stays_ready_when_a_preloaded_model_makes_room_for_another() -> None:
    """It was taken out of a balancer for serving a request for its second model."""
    mini, broken = ModelPlan("mini", "/mini", "other"), ModelPlan("broken", "/broken", "other")
    worker = LocalWorker(Settings(), [mini, broken], [mini, broken], Metrics())
    worker._writer = cast(Any, Wire())

    def told(*messages: protocol.ToFront) -> bool:
        for message in messages:
            asyncio.run(worker._on_message(message))
        return worker.settled

    hello = protocol.Hello("cpu", "CPU", "2")
    assert not told(hello)
    assert not told(protocol.Moved("mini", "loading", "", 0.0), protocol.Moved("mini", "ready", "", 1.0))
    assert told(protocol.Moved("broken", "broken", "torn", 0.1))
    for place in ("unloaded", "loading", "ready", "offloaded"):
        assert told(protocol.Moved("mini", place, "", 0.0)), place
    assert told(protocol.Moved("broken", "loading", "", 0.0))
    assert not told(hello)  # the next worker's, which has none of them yet
    assert not told(protocol.Moved("broken", "broken", "torn", 0.1))
    assert told(protocol.Moved("mini", "ready", "", 1.0))
