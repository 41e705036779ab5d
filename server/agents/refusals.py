"""The failure of a tool's call. Knows nothing else; whoever speaks the protocol makes a tool error of it."""

from __future__ import annotations


class CallFailed(Exception):
    """What the agent is told: what is wrong, and what helps. Carries no keys, and no prompt."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code  # of the API's error, where that is what failed
