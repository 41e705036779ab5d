"""A bar for bytes that are read or fetched, on standard error. Knows nothing of whose they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

Report = Callable[[int], None]  # of bytes more


@contextmanager
def bars(*, time_left: bool = False) -> Iterator[Progress]:
    """Room for bars, a task each."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    left = (TimeRemainingColumn(),) if time_left else ()
    with Progress(*columns, *left, console=Console(stderr=True)) as progress:
        yield progress


@contextmanager
def bar(name: str, total: int) -> Iterator[Report]:
    """One bar; what it yields is told of bytes."""
    with bars() as progress:
        task = progress.add_task(name, total=total)
        yield lambda more: progress.advance(task, more)
