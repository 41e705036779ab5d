"""A worker on this machine: one subprocess that owns one device, and the front's end of the socket to it.

Knows processes, messages and deadlines; knows neither HTTP nor torch. The child may die or hang at any time:
what it was drawing is answered with WorkerLost, and it is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Encoding, Picture
from server.errors import (
    DarkroomError,
    GenerationFailed,
    ModelUnavailable,
    OutOfDeviceMemory,
    ServerFault,
    WorkerLost,
)
from server.settings import ENV_PREFIX, Settings
from server.telemetry import Metrics
from server.worker import protocol

log = logging.getLogger("darkroom.worker")

_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 30.0
_STEADY_S = 60.0  # a worker that lived this long has earned a quick restart
_BROKEN_S = 30.0  # a model that failed to load is tried again after this
_START_TIMEOUT_S = 120.0  # for the child to import torch and say hello


class ModelState(StrEnum):
    """Where a model's weights are; the values of pipelines.models.residency.Place, which needs torch."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    OFFLOADED = "offloaded"
    BROKEN = "broken"


@dataclass
class ModelStatus:
    """What the worker last said of one set of weights."""

    state: ModelState = ModelState.UNLOADED
    reason: str = ""
    shared: bool | None = None  # do its runs share steps? None until it has been checked
    unshared_reason: str = ""
    since_s: float = field(default_factory=time.monotonic)  # monotonic


@dataclass
class _Flight:
    """A job that the worker has."""

    result: asyncio.Future[protocol.Finished]
    progress: Callable[[int, int], None]
    previewed: Callable[[int, Picture], None]


class LocalWorker:
    """The front's handle on one worker process. All methods run on the event loop's thread."""

    def __init__(self, settings: Settings, plans: Iterable[ModelPlan], preload: Iterable[ModelPlan], metrics: Metrics):
        self._settings = settings
        self._preload = tuple(preload)
        self._metrics = metrics
        self._flights: dict[str, _Flight] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._runner: asyncio.Task[None] | None = None
        self._heard_s = 0.0  # monotonic, of the last message
        self._up = asyncio.Event()
        self._stopping = False
        self._tried: set[str] = set()  # the models that this child has had ready, or found broken
        self.models = {plan.key: ModelStatus() for plan in plans}
        self.device = ""

    @property
    def up(self) -> bool:
        """Has the child said hello?"""
        return self._up.is_set()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def settled(self) -> bool:
        """Is the worker up, and has every model to preload been ready, or found broken, since it came up?

        One that later makes room for another comes back when it is wanted, and the server is no less ready.
        """
        return self.up and all(plan.key in self._tried for plan in self._preload)

    def start(self) -> None:
        """Start the child and keep it running until ``stop``."""
        self._runner = asyncio.create_task(self._keep_running(), name="worker")

    async def stop(self) -> None:
        """Let the child finish what it has and exit; kill it if it does not."""
        self._stopping = True
        if self._writer is not None:
            with contextlib.suppress(ConnectionError):
                await self._send(protocol.Stop())
        if self._process is not None and self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), timeout=5.0 if self._up.is_set() else 0.1)
            except TimeoutError:
                self._kill()
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner

    def require(self, key: str, model: str, *, retry: bool = True) -> None:
        """Raise ModelUnavailable for weights that could not be loaded; ``model`` is the ID asked for.

        With ``retry``, only if that was lately: after a while they are to be tried again.
        """
        status = self.models[key]
        if status.state is ModelState.BROKEN and not (retry and time.monotonic() - status.since_s >= _BROKEN_S):
            raise _unavailable(model)

    async def draw(
        self,
        drawing: Drawing,
        encoding: Encoding,
        progress: Callable[[int, int], None],
        previewed: Callable[[int, Picture], None] = lambda number, picture: None,
    ) -> protocol.Finished:
        """Draw a job. Cancelling this coroutine stops the drawing at its next step."""
        self.require(drawing.plan.key, drawing.spec.model)
        await self._up.wait()  # a worker that is being replaced is waited for; the job's deadline bounds it
        flight = _Flight(asyncio.get_running_loop().create_future(), progress, previewed)
        if not self._flights:
            self._heard_s = time.monotonic()  # an idle worker owes no sign of life; from here on it does
        self._flights[drawing.job_id] = flight
        try:
            await self._send(protocol.Draw(drawing, encoding))
            return await flight.result
        except ConnectionError:
            raise _lost() from None
        except asyncio.CancelledError:
            with contextlib.suppress(ConnectionError):
                await self._send(protocol.Cancel(drawing.job_id))
            raise
        finally:
            self._flights.pop(drawing.job_id, None)

    async def _send(self, message: protocol.ToWorker) -> None:
        if self._writer is None:
            raise ConnectionError("the worker is down")
        self._writer.write(protocol.pack(message))
        await self._writer.drain()

    async def _keep_running(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            started = time.monotonic()
            try:
                await self._run_once()
            except (OSError, asyncio.IncompleteReadError, msgspec.DecodeError, TimeoutError) as error:
                log.error("worker link broke", extra={"reason": f"{type(error).__name__}: {error}"})
            finally:
                self._lose_flights()
                self._kill()
            if self._stopping:
                return
            self._metrics.worker_restarts.inc()
            if time.monotonic() - started > _STEADY_S:
                backoff_s = _FIRST_BACKOFF_S
            log.error("worker lost, starting another", extra={"backoff_s": backoff_s})
            await asyncio.sleep(backoff_s)
            backoff_s = min(_MAX_BACKOFF_S, backoff_s * 2)

    async def _run_once(self) -> None:
        """Start one child and read its messages until it ends."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "server.worker.child"),
                *("--fd", str(theirs.fileno())),
                *("--device", self._settings.device),
                *("--log-level", self._settings.log_level),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                env=_child_environment(),
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._heard_s = time.monotonic()
        watch = asyncio.create_task(self._watch(), name="worker-watch")
        try:
            while True:
                header = await reader.readexactly(protocol.HEADER.size)
                body = await reader.readexactly(protocol.HEADER.unpack(header)[0])
                self._heard_s = time.monotonic()
                await self._obey(protocol.unpack_to_front(body))
        except asyncio.IncompleteReadError:
            code = await self._process.wait()
            if not self._stopping:
                log.error("worker exited", extra={"exit_code": code})
        finally:
            watch.cancel()
            self._up.clear()
            self._writer.close()
            self._writer = None

    async def _obey(self, message: protocol.ToFront) -> None:
        match message:
            case protocol.Hello(device, device_name, torch_version):
                self.device = device
                self._tried.clear()
                log.info("worker up", extra={"device": device, "device_name": device_name, "torch": torch_version})
                for plan in self._preload:
                    self._set(plan.key, ModelState.LOADING)
                    await self._send(protocol.Load(plan))
                self._up.set()
            case protocol.Moved(key, place, reason):
                if place == ModelState.BROKEN:
                    log.error("model cannot be served", extra={"model": key, "reason": reason})
                self._set(key, ModelState(place), reason)
                if place in (ModelState.READY, ModelState.BROKEN):
                    self._tried.add(key)
            case protocol.Checked(key, shared, reason):
                self.models[key].shared, self.models[key].unshared_reason = shared, reason
                self._metrics.model_shared.labels(key).set(shared)
            case protocol.Tally(counts):
                for name, value in counts.items():
                    self._metrics.engine.labels(name).set(value)
            case protocol.Started():
                pass
            case protocol.Progress(job_id, done, of, news):
                self._metrics.steps.inc(news)  # also of a job whose client has left: the device did it
                if job_id in self._flights:
                    self._flights[job_id].progress(done, of)
            case protocol.Previewed(job_id, number, picture):
                if job_id in self._flights:
                    self._flights[job_id].previewed(number, picture)
            case protocol.Finished(job_id):
                self._land(job_id, message)
            case protocol.Failed(job_id, kind, reason):
                if job_id in self._flights:  # else its client has left, which is no failure
                    self._land(job_id, _error(kind, reason, job_id))

    def _land(self, job_id: str, result: protocol.Finished | DarkroomError) -> None:
        flight = self._flights.pop(job_id, None)
        if flight is None or flight.result.done():
            return  # the client has left
        if isinstance(result, DarkroomError):
            flight.result.set_exception(result)
        else:
            flight.result.set_result(result)

    def _set(self, key: str, state: ModelState, reason: str = "") -> None:
        old = self.models[key]
        self.models[key] = ModelStatus(state, reason, old.shared, old.unshared_reason)
        self._metrics.model_ready.labels(key).set(state is ModelState.READY)

    async def _watch(self) -> None:
        """Kill a child that is busy and has said nothing for too long: a forward that never returns."""
        while True:
            await asyncio.sleep(min(1.0, self._settings.step_timeout_s / 4))
            silent_s = time.monotonic() - self._heard_s
            loading = any(status.state is ModelState.LOADING for status in self.models.values())
            if not self.up:
                limit_s = _START_TIMEOUT_S
            elif loading:
                limit_s = self._settings.load_timeout_s
            elif self._flights:
                limit_s = self._settings.step_timeout_s
            else:
                continue
            if silent_s > limit_s:
                log.error("worker hangs, killing it", extra={"silent_s": round(silent_s, 1)})
                self._kill()
                return

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    def _lose_flights(self) -> None:
        for flight in self._flights.values():
            if not flight.result.done():
                flight.result.set_exception(_lost())
        self._flights.clear()
        for key, status in self.models.items():
            if status.state is not ModelState.BROKEN:
                self._set(key, ModelState.UNLOADED)


def _child_environment() -> dict[str, str]:
    """Ours, less our settings: the child has no use for the signing key."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}


def _lost() -> WorkerLost:
    return WorkerLost("The process that was drawing this stopped. It is being started again.", retry_after_s=5)


def _unavailable(model: str) -> ModelUnavailable:
    return ModelUnavailable(f"{model} cannot be loaded; /readyz and the server's log say why.", param="model")


def _error(kind: str, reason: str, job_id: str) -> DarkroomError:
    """The answer to a failure of pipelines.errors, by its class name."""
    log.warning("job failed in the worker", extra={"job": job_id, "kind": kind, "reason": reason})
    match kind:
        case "AdapterRefused":
            return ModelUnavailable("One of these loras cannot be loaded; the server's log says why.", param="loras")
        case "LoadRefused":
            return ModelUnavailable("The model cannot be loaded; /readyz and the server's log say why.", param="model")
        case "OutOfMemory":
            return OutOfDeviceMemory("The device has no room for this picture; ask for a smaller size or n.")
        case "BadPicture":
            return GenerationFailed("The model made no usable picture (NaN or black); try another seed or scheduler.")
        case "Unsupported":
            return GenerationFailed("This model's pipeline cannot do what was asked.")
        case _:
            return ServerFault("Drawing failed; the server's log has the reason under this request's id.")
