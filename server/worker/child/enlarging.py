"""Enlarging: what is drawn, or was sent, brought to its size by a super-resolution network, off the engine's thread.

Knows networks, drawings and the front's messages; knows neither the engine nor codecs. One drawing after another, on a
thread of its own: on the CPU its tiles are computed by as many threads of one core as the engine has, and where the
engine draws meanwhile, by half as many; on CUDA on a stream of its own. What has no room for a network, or fails by it,
is left to Lanczos, and the log says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from PIL import Image

from pipelines.errors import BadPicture, Cancelled, OutOfMemory, is_device_lost
from pipelines.models.crew import Crew
from pipelines.models.upscaler import Upscaler
from server.worker import protocol
from server.worker.child.link import Link

log = logging.getLogger("darkroom.worker")

_SIGN_S = 0.5  # between two signs of life: a network may take minutes on a CPU


@dataclass(frozen=True)
class Enlargement:
    """A network that a drawing has, until ``release`` is called."""

    network: Upscaler
    release: Callable[[], None]


class Enlarging:
    """The enlargements of one device."""

    def __init__(self, link: Link, is_busy: Callable[[], bool]) -> None:
        """``is_busy``: does the engine draw now?"""
        self._link = link
        self._is_busy = is_busy
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="enlarge")
        self._crews: dict[int, Crew] = {}
        self._stopped: dict[str, threading.Event] = {}  # by the drawings that are here

    def submit(self, job_id: str, work: Callable[[], None]) -> Future[None]:
        """Have ``work`` done, which calls ``enlarge``, when those that came before have been."""
        self._stopped[job_id] = threading.Event()

        def run() -> None:
            try:
                work()
            finally:
                del self._stopped[job_id]

        return self._thread.submit(run)

    def cancel(self, job_id: str) -> None:
        """Stop a drawing's enlargement at its next tile, if it is here."""
        stopped = self._stopped.get(job_id)
        if stopped is not None:
            stopped.set()

    def close(self) -> None:
        """Do what was submitted."""
        self._thread.shutdown(wait=True)
        for crew in self._crews.values():
            crew.close()

    def enlarge(
        self, job_id: str, network: Upscaler, pictures: Sequence[Image.Image], factor: float, sign: tuple[int, int]
    ) -> list[Image.Image] | None:
        """The pictures, at least ``factor`` times as large; None where it cannot be done, and Lanczos must. Says
        meanwhile that it goes on, at step ``sign[0]`` of ``sign[1]``. Raises Cancelled."""
        stopped, said_s = self._stopped[job_id], time.monotonic()

        def tick(done: int, of: int) -> None:
            nonlocal said_s
            if stopped.is_set():
                raise Cancelled("the client left")
            if time.monotonic() - said_s >= _SIGN_S:
                said_s = time.monotonic()
                self._link.send(protocol.Progress(job_id, *sign, 0))

        tick(0, 1)
        try:
            return network.enlarge(pictures, factor, crew=self._crew(), tick=tick)
        except (Cancelled, torch.AcceleratorError):
            raise
        except (OutOfMemory, BadPicture) as error:
            reason = str(error)
        except Exception as error:  # no network is worth a picture
            if is_device_lost(error):
                raise
            reason = f"{type(error).__name__}: {error}"
        log.error("upscaled by Lanczos", extra={"drawing": job_id, "upscaler": network.name, "reason": reason})
        return None

    def _crew(self) -> Crew:
        threads = torch.get_num_threads()
        threads = max(1, threads // 2) if self._is_busy() else threads
        if threads not in self._crews:
            self._crews[threads] = Crew(threads)
        return self._crews[threads]
