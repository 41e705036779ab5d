"""What the front makes of its worker's messages."""

from __future__ import annotations

import asyncio
import logging

import pytest

from server.settings import Settings
from server.telemetry import Metrics
from server.worker import protocol
from server.worker.local import LocalWorker


def test_a_client_that_left_is_no_failure_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    worker = LocalWorker(Settings(), [], [], Metrics())
    with caplog.at_level(logging.INFO):
        asyncio.run(worker._obey(protocol.Failed("job_1", "Cancelled", "the client left")))
    assert not caplog.records
