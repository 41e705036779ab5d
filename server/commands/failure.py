"""The failure of a command. Knows nothing else: the command line catches it, whichever command runs."""

from __future__ import annotations


class CommandFailed(Exception):
    """What the command line says before it ends with 1: what is wrong, and what helps."""
