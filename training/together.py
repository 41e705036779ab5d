"""Several processes that learn as one, each on its own core: every step learns from the mean of their gradients.

Knows torch.distributed and processes; knows nothing of networks. Two threads of one process wait for each other at
every operation, and two processes meet once a step: on two cores 35 samples a second of the UNet, where threads gave
32. The first process starts the others, and alone it tells the time, prints, and writes.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

RANK, WORLD, MEETING = "DARKROOM_TRAINING_RANK", "DARKROOM_TRAINING_WORLD", "DARKROOM_TRAINING_MEETING"
PATIENCE = timedelta(hours=1)  # that the others wait while the first draws a sheet


def size() -> int:
    """How many processes learn as one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; the first is 0."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def processes(count: int, command: Sequence[str]) -> Iterator[None]:
    """Be one of so many processes. The first starts the others by ``command``, which is its own, and waits for them."""
    if RANK in os.environ:
        with _joined(int(os.environ[RANK]), int(os.environ[WORLD]), os.environ[MEETING]):
            yield
    elif count < 2:
        yield
    else:
        with tempfile.TemporaryDirectory() as folder:
            meeting = str(Path(folder) / "meeting")
            others = [_started(number, count, meeting, command) for number in range(1, count)]
            try:
                with _joined(0, count, meeting):
                    yield
                for other in others:
                    if code := other.wait():
                        raise RuntimeError(f"another process of the training ended with {code}")
            finally:
                for other in others:
                    other.kill()


def _started(number: int, count: int, meeting: str, command: Sequence[str]) -> "subprocess.Popen[bytes]":
    told = {RANK: str(number), WORLD: str(count), MEETING: meeting}
    return subprocess.Popen(  # noqa: S603 - this program's own command
        command, env={**os.environ, **told}, stdout=subprocess.DEVNULL
    )


@contextmanager
def _joined(number: int, count: int, meeting: str) -> Iterator[None]:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever the machine's own name leads to
    dist.init_process_group("gloo", f"file://{meeting}", PATIENCE, count, number)
    try:
        yield
    finally:
        dist.destroy_process_group()


def as_the_first(*values: float) -> tuple[float, ...]:
    """The first process's values, everywhere: clocks differ, and all must do the same."""
    if size() == 1:
        return values
    told = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(told, 0)
    return tuple(told.tolist())


@torch.no_grad()
def mean_(tensors: Sequence[Tensor]) -> None:
    """Replace the tensors by the means over all processes."""
    if size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    dist.all_reduce(flat)
    pieces = torch.split(flat.div_(size()), [tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [p.view(t.shape) for p, t in zip(pieces, tensors, strict=True)])
