"""The engine: takes jobs, draws them on one device, tells a sink what happens.

Knows runs and steps; knows neither HTTP, nor pipes, nor how pictures are encoded. One run at a time: the
seam for step batching is here, behind ``submit`` and ``cancel``.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from pipelines import images
from pipelines.call import call_arguments
from pipelines.errors import Cancelled, DrawError, OutOfMemory
from pipelines.loader import LoadedModel
from pipelines.plan import DrawJob, ModelPlan
from pipelines.view import bind

log = logging.getLogger("darkroom.engine")


class Sink(Protocol):
    """Who is told. Called from the engine's thread; must return at once."""

    def started(self, job: DrawJob) -> None: ...
    def progress(self, job: DrawJob, done: int, of: int) -> None: ...
    def drawn(self, job: DrawJob, pictures: npt.NDArray[np.uint8]) -> None: ...
    def failed(self, job: DrawJob, error: DrawError) -> None: ...


class Engine:
    """Draws jobs in the order they came, one at a time, on a thread of its own."""

    def __init__(self, load: Callable[[ModelPlan], LoadedModel], sink: Sink) -> None:
        self._load = load
        self._sink = sink
        self._waiting: queue.SimpleQueue[DrawJob | None] = queue.SimpleQueue()
        self._cancelled: set[str] = set()  # of jobs that are waiting or running
        self._present: set[str] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="engine")
        self._thread.start()

    def submit(self, job: DrawJob) -> None:
        with self._lock:
            self._present.add(job.job_id)
        self._waiting.put(job)

    def cancel(self, job_id: str) -> None:
        """Stop a job at its next step, or before it starts. A job that has ended is left alone."""
        with self._lock:
            if job_id in self._present:
                self._cancelled.add(job_id)

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            try:
                self._check(job)
                self._draw(job)
            except DrawError as error:
                self._sink.failed(job, error)
            except torch.OutOfMemoryError:
                self._sink.failed(job, OutOfMemory("the device has no room for this picture"))
            except Exception as error:
                log.exception("run failed", extra={"job": job.job_id, "model": job.plan.key})
                self._sink.failed(job, DrawError(f"{type(error).__name__}: {error}"))
            finally:
                with self._lock:
                    self._present.discard(job.job_id)
                    self._cancelled.discard(job.job_id)

    def _draw(self, job: DrawJob) -> None:
        model = self._load(job.plan)
        pipeline = model.pipeline(job.spec.task)
        view = bind(
            pipeline,
            scheduler=job.spec.scheduler,
            before_step=lambda: self._check(job),
            after_step=lambda done, of: self._sink.progress(job, done, of),
        )
        self._sink.started(job)
        started = time.monotonic()
        with torch.no_grad():
            drawn = view(**call_arguments(view, model.family, job.spec, job.seeds)).images
            pictures = images.to_uint8(drawn)
        log.info(
            "job drawn",
            extra={"job": job.job_id, "n": len(job.seeds), "seconds": round(time.monotonic() - started, 3)},
        )
        self._sink.drawn(job, pictures)

    def _check(self, job: DrawJob) -> None:
        if job.job_id in self._cancelled:
            raise Cancelled("the client left")
