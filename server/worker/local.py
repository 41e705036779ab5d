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
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Encoding, Picture
from server import interpreter
from server.errors import DarkroomError
from server.settings import ENV_PREFIX, Settings
from server.telemetry import Metrics
from server.worker import failures, protocol
from server.worker.status import ModelState, ModelStatuses

log = logging.getLogger("darkroom.worker")

_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 30.0
_STEADY_S = 60.0  # a worker that lived this long has earned a quick restart
_KILL_TIMEOUT_S = 60.0  # for a killed child to end
_START_TIMEOUT_S = 120.0  # for the child to import torch and say hello


@dataclass
class _Pending:
    """A drawing that the worker has, and who waits for it."""

    key: str  # of the plan
    model: str  # the ID asked for
    result: asyncio.Future[protocol.Finished]
    progress: Callable[[int, int], None]
    previewed: Callable[[int, Picture], None]


class LocalWorker:
    """The front's handle on one worker process. All methods run on the event loop's thread."""

    def __init__(self, settings: Settings, plans: Iterable[ModelPlan], preload: Iterable[ModelPlan], metrics: Metrics):
        self._settings = settings
        self._preload = tuple(preload)
        self._metrics = metrics
        self._pending: dict[str, _Pending] = {}  # by the ID of the job
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._last_message_s = 0.0  # monotonic
        self._up = asyncio.Event()
        self._start_ended = asyncio.Event()  # the child is up, or has ended before it was
        self._stopping = False
        self._refusal = ""  # of the last child, if it could not use the device
        self.start_failure = ""  # for the operator: how the last child ended, if it ended before it was up
        self.models = ModelStatuses(plans, metrics)
        self.device = ""
        self.device_problem = ""  # for the operator: why it is not the device that the machine seems to have
        self.on_refused: Callable[[str], None] = lambda reason: None  # the device that is set cannot be used here

    @property
    def up(self) -> bool:
        """Has the child said hello?"""
        return self._up.is_set()

    @property
    def pid(self) -> int | None:
        """The child's process ID; None before the first start."""
        return self._process.pid if self._process is not None else None

    @property
    def settled(self) -> bool:
        """Is the worker up, and has every model to preload been ready, or found broken, since it came up?

        One that later makes room for another comes back when it is wanted, and the server is no less ready.
        """
        return self.up and self.models.tried(self._preload)

    def start(self) -> None:
        """Start the child and keep it running until ``stop``."""
        self._supervisor = asyncio.create_task(self._supervise(), name="worker")

    async def stop(self) -> None:
        """Let the child end its drawings, of which nobody waits for any more, and exit; kill it if it does not."""
        self._stopping = True
        if self._writer is not None:
            with contextlib.suppress(ConnectionError):
                for job_id in list(self._pending):
                    await self._send(protocol.Cancel(job_id))
                await self._send(protocol.Stop())
        if self._process is not None and self._process.returncode is None:
            busy = not self.up or self.models.loading  # with what may take minutes, and cannot be ended
            try:
                await asyncio.wait_for(self._process.wait(), timeout=0.1 if busy else 5.0)
            except TimeoutError:
                self._kill()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), timeout=5.0)
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor

    def require(self, key: str, model: str, *, retry: bool = True) -> None:
        """Raise ModelUnavailable for weights that could not be loaded; ``model`` is the ID asked for. Raise
        Unavailable where no worker comes up: nobody knows when one will."""
        if self.start_failure:
            raise failures.cannot_start()
        self.models.require(key, model, retry=retry)

    async def draw(
        self,
        drawing: Drawing,
        encoding: Encoding,
        progress: Callable[[int, int], None],
        previewed: Callable[[int, Picture], None] = lambda number, picture: None,
    ) -> protocol.Finished:
        """The pictures of a drawing. Cancelling this coroutine stops the drawing at its next step."""
        self.require(drawing.plan.key, drawing.spec.model)
        await self._start_ended.wait()  # a worker that is being replaced is waited for; the job's deadline bounds it
        if not self.up:
            raise failures.cannot_start()
        key = drawing.plan.key
        pending = _Pending(key, drawing.spec.model, asyncio.get_running_loop().create_future(), progress, previewed)
        if not self._pending:
            self._last_message_s = time.monotonic()  # an idle worker owes no sign of life; from here on it does
        self._pending[drawing.job_id] = pending
        try:
            await self._send(protocol.Draw(drawing, encoding))
            return await pending.result
        except ConnectionError:
            raise failures.lost() from None
        except asyncio.CancelledError:
            with contextlib.suppress(ConnectionError):
                await self._send(protocol.Cancel(drawing.job_id))
            raise
        finally:
            self._pending.pop(drawing.job_id, None)

    async def _send(self, message: protocol.ToWorker) -> None:
        if self._writer is None:
            raise ConnectionError("the worker is down")
        self._writer.write(protocol.pack(message))
        await self._writer.drain()

    async def _supervise(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            started = time.monotonic()
            end = "it was ended"
            try:
                end = await self._run_once()
            except (OSError, asyncio.IncompleteReadError, msgspec.DecodeError, TimeoutError) as error:
                end = type(error).__name__
                if not self._stopping:  # a child that exits with messages unread resets the link
                    log.error("worker link broke", extra={"reason": f"{end}: {error}"})
            finally:
                came_up = self.up
                self._up.clear()
                self._start_ended.clear()
                self._worker_lost()
                self._kill()
            if self._stopping:
                return
            await self._wait_for_end()
            if not came_up:
                # Said, and answered with 503, until one comes up: a fault of the installation does not pass by itself.
                self.start_failure = self._refusal or (
                    f"The worker ended while it started ({end}); the server's log says why."
                )
                self._start_ended.set()
            if self._refusal and not self.device:
                return  # the front stops: there is nothing that another start would find otherwise
            self._metrics.worker_restarts.inc()
            if time.monotonic() - started > _STEADY_S:
                backoff_s = _FIRST_BACKOFF_S
            log.error("worker lost, starting another", extra={"backoff_s": backoff_s})
            await asyncio.sleep(backoff_s)
            backoff_s = min(_MAX_BACKOFF_S, backoff_s * 2)

    async def _run_once(self) -> str:
        """Start one child and read its messages until it ends; how it ended."""
        self._refusal = ""
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as until_open:
            until_open.callback(ours.close)  # of a child that cannot be started
            self._process = await asyncio.create_subprocess_exec(
                *interpreter.python("server.worker.child"),
                *("--fd", str(theirs.fileno())),
                *("--device", self._settings.device),
                *("--log-level", self._settings.log_level),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                env=_child_environment(),
            )
            until_open.pop_all()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._last_message_s = time.monotonic()
        watchdog = asyncio.create_task(self._watchdog(), name="worker-watchdog")
        try:
            while True:
                header = await reader.readexactly(protocol.HEADER.size)
                body = await reader.readexactly(protocol.HEADER.unpack(header)[0])
                self._last_message_s = time.monotonic()
                await self._on_message(protocol.unpack_to_front(body))
        except asyncio.IncompleteReadError:
            code = await self._process.wait()
            if not self._stopping:
                log.error("worker exited", extra={"exit_code": code})
            return f"exit code {code}"
        finally:
            watchdog.cancel()
            self._writer.close()
            self._writer = None

    async def _on_message(self, message: protocol.ToFront) -> None:
        match message:
            case protocol.Hello(device, device_name, torch_version, problem):
                self.device, self.device_problem = device, problem
                self.models.worker_up()
                log.info("worker up", extra={"device": device, "device_name": device_name, "torch": torch_version})
                for plan in filter(lambda plan: self.models.may_preload(plan.key), self._preload):
                    self.models.moved(plan.key, ModelState.LOADING)
                    await self._send(protocol.Load(plan))
                self.start_failure = ""
                self._up.set()
                self._start_ended.set()
            case protocol.Refused(reason):
                self._refusal = reason
                log.error("the device cannot be used", extra={"device": self._settings.device, "reason": reason})
                if not self.device:  # a device that was there once may come back
                    self.on_refused(reason)
            case protocol.Moved(key, place, reason):
                if place == ModelState.BROKEN:
                    log.error("model cannot be served", extra={"model": key, "reason": reason})
                self.models.told(key, ModelState(place), reason)
            case protocol.Checked(key, shared, reason):
                self.models.checked(key, shared, reason)
            case protocol.Tally(counts, memory):
                for name, value in counts.items():
                    self._metrics.engine.labels(name).set(value)
                for name in memory.keys() & {"in_use", "reserved"}:
                    self._metrics.device_memory.labels(name).set(memory[name])
                if "out_of_memory" in memory:
                    self._metrics.device_out_of_memory.labels(self.device).set(memory["out_of_memory"])
            case protocol.Started():
                pass
            case protocol.Progress(job_id, done, of, news):
                self._metrics.steps.inc(news)  # also of a job whose client has left: the device did it
                if job_id in self._pending:
                    self._pending[job_id].progress(done, of)
            case protocol.Previewed(job_id, number, picture):
                if job_id in self._pending:
                    self._pending[job_id].previewed(number, picture)
            case protocol.Finished(job_id):
                self._finish(job_id, message)
            case protocol.Failed(job_id, kind, reason):
                if job_id in self._pending:  # else its client has left, which is no failure
                    self._finish(job_id, failures.failed(kind, reason, job_id, self._pending[job_id].model))

    def _finish(self, job_id: str, result: protocol.Finished | DarkroomError) -> None:
        pending = self._pending.pop(job_id, None)
        if pending is None or pending.result.done():
            return  # the client has left
        if isinstance(result, DarkroomError):
            pending.result.set_exception(result)
        else:
            pending.result.set_result(result)

    async def _watchdog(self) -> None:
        """Kill a child that is busy and has said nothing for too long: a forward that never returns."""
        while True:
            await asyncio.sleep(min(1.0, self._settings.step_timeout_s / 4))
            silent_s = time.monotonic() - self._last_message_s
            if not self.up:
                limit_s = _START_TIMEOUT_S
            elif self.models.loading:
                limit_s = self._settings.load_timeout_s
            elif self._pending:
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
                # Not its send_signal, which asks the system first how the process ended. Then asyncio, which asks too,
                # is told nothing: it writes a warning, and takes 255 for the exit code.
                os.kill(self._process.pid, signal.SIGKILL)

    async def _wait_for_end(self) -> None:
        """Wait for a child that was killed: until it has ended the driver holds its memory, and the next would find
        the device full."""
        if self._process is not None and self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), timeout=_KILL_TIMEOUT_S)
            except TimeoutError:  # inside the driver, where no signal reaches it
                log.error("killed worker does not end", extra={"pid": self._process.pid})

    def _worker_lost(self) -> None:
        for pending in self._pending.values():
            if not pending.result.done():
                begun = self.models[pending.key].state is ModelState.READY
                pending.result.set_exception(failures.lost(begun=begun))
        wanted = {pending.key for pending in self._pending.values()}
        self._pending.clear()
        if not self._stopping:
            self.models.worker_lost(wanted)


def _child_environment() -> dict[str, str]:
    """Ours, less our settings: the child has no use for the signing key."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return interpreter.environment(kept)
