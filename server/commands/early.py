"""Workers that start before the server that they are of: they import torch, which takes longest, while it imports.

Knows settings, devices and processes; imports little, as all of it is waited for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.settings import Settings
    from server.worker.launch import Early


@contextlib.contextmanager
def workers(settings: Settings) -> Iterator[Early | None]:
    """Worker processes for a server with these settings; None for one that draws elsewhere. Those that nobody
    uses end with the block. Raises ConfigError for devices that are not there."""
    from server.worker.devices import find
    from server.worker.launch import Early

    if settings.cluster is not None:
        yield None
        return
    begun = Early(settings, find(settings))
    try:
        yield begun
    finally:
        begun.close()
