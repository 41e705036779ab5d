"""One record, one line, whatever is in it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from server.telemetry import JsonLines, Metrics, Seldom


@pytest.mark.parametrize(
    "text", ['\n{"level": "error"}', "\r\n", '"', "\\", "\x00", "\u2028", "\ud800", "☕", "\x1b[31m"]
)
def test_no_text_forges_a_record(text: str) -> None:
    record = logging.LogRecord("darkroom.x", logging.INFO, "f", 1, "said %s", (text,), None)
    record.field = text
    record.thing = object
    line = JsonLines("front").format(record)
    assert "\n" not in line
    assert "\r" not in line
    line.encode("ascii")
    read = json.loads(line)
    assert (read["level"], read["process"], read["message"], read["field"]) == ("info", "front", f"said {text}", text)


def test_two_servers_in_one_process_share_no_metrics() -> None:
    one, other = Metrics(), Metrics()
    one.steps.inc()
    assert other.registry.get_sample_value("darkroom_steps_total") == 0
    assert one.registry.get_sample_value("darkroom_steps_total") == 1


def test_a_thousand_malformed_connections_are_one_line_and_a_number() -> None:
    """uvicorn warns of each, and anybody filled the log with them."""
    now = [0.0]
    seldom = Seldom("uvicorn", clock=lambda: now[0])

    def told(name: str = "uvicorn.error", level: int = logging.WARNING, line: int = 1, **more: Any) -> object:
        record = logging.LogRecord(name, level, "f.py", line, f"Invalid {now}", (), more.get("exc_info"))
        return seldom.filter(record) and getattr(record, "left_out", 0)

    assert [told() for _ in range(1000)] == [0] + [False] * 999
    assert told(line=2) == 0  # of another kind
    assert [told("darkroom.jobs") for _ in range(2)] == [0, 0]
    assert [told(level=logging.ERROR) for _ in range(2)] == [0, 0]
    assert [told(exc_info=(None, None, None)) for _ in range(2)] == [0, 0]
    now[0] = 9.9
    assert told() is False
    now[0] = 10.0
    assert [told(), told()] == [1000, False]
    now[0] = 20.0
    assert told() == 1
