"""One record, one line, whatever is in it."""

from __future__ import annotations

import json
import logging

import pytest

from server.telemetry import JsonLines, Metrics


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
