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
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

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

if __name__ == "__main__":
    # Ctrl-C reaches the whole process group, also while torch is still being imported; the front decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as service managers send it to all processes of a service

import msgspec
import torch

from pipelines import images, loader, residency, selfcheck
from pipelines.embeddings import EmbeddingCache
from pipelines.engine import Engine
from pipelines.errors import Cancelled, DrawError
from pipelines.loader import LoadedModel
from pipelines.plan import DrawJob, ModelPlan
from pipelines.spec import Encoding, Picture
from server.telemetry import configure_logging
from server.worker import protocol

log = logging.getLogger("darkroom.worker")

_PROGRESS_S = 0.05
_PREVIEW_QUALITY = 75  # of jpeg and webp


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


@dataclass
class _Underway:
    """A job between its arrival and its last message."""

    encoding: Encoding
    text_tokens: int = 0
    started_s: float = 0.0  # monotonic
    told_s: float = 0.0  # monotonic, of the last progress
    told: int = 0  # steps, by then
    shown: int = 0  # previews that the engine made
    previews: list[Future[None]] = field(default_factory=list)


class Reporter:
    """Turns the engine's events into messages; encodes pictures on threads of its own, off the step loop."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._workers = max(1, min(4, os.cpu_count() or 1))
        self._encoders = ThreadPoolExecutor(max_workers=self._workers, thread_name_prefix="encode")
        self._busy = threading.BoundedSemaphore(2 * self._workers)  # previews that wait or are being encoded
        self._jobs: dict[str, _Underway] = {}

    def expect(self, job: DrawJob, encoding: Encoding) -> None:
        """A job has come in."""
        self._jobs[job.job_id] = _Underway(encoding)

    def counted(self, job: DrawJob, text_tokens: int) -> None:
        self._jobs[job.job_id].text_tokens = text_tokens

    def started(self, job: DrawJob) -> None:
        self._jobs[job.job_id].started_s = time.monotonic()
        self._link.send(protocol.Started(job.job_id))

    def progress(self, job: DrawJob, done: int, of: int) -> None:
        """Told at most so often: with many runs of short steps, the front would do little else than listen."""
        underway, now = self._jobs[job.job_id], time.monotonic()
        if done == of or now - underway.told_s >= _PROGRESS_S:
            self._link.send(protocol.Progress(job.job_id, done, of, done - underway.told))
            underway.told_s, underway.told = now, done

    def previewed(self, job: DrawJob, done: int, of: int, picture: torch.Tensor) -> None:
        """Left out while the encoders are behind: finished pictures must not wait for passing ones."""
        underway = self._jobs[job.job_id]
        number, underway.shown = underway.shown, underway.shown + 1
        frames = images.to_frames(picture)
        if self._busy.acquire(blocking=False):
            underway.previews.append(self._encoders.submit(self._encode_preview, job, number, frames, underway))

    def drawn(self, job: DrawJob, drawn: torch.Tensor) -> None:
        underway = self._jobs.pop(job.job_id)
        seconds = time.monotonic() - underway.started_s
        self._encoders.submit(self._encode, job, images.to_frames(drawn), underway, seconds)

    def failed(self, job: DrawJob, error: DrawError) -> None:
        self._jobs.pop(job.job_id, None)
        self._link.send(protocol.Failed(job.job_id, type(error).__name__, str(error)))

    def close(self) -> None:
        self._encoders.shutdown(wait=True)

    def _encode_preview(self, job: DrawJob, number: int, frames: images.Frames, underway: _Underway) -> None:
        quality = min(underway.encoding.quality, _PREVIEW_QUALITY)
        encoding = msgspec.structs.replace(underway.encoding, quality=quality, metadata=False)
        try:
            for picture in _encoded(job, frames, encoding):
                self._link.send(protocol.Previewed(job.job_id, number, picture))
        except Exception as error:  # no preview is worth a job
            log.warning("preview left out", extra={"job": job.job_id, "error": type(error).__name__})
        finally:
            self._busy.release()

    def _encode(self, job: DrawJob, frames: images.Frames, underway: _Underway, seconds: float) -> None:
        try:
            done = tuple(_encoded(job, frames, underway.encoding))
        except Exception as error:  # a picture that cannot be encoded ends its own job, not the worker
            self._link.send(protocol.Failed(job.job_id, type(error).__name__, str(error)))
        else:
            wait(underway.previews)  # which began before us, so one of our own threads has each of them already
            self._link.send(protocol.Finished(job.job_id, done, seconds, underway.text_tokens))


def _encoded(job: DrawJob, frames: images.Frames, encoding: Encoding) -> Iterator[Picture]:
    pictures = frames.arrays()
    for index, seed in enumerate(job.seeds):
        spec = msgspec.structs.replace(job.spec, seed=seed)
        yield images.encode(images.finish(pictures[index], spec), spec, encoding, index)


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
        self._behind_load: dict[str, float] = {}  # jobs that wait for their model, and since when (monotonic)
        self._failures: dict[ModelPlan, tuple[float, DrawError]] = {}  # of last loads, and when; the load thread's own
        self._loads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")

    def preload(self, plan: ModelPlan) -> None:
        self._bring_in_turn(plan, None)

    def draw(self, job: DrawJob) -> None:
        """At once if the model is on the device; behind its load if it is not. Other models go on meanwhile."""
        model = self._residency.pin_if_ready(job.plan)
        if model is not None:
            self._submit(model, job)
        else:
            self._behind_load[job.job_id] = time.monotonic()
            self._bring_in_turn(job.plan, job)

    def cancel(self, job_id: str) -> None:
        self._behind_load.pop(job_id, None)
        self._engine.cancel(job_id)

    def close(self) -> None:
        """Finish what was sent."""
        self._loads.shutdown(wait=True)
        self._engine.close()
        self.reporter.close()

    def _bring_in_turn(self, plan: ModelPlan, job: DrawJob | None) -> None:
        self._loads.submit(self._pin_and_go_on, plan, job).add_done_callback(_fail_as_a_thread)

    def _pin_and_go_on(self, plan: ModelPlan, job: DrawJob | None) -> None:
        try:
            if job is None:
                self._pin(plan)
                self._residency.unpin(plan)
            else:
                self._pin_and_submit(job)
        except DrawError as error:
            if job is not None:
                self.reporter.failed(job, error)
        finally:
            if job is not None:
                self._behind_load.pop(job.job_id, None)

    def _pin_and_submit(self, job: DrawJob) -> None:
        """Raises DrawError where it does not come to drawing. No load for a client that left meanwhile, and none to
        fail once more for those who waited for one that failed."""
        since = self._behind_load.get(job.job_id)
        if since is None:
            raise Cancelled("the client left")
        failed, error = self._failures.get(job.plan, (0.0, None))
        if error is not None and since <= failed:
            raise error.with_traceback(None)
        model = self._pin(job.plan)
        if job.job_id not in self._behind_load:
            self._residency.unpin(job.plan)
            raise Cancelled("the client left")
        self._submit(model, job)
        if job.job_id not in self._behind_load:
            self._engine.cancel(job.job_id)  # it was cancelled before the engine knew it

    def _pin(self, plan: ModelPlan) -> LoadedModel:
        try:
            model = self._residency.pin(plan)
        except DrawError as error:
            # Another like it: its own traceback would keep what the load had made.
            self._failures[plan] = time.monotonic(), type(error)(str(error))
            raise
        self._failures.pop(plan, None)
        return model

    def _submit(self, model: LoadedModel, job: DrawJob) -> None:
        self.reporter.counted(job, model.tokens.count(job.spec.prompt, job.spec.negative_prompt))
        self._engine.submit(model, job, done=lambda: self._left(job))

    def _left(self, job: DrawJob) -> None:
        self._residency.unpin(job.plan)
        cache = {"embedding_hits": self._embeddings.hits, "embedding_misses": self._embeddings.misses}
        self._link.send(protocol.Tally({**self._engine.counts, **cache}))

    def _load(self, plan: ModelPlan) -> LoadedModel:
        # On a thread that ends with it. OpenMP keeps helpers for every thread that has computed, and once there are
        # more of them than cores they sleep at every barrier instead of spinning: a third of the time nothing ran.
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


def _fail_as_a_thread(future: Future[None]) -> None:
    """A pool keeps to itself what its work fails with; a thread's failure ends the process."""
    error = future.exception()
    if error is not None:
        arguments = (type(error), error, error.__traceback__, threading.current_thread())
        threading.excepthook(threading.ExceptHookArgs(arguments))


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
                device.reporter.expect(job, encoding)
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
