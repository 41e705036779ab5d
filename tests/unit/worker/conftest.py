from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from tests.unit.worker.children import Child, Children


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    """The worker processes that were started, in order."""
    queue = Children()
    of_pid: dict[int, Child] = {}

    async def start(*command: str, pass_fds: list[int], **options: Any) -> Child:
        pid = 2**31 - 1 - len(of_pid)  # nobody's: no system numbers its processes so high
        child = of_pid[pid] = Child(pid, *pass_fds)
        await child.listen()
        queue.put_nowait(child)
        return child

    monkeypatch.setattr(os, "kill", lambda pid, number: of_pid[pid].end(-number))
    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    return queue
