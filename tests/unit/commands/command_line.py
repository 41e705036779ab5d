"""The command line as somebody types it, in this process."""

from __future__ import annotations

import pytest

from server.cli import main


def run(*arguments: str) -> int:
    """The exit code of ``darkroom`` with these arguments."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code
