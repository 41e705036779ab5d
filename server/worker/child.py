"""The worker process: reads messages from the inherited socket, draws, writes messages back.

Started by module name with the socket's file descriptor; the only module above ``pipelines`` that imports
torch. Knows the protocol and the engine; never speaks HTTP, opens no port, fetches nothing.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

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

from pipelines.errors import DrawError
from pipelines.plan import DrawJob, ModelPlan
from pipelines.spec import Encoding
from server.telemetry import configure_logging
from server.worker import protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pipelines.loader import LoadedModel

log = logging.getLogger("darkroom.worker")


class Link:
    """The socket to the front; messages may be sent from any thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()

    def send(self, message: protocol.ToFront) -> None:
        frame = protocol.pack(message)
        with self._lock:
            self._socket.sendall(frame)

    def receive(self) -> protocol.ToWorker | None:
        body = protocol.receive(self._socket)
        return None if body is None else protocol.unpack_to_worker(body)


class Reporter:
    """Turns the engine's events into messages; encodes pictures on threads of its own, off the step loop."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._encoders = ThreadPoolExecutor(
            max_workers=max(1, min(4, os.cpu_count() or 1)), thread_name_prefix="encode"
        )
        self.encodings: dict[str, Encoding] = {}  # by job id
        self._started: dict[str, float] = {}  # monotonic

    def started(self, job: DrawJob) -> None:
        self._started[job.job_id] = time.monotonic()
        self._link.send(protocol.Started(job.job_id))

    def progress(self, job: DrawJob, done: int, of: int) -> None:
        self._link.send(protocol.Progress(job.job_id, done, of))

    def drawn(self, job: DrawJob, pictures: npt.NDArray[np.uint8]) -> None:
        seconds = time.monotonic() - self._started.pop(job.job_id)
        self._encoders.submit(self._encode, job, pictures, seconds)

    def failed(self, job: DrawJob, error: DrawError) -> None:
        self.encodings.pop(job.job_id, None)
        self._started.pop(job.job_id, None)
        self._link.send(protocol.Failed(job.job_id, type(error).__name__, str(error)))

    def close(self) -> None:
        self._encoders.shutdown(wait=True)

    def _encode(self, job: DrawJob, pictures: npt.NDArray[np.uint8], seconds: float) -> None:
        from pipelines import images

        encoding = self.encodings.pop(job.job_id)
        try:
            done = []
            for index, seed in enumerate(job.seeds):
                spec = msgspec.structs.replace(job.spec, seed=seed)
                done.append(images.encode(images.finish(pictures[index], spec), spec, encoding, index))
        except Exception as error:  # a picture that cannot be encoded ends its own job, not the worker
            self._link.send(protocol.Failed(job.job_id, "DrawError", f"{type(error).__name__}: {error}"))
        else:
            self._link.send(protocol.Finished(job.job_id, tuple(done), seconds))


class Models:
    """The models that this worker has loaded, each once."""

    def __init__(self, device: str, link: Link) -> None:
        from pipelines import loader

        self._loader = loader
        self.device = loader.choose_device(device)
        self._link = link
        self._loaded: dict[ModelPlan, LoadedModel] = {}
        self._lock = threading.Lock()

    def get(self, plan: ModelPlan) -> LoadedModel:
        """The loaded model; loads it first if it must. Raises LoadRefused, or what torch raises."""
        with self._lock:
            if plan not in self._loaded:
                started = time.monotonic()
                self._link.send(protocol.Loading(plan.key))
                try:
                    self._loaded[plan] = self._loader.load(plan, self.device)
                except Exception as error:  # whatever it was: the front must not wait for this model for ever
                    reason = str(error) if isinstance(error, DrawError) else f"{type(error).__name__}: {error}"
                    self._link.send(protocol.NotLoaded(plan.key, reason))
                    raise
                self._link.send(protocol.Loaded(plan.key, round(time.monotonic() - started, 3)))
            return self._loaded[plan]


def serve(sock: socket.socket, device: str) -> None:
    """Read and obey messages until the front says stop or goes away."""
    import torch

    from pipelines import loader
    from pipelines.engine import Engine

    loader.quiet_libraries()
    link = Link(sock)
    reporter = Reporter(link)
    models = Models(device, link)
    name = torch.cuda.get_device_name(models.device) if models.device.type == "cuda" else "CPU"
    engine = Engine(models.get, reporter)
    link.send(protocol.Hello(str(models.device), name, str(torch.__version__)))
    loads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")
    while (message := link.receive()) is not None:
        match message:
            case protocol.Load(plan):
                loads.submit(models.get, plan)
            case protocol.Draw(job, encoding):
                reporter.encodings[job.job_id] = encoding
                engine.submit(job)
            case protocol.Cancel(job_id):
                engine.cancel(job_id)
            case protocol.Stop():
                break
    if message is None:
        os._exit(1)  # the front is gone: nobody waits for what is still being drawn
    loads.shutdown(wait=True)
    engine.close()
    reporter.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--log-level", default="info")
    arguments = parser.parse_args()
    configure_logging(arguments.log_level, process="worker")
    # Ctrl-C reaches the whole process group; the front decides when the worker stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
