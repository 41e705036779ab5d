"""What a worker's messages say of its models and of its device, noted where it is asked for.

Knows messages, statuses and metrics; knows neither processes nor drawings.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from server.telemetry import Metrics
from server.worker import protocol
from server.worker.cost import Cost
from server.worker.status import ModelState, ModelStatuses

log = logging.getLogger("darkroom.worker")

News = protocol.Moved | protocol.LoadProgress | protocol.Checked | protocol.Cost | protocol.Graphs | protocol.Tally


def note(news: News, models: ModelStatuses, metrics: Metrics, device: str, named: Mapping[str, str]) -> None:
    """Note what a message says. ``named`` tells in the log which of several workers said it."""
    match news:
        case protocol.Moved(key, place, reason, seconds, mark, size, room):
            if place == ModelState.BROKEN:
                log.error("model cannot be served", extra={"model": key, "reason": reason, **named})
            models.told(key, ModelState(place), reason, mark, seconds, size)
            models.room = room or models.room
        case protocol.LoadProgress(key, components, forwards):
            log.debug("model loads", extra={"model": key, "components": components, "forwards": forwards, **named})
        case protocol.Checked(key, shared, reason, mark):
            models.checked(key, shared, reason, mark)
        case protocol.Cost(key, fixed_s, row_s, pixels, most_rows, mark, steps, guess):
            models.costs(key, Cost(fixed_s, row_s, pixels, most_rows, steps, guess), mark)
        case protocol.Graphs():
            models.graphs(news)
        case protocol.Tally(counts, memory):
            metrics.tell(counts, memory, device)
