"""A test that does not end in its time is told by name, with every thread's stack, wherever it ran.

pytest-timeout prints what it knows and ends the process. The processes of xdist have no terminal: what it printed was
lost there, and all that a run said was that a worker had gone.
"""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

_ERRORS = pytest.StashKey[int]()
_CANCEL = pytest.StashKey[Callable[[], None]]()


def pytest_configure(config: pytest.Config) -> None:
    """Here nothing is captured yet."""
    config.stash[_ERRORS] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_ERRORS])


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """Takes over from pytest-timeout in the processes of xdist, where a thread is to end the test."""
    if settings.method != "thread" or not hasattr(item.config, "workerinput"):
        return None
    timer = threading.Timer(settings.timeout, _end, (item, settings.timeout))
    timer.daemon = True
    timer.start()
    item.stash[_CANCEL] = timer.cancel
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool | None:
    cancel = item.stash.get(_CANCEL, None)
    if cancel is None:
        return None
    cancel()
    return True


def _end(item: pytest.Item, timeout_s: float) -> None:
    errors = item.config.stash[_ERRORS]
    os.write(errors, f"\n{item.nodeid} has not ended in {timeout_s:g} s. What its threads do:\n".encode())
    faulthandler.dump_traceback(errors, all_threads=True)
    os._exit(1)
