"""Server-sent events, as a client reads them."""

from __future__ import annotations

import json
from typing import Any


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Type and data of every whole event; comments left out. Fails on a frame that is neither."""
    found = []
    for frame in text.split("\n\n")[:-1]:
        if frame.startswith(": "):
            continue
        first, second = frame.split("\n")
        kind, data = first.removeprefix("event: "), json.loads(second.removeprefix("data: "))
        assert first.startswith("event: "), frame[:200]
        assert second.startswith("data: "), frame[:200]
        assert data["type"] == kind
        found.append((kind, data))
    return found


def kinds(text: str) -> list[str]:
    return [kind for kind, _ in events(text)]
