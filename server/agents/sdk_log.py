"""What the SDK logs, as this server logs: where an exception came from, and nothing of its text.

The SDK writes tracebacks of whatever a peer's messages make it raise, and those quote the messages: prompts are in
them. Its warnings tell of malformed messages, which their sender is told of.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

_LOGGERS = ("mcp", "sse_starlette")


class _Untold(logging.Handler):
    def __init__(self, tell: Callable[[BaseException], None]) -> None:
        super().__init__(logging.ERROR)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._tell(record.exc_info[1])


def quieten(tell: Callable[[BaseException], None]) -> None:
    """Let ``tell`` hear of exceptions, and the log of nothing else. May be called again."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.handlers[:] = [_Untold(tell)]
