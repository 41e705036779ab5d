"""The worker process: reads messages from the inherited socket, draws, writes messages back.

Started by module name with the socket's file descriptor; the only module above ``pipelines`` that imports
torch. Knows the protocol and the engine; never speaks HTTP, opens no port, fetches nothing.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

# Before any import that reads them: nothing is ever fetched, nothing is ever reported.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DIFFUSERS_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    TRANSFORMERS_VERBOSITY="error",
    DIFFUSERS_VERBOSITY="error",
)

import msgspec
import torch

from pipelines import images, loader, residency, selfcheck
from pipelines.embeddings import EmbeddingCache
from pipelines.engine import Engine
from pipelines.errors import Cancelled, DrawError
from pipelines.loader import LoadedModel
from pipelines.plan import DrawJob, ModelPlan
from pipelines.spec import Encoding
from server.telemetry import configure_logging
from server.worker import protocol

log = logging.getLogger("darkroom.worker")


class Link:
    """The socket to the front. Sending never waits for the reader: a thread of its own writes what is queued."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._outbox: queue.SimpleQueue[protocol.ToFront | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="link", daemon=True)
        self._writer.start()

    def send(self, message: protocol.ToFront) -> None:
        self._outbox.put(message)

    def receive(self) -> protocol.ToWorker | None:
        body = protocol.receive(self._socket)
        return None if body is None else protocol.unpack_to_worker(body)

    def close(self) -> None:
        """Write what is still queued."""
        self._outbox.put(None)
        self._writer.join()

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._socket.sendall(protocol.pack(message))
            except OSError:
                return  # the front is gone; the reading thread ends the process


class Reporter:
    """Turns the engine's events into messages; encodes pictures on threads of its own, off the step loop."""

    def __init__(self, link: Link) -> None:
        workers = max(1, min(4, os.cpu_count() or 1))
        self._link = link
        self._encoders = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="encode")
        self.encodings: dict[str, Encoding] = {}  # by job id
        self._started: dict[str, float] = {}  # monotonic

    def started(self, job: DrawJob) -> None:
        self._started[job.job_id] = time.monotonic()
        self._link.send(protocol.Started(job.job_id))

    def progress(self, job: DrawJob, done: int, of: int) -> None:
        self._link.send(protocol.Progress(job.job_id, done, of))

    def previewed(self, job: DrawJob, done: int, of: int, picture: torch.Tensor) -> None:
        """Nobody can ask for previews yet: jobs come with none."""

    def drawn(self, job: DrawJob, drawn: torch.Tensor) -> None:
        seconds = time.monotonic() - self._started.pop(job.job_id)
        self._encoders.submit(self._encode, job, images.to_frames(drawn), seconds)

    def failed(self, job: DrawJob, error: DrawError) -> None:
        self.encodings.pop(job.job_id, None)
        self._started.pop(job.job_id, None)
        self._link.send(protocol.Failed(job.job_id, type(error).__name__, str(error)))

    def close(self) -> None:
        self._encoders.shutdown(wait=True)

    def _encode(self, job: DrawJob, frames: images.Frames, seconds: float) -> None:
        encoding = self.encodings.pop(job.job_id)
        try:
            pictures = frames.arrays()
            done = []
            for index, seed in enumerate(job.seeds):
                spec = msgspec.structs.replace(job.spec, seed=seed)
                done.append(images.encode(images.finish(pictures[index], spec), spec, encoding, index))
        except Exception as error:  # a picture that cannot be encoded ends its own job, not the worker
            self._link.send(protocol.Failed(job.job_id, type(error).__name__, str(error)))
        else:
            self._link.send(protocol.Finished(job.job_id, tuple(done), seconds))


class Device:
    """One device: its models, its engine, and the thread that loads while the engine draws."""

    def __init__(self, where: torch.device, link: Link) -> None:
        self._link = link
        self._where = where
        self.reporter = Reporter(link)
        self._embeddings = EmbeddingCache()
        self._engine = Engine(self.reporter, embeddings=self._embeddings)
        budget, host_budget = residency.measure_budget(where)
        self._residency = residency.Residency(
            self._load, self._size_of, self._moved, device=where, budget=budget, host_budget=host_budget
        )
        self._behind_load: set[str] = set()  # jobs that wait for their model
        self._loads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")

    def preload(self, plan: ModelPlan) -> None:
        self._loads.submit(self._pin_and_go_on, plan, None)

    def draw(self, job: DrawJob) -> None:
        """At once if the model is on the device; behind its load if it is not. Other models go on meanwhile."""
        model = self._residency.pin_if_ready(job.plan)
        if model is not None:
            self._submit(model, job)
        else:
            self._behind_load.add(job.job_id)
            self._loads.submit(self._pin_and_go_on, job.plan, job)

    def cancel(self, job_id: str) -> None:
        self._behind_load.discard(job_id)
        self._engine.cancel(job_id)

    def close(self) -> None:
        """Finish what was sent."""
        self._loads.shutdown(wait=True)
        self._engine.close()
        self.reporter.close()

    def _pin_and_go_on(self, plan: ModelPlan, job: DrawJob | None) -> None:
        try:
            model = self._residency.pin(plan)
        except DrawError as error:
            if job is not None:
                self.reporter.failed(job, error)
            return
        if job is not None and job.job_id in self._behind_load:
            self._behind_load.discard(job.job_id)
            self._submit(model, job)
            return
        self._residency.unpin(plan)
        if job is not None:
            self.reporter.failed(job, Cancelled("the client left"))

    def _submit(self, model: LoadedModel, job: DrawJob) -> None:
        self._engine.submit(model, job, done=lambda: self._left(job))

    def _left(self, job: DrawJob) -> None:
        self._residency.unpin(job.plan)
        cache = {"embedding_hits": self._embeddings.hits, "embedding_misses": self._embeddings.misses}
        self._link.send(protocol.Tally({**self._engine.counts, **cache}))

    def _load(self, plan: ModelPlan) -> LoadedModel:
        # On a thread that ends with it. OpenMP keeps helpers for every thread that has computed, and once there are
        # more of them than cores they sleep at every barrier instead of spinning: steps took 1.7 times as long.
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="load") as once:
            return once.submit(self._load_and_check, plan).result()

    def _load_and_check(self, plan: ModelPlan) -> LoadedModel:
        model = loader.load(plan, self._where)
        selfcheck.check(model)
        if not model.shared:
            log.warning("model runs unshared", extra={"model": plan.key, "reason": model.reason})
        self._link.send(protocol.Checked(plan.key, model.shared, model.reason))
        return model

    def _size_of(self, plan: ModelPlan) -> int:
        return loader.weight_bytes(plan, self._where)

    def _moved(self, key: str, place: residency.Place, reason: str, seconds: float) -> None:
        self._link.send(protocol.Moved(key, str(place), reason, round(seconds, 3)))


def serve(sock: socket.socket, device_setting: str) -> None:
    """Read and obey messages until the front says stop or goes away."""
    loader.quiet_libraries()
    link = Link(sock)
    where = loader.choose_device(device_setting)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    device = Device(where, link)
    link.send(protocol.Hello(str(where), name, str(torch.__version__)))
    while (message := link.receive()) is not None:
        match message:
            case protocol.Load(plan):
                device.preload(plan)
            case protocol.Draw(job, encoding):
                device.reporter.encodings[job.job_id] = encoding
                device.draw(job)
            case protocol.Cancel(job_id):
                device.cancel(job_id)
            case protocol.Stop():
                break
    if message is None:
        os._exit(1)  # the front is gone: nobody waits for what is still being drawn
    device.close()
    link.close()


def _die(failure: threading.ExceptHookArgs) -> None:
    log.critical(
        "worker thread failed", exc_info=(failure.exc_type, failure.exc_value or Exception(), failure.exc_traceback)
    )
    sys.stderr.flush()
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--log-level", default="info")
    arguments = parser.parse_args()
    configure_logging(arguments.log_level, process="worker")
    # Ctrl-C reaches the whole process group; the front decides when the worker stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.excepthook = _die  # a thread of ours that fails would leave jobs waiting for ever
    code = 0
    try:
        with socket.socket(fileno=arguments.fd) as sock:
            serve(sock, arguments.device)
    except OSError:
        code = 1  # the front is gone
    except Exception:
        log.exception("worker failed")
        code = 1
    # At once: a thread that still waits would keep the process for ever, and Python takes seconds to unload torch.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
