"""A worker on this machine: one subprocess that owns one device, and the front's end of the socket to it.

Knows processes, messages and deadlines; knows neither HTTP nor torch. The child may die or hang at any time:
what it was drawing is answered with WorkerLost, and it is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import time
from collections.abc import Callable, Iterable

import msgspec

from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Encoding, Picture
from server.worker import failures, launch, news, protocol
from server.worker.hearing import Hearing
from server.worker.member import Assignment, Spent, spends_nothing
from server.worker.pending import Pending, Pendings, note_spent
from server.worker.rest import Rest
from server.worker.status import ModelState, ModelStatuses

log = logging.getLogger("darkroom.worker")

_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 30.0
_STEADY_S = 60.0  # a worker that lived this long has earned a quick restart
_LOOK_S = 0.05  # between two looks at a load that somebody waits for
_START_TIMEOUT_S = 120.0  # for the child to import torch and say hello


class LocalWorker:
    """The front's handle on one worker process. All methods run on the event loop's thread."""

    def __init__(self, assignment: Assignment) -> None:
        self._settings = assignment.settings
        self._assigned = assignment.device
        self._preload = assignment.preload
        self._metrics = assignment.metrics
        self._pending = Pendings()
        self._writer: asyncio.StreamWriter | None = None
        self._process: launch.Process | None = None
        self._early = assignment.early
        self._supervisor: asyncio.Task[None] | None = None
        self._hearing = Hearing()
        self._up = asyncio.Event()
        self._start_ended = asyncio.Event()  # the child is up, or has ended before it was
        self._stopping = False
        self._refusal = ""  # of the last child, if it could not use the device
        self.rest = Rest()
        self._coming = 0  # drawings and loads that wait for the worker to be up
        self.start_failure = ""  # for the operator: how the last child ended, if it ended before it was up
        self._plans: tuple[ModelPlan, ...] | None = None  # those of models.yaml, once it was read again
        self._awaited = self._preload  # before the server is ready
        self.models = ModelStatuses(assignment.plans, self._metrics, self._assigned.name, assignment.deaths)
        self.device = ""
        self.device_name = ""  # as its maker calls it
        self.log_name = "the server's log"  # for the operator: where the child writes to
        self.device_problem = ""  # for the operator: why it is not the device that the machine seems to have
        self.on_refused: Callable[[str], None] = lambda reason: None  # the device that is set cannot be used here
        self.on_change: Callable[[], None] = lambda: None  # it is up, or no longer, or cannot start
        self.on_spent: Spent = spends_nothing

    @property
    def name(self) -> str:
        """What the device is called in logs and metrics."""
        return self._assigned.name or self.device or self._assigned.setting

    @property
    def up(self) -> bool:
        """Has the child said hello?"""
        return self._up.is_set()

    @property
    def pid(self) -> int | None:
        """The child's process ID; None before the first start."""
        return self._process.pid if self._process is not None else None

    @property
    def asleep(self) -> bool:
        """Has the process ended because there was nothing to do? The next drawing starts another."""
        return self.rest.asleep

    @property
    def given_up(self) -> bool:
        """Is no child started any more?"""
        return self._supervisor is not None and self._supervisor.done()

    @property
    def busy(self) -> bool:
        """Is anything drawn or loaded, or about to be?"""
        return bool(self._pending or self._coming or self.models.loading)

    @property
    def _draws(self) -> bool:
        return self._pending.draws(self.models)

    def in_use(self, plan: ModelPlan) -> bool:
        """Is anything drawn by this plan?"""
        return any(pending.plan == plan for pending in self._pending.values())

    @property
    def settled(self) -> bool:
        """Is the worker up, and has every model to preload been ready, or found broken, since it came up?

        One that later makes room for another comes back when it is wanted, and the server is no less ready.
        """
        return self.rest.excused or (self.up and self.models.tried(self._awaited))

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

    def serve(self, plans: Iterable[ModelPlan], preload: Iterable[ModelPlan]) -> None:
        """Draw by these plans from now on; drawings that have begun end on their own.

        What is new among ``preload`` is loaded, and not waited for: a server that was ready stays so.
        """
        self._plans, before, self._preload = tuple(plans), set(self._preload), tuple(preload)
        self.models.serve(self._plans)
        self._awaited = tuple(plan for plan in self._awaited if self.models.serves(plan))
        if self.up:
            self._write(protocol.Serve(self._plans))
            for plan in self.models.absent(plan for plan in self._preload if plan not in before):
                self._hearing.begin()
                self.models.moved(plan.key, ModelState.LOADING)
                self._write(protocol.Load(plan))

    async def draw(
        self,
        drawing: Drawing,
        encoding: Encoding,
        progress: Callable[[int, int], None],
        previewed: Callable[[int, Picture], None] = lambda number, picture: None,
        deadline_s: float = math.inf,  # of no use here: a worker that its front leaves ends with it
    ) -> protocol.Finished:
        """The pictures of a drawing. Cancelling this coroutine stops the drawing at its next step."""
        if self.models.serves(drawing.plan):  # else models.yaml was read again since it was admitted
            self.require(drawing.plan.key, drawing.spec.model)
        await self._until_up()
        pending = Pending(
            drawing.plan, drawing.spec.model, asyncio.get_running_loop().create_future(), progress, previewed
        )
        self.rest.use(drawing.plan.key)
        self._hearing.begin_drawing(idle=not self._pending, draws=self._draws)
        self._pending[drawing.job_id] = pending
        try:
            await self._send(protocol.Draw(drawing, encoding))
            return await pending.result
        except ConnectionError:
            raise failures.lost(started=False) from None
        except asyncio.CancelledError:
            with contextlib.suppress(ConnectionError):
                await self._send(protocol.Cancel(drawing.job_id))
            raise
        finally:
            self._pending.pop(drawing.job_id, None)
            pending.forget()
            self.rest.use(drawing.plan.key)
            self._sleep_if_free()

    @property
    def _named(self) -> dict[str, str]:
        """Which of several workers it is, for the log."""
        return {"device": self._assigned.name} if self._assigned.share > 1 else {}

    async def _until_up(self) -> None:
        """Wake a worker that sleeps, wait for one that is being replaced. Raises Unavailable where none comes up."""
        self.rest.wake()
        self._coming += 1
        try:
            await self._start_ended.wait()
        finally:
            self._coming -= 1
        if not self.up:
            raise failures.cannot_start()

    async def load(self, plan: ModelPlan, model: str) -> None:
        """Return when the weights are on the device. Raises ModelUnavailable, and Unavailable without a worker."""
        await self._until_up()
        if self.models.is_ready(plan):
            return
        self._hearing.begin()
        self.models.moved(plan.key, ModelState.LOADING)
        try:
            await self._send(protocol.Load(plan))
        except ConnectionError:
            raise failures.lost() from None
        pid = self.pid
        while self.models.serves(plan) and self.models[plan.key].state is ModelState.LOADING:
            if not self.up or self.pid != pid:
                raise failures.lost()
            await asyncio.sleep(_LOOK_S)
        if not self.models.is_ready(plan):
            raise failures.unavailable(model)

    def leave(self, plan: ModelPlan, place: ModelState) -> None:
        """Have a model leave for host memory or the disk, once nothing is drawn with it."""
        if self.up:
            self._write(protocol.Leave(plan, str(place)))

    def sleep(self) -> None:
        """End the process as soon as nothing is drawn or loaded: the device is free. The next drawing wakes it."""
        self.rest.wanted = True
        self._sleep_if_free()

    def wake(self) -> None:
        """Start the process again, if it sleeps, and load what is to be preloaded."""
        self.rest.wake()
        self.rest.preloads = True
        for plan in self.models.absent(self._preload) if self.up else ():
            self._write(protocol.Load(plan))

    def _sleep_if_free(self) -> None:
        if not self.rest.wanted or not self.up or self.busy or self._stopping:
            return
        self._write(protocol.Stop())
        self.rest.begin()
        self._up.clear()  # whoever comes from now on waits for the next process
        self._start_ended.clear()
        log.info("worker sleeps", extra=self._named)

    def _write(self, message: protocol.ToWorker) -> None:
        if self._writer is not None:
            self._writer.write(protocol.pack(message))

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
                # A child that exits with messages unread resets the link.
                if not self._stopping and not self.rest.asleep:
                    log.error("worker link broke", extra={"reason": f"{end}: {error}", **self._named})
            finally:
                came_up = self.up
                self._up.clear()
                self._start_ended.clear()
                self._worker_lost()
                self._metrics.forget_memory(self.name)
                self._kill()
                self.on_change()
            if self._stopping:
                return
            if self._process is not None:
                await launch.until_ended(self._process)
            if self.rest.asleep:
                await self.rest.until_woken()
                backoff_s = _FIRST_BACKOFF_S
                continue
            self.rest.waking = False
            if not came_up:
                # Said, and answered with 503, until one comes up: a fault of the installation does not pass by itself.
                why = f"The worker ended while it started ({end}); {self.log_name} says why."
                self.start_failure = self._refusal or why
                self._start_ended.set()
                self.on_change()
            if self._refusal and not self.device:
                return  # the front stops: there is nothing that another start would find otherwise
            self._metrics.restarted(self.name)
            if time.monotonic() - started > _STEADY_S:
                backoff_s = _FIRST_BACKOFF_S
            log.error("worker lost, starting another", extra={"backoff_s": backoff_s, **self._named})
            await asyncio.sleep(backoff_s)
            backoff_s = min(_MAX_BACKOFF_S, backoff_s * 2)

    async def _run_once(self) -> str:
        """Start one child and read its messages until it ends; how it ended."""
        self._refusal = ""
        process, ours = await self._child()
        self._process = process
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._hearing = Hearing()
        watchdog = asyncio.create_task(self._watchdog(), name="worker-watchdog")
        try:
            while True:
                header = await reader.readexactly(protocol.HEADER.size)
                body = await reader.readexactly(protocol.HEADER.unpack(header)[0])
                message = protocol.unpack_to_front(body)
                self._hearing.hear(message)
                await self._on_message(message)
        except asyncio.IncompleteReadError:
            code = await process.wait()
            if not self._stopping and not self.rest.asleep:
                log.error("worker exited", extra={"exit_code": code, **self._named})
            return f"exit code {code}"
        finally:
            watchdog.cancel()
            self._writer.close()
            self._writer = None

    async def _child(self) -> tuple[launch.Process, socket.socket]:
        """A child, and our end of its socket: the first may have been started before us. Raises OSError."""
        early, self._early = self._early, None
        return (early, early.use()) if early is not None else await launch.connected(self._settings, self._assigned)

    async def _on_message(self, message: protocol.ToFront) -> None:
        match message:
            case protocol.Hello(device, device_name, torch_version, problem):
                self.device, self.device_name, self.device_problem = device, device_name, problem
                self.models.rename(self.name)
                self.models.worker_up()
                log.info("worker up", extra={"device": self.name, "device_name": device_name, "torch": torch_version})
                if self._plans is not None:
                    await self._send(protocol.Serve(self._plans))
                preload = self._preload if self.rest.preloads else ()
                self._awaited = () if self.rest.waking else preload
                for plan in filter(lambda plan: self.models.may_preload(plan.key), preload):
                    self.models.moved(plan.key, ModelState.LOADING)
                    await self._send(protocol.Load(plan))
                self.start_failure = ""
                self.rest.up()
                self._up.set()
                self._start_ended.set()
                self.on_change()
            case protocol.Refused(reason):
                self._refusal = reason
                log.error("the device cannot be used", extra={"device": self.name, "reason": reason})
                if not self.device:  # a device that was there once may come back
                    self.on_refused(reason)
            case _ if isinstance(message, news.News):
                news.note(message, self.models, self._metrics, self.name, self._named)
                if isinstance(message, protocol.Moved):
                    if message.place == ModelState.READY:
                        self.rest.use(message.key)
                    self._sleep_if_free()
            case _:
                note_spent(message, self._metrics, self.name, self.on_spent)
                self._pending.hear(message)

    async def _watchdog(self) -> None:
        """Kill a child that is busy and has said nothing for too long: a forward that never returns."""
        while True:
            await asyncio.sleep(min(1.0, self._settings.step_timeout_s / 4))
            silent_s = self._hearing.silent_s(loads=self.models.loading, draws=self._draws)
            if silent_s > self._patience_s():
                log.error("worker hangs, killing it", extra={"silent_s": round(silent_s, 1), **self._named})
                self._kill()
                return

    def _patience_s(self) -> float:
        if not self.up:
            return _START_TIMEOUT_S
        if self.models.loading:
            return self._settings.load_timeout_s  # of what is drawn meanwhile, too: they share the device
        return self._settings.step_timeout_s if self._pending else math.inf

    def _kill(self) -> None:
        if self._process is not None:
            launch.kill(self._process)

    def _worker_lost(self) -> None:
        wanted = self._pending.lose(self.models)
        if not self._stopping:
            self.models.worker_lost(wanted)
