"""The host of one worker process in a replica: what fronts on other machines ask of it, and what they are told.

Knows messages, leases and a LocalWorker; knows neither Ray nor torch. Several fronts may ask. What a front has begun
ends with it: its lease says when it is gone, and each drawing has its own limit of time beside that.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Protocol

from pipelines.plan import ModelPlan
from server import __version__
from server.errors import DarkroomError, DeadlineExceeded, ServerFault
from server.settings import Settings
from server.telemetry import Metrics
from server.worker import failures, launch, protocol
from server.worker.devices import WorkerDevice
from server.worker.local import LocalWorker
from server.worker.member import Assignment
from server.worker.ray import messages
from server.worker.ray.messages import Accepted, Here, OfDrawing, OfWatch, Refusal, Standing
from server.worker.ray.outbox import Outbox
from server.worker.status import ModelState

log = logging.getLogger("darkroom.replica")

_LAST = (protocol.Finished, protocol.Failed, Refusal)


class Lease(Protocol):
    """A front's word that it is there."""

    async def ended(self) -> None:
        """Return when the front is gone."""
        ...


class HostedWorker(LocalWorker):
    """A worker whose messages are passed on."""

    def __init__(self, host: Host, settings: Settings, device: WorkerDevice, machine: str) -> None:
        super().__init__(Assignment(settings, (), (), Metrics(), device))
        self._host = host
        self.log_name = f"the log of Ray on {machine} (/tmp/ray/session_latest/logs/worker-*.err)"
        self._started_with: tuple[object, ...] | None = None  # its process; None: it has none

    @property
    def is_old(self) -> bool:
        """Was its process started with other settings? Then it makes room for another as soon as it is free."""
        return self._started_with not in (None, self._start())

    def renew(self, settings: Settings, device: WorkerDevice) -> None:
        """Draw by these settings."""
        if self.asleep:
            self._started_with = None
        self._settings, self._assigned = settings, device
        self._sleep_if_free()

    def _start(self) -> tuple[object, ...]:
        return (*launch.arguments(self._settings, self._assigned), self._assigned.threads)

    async def _run_once(self) -> str:
        self._started_with = self._start()
        return await super()._run_once()

    def _sleep_if_free(self) -> None:
        if self.is_old:
            self.rest.wanted = True
        super()._sleep_if_free()
        if self.is_old and self.asleep:
            self.wake()

    async def _on_message(self, message: protocol.ToFront) -> None:
        self._host.hear(message)
        await super()._on_message(message)
        if isinstance(message, protocol.Hello):
            self._sleep_if_free()  # other settings may have come while it started


class Host:
    """One worker process, as a replica offers it. All methods run on the replica's event loop."""

    def __init__(self, settings: Settings, device: WorkerDevice, machine: str, place: str) -> None:
        """``place``: the device with its number on this machine, as fronts are to call it."""
        self._here = Here(machine, place, __version__)
        self._worker = HostedWorker(self, settings, device, machine)
        self._worker.on_change = self._tell_standing
        self._plans: frozenset[ModelPlan] = frozenset()
        self._known: dict[tuple[str, str], OfWatch] = {}  # the last of each kind, by the model that it is about
        self._watchers: list[Outbox[OfWatch]] = []
        self._drawings: dict[str, Outbox[OfDrawing]] = {}  # by job
        self._tasks: dict[str, set[asyncio.Task[None]]] = {}  # by front
        self._leases: dict[str, asyncio.Task[None]] = {}
        self._loads: set[asyncio.Task[None]] = set()
        self._jobs: dict[str, int] = {}  # by front

    def start(self) -> None:
        self._worker.start()

    async def stop(self) -> None:
        for task in (*self._leases.values(), *self._loads):
            task.cancel()
        await self._worker.stop()

    def check(self) -> None:
        """Raise RuntimeError where this replica draws no more, and another is to be started in its place."""
        if self._worker.given_up:
            raise RuntimeError(f"{self._here.machine}/{self._here.device}: {self._worker.start_failure or 'it failed'}")

    @property
    def drawings(self) -> int:
        """How many drawings it has."""
        return len(self._drawings)

    @property
    def jobs(self) -> int:
        """How many jobs the fronts have that are there, waiting ones included."""
        return sum(self._jobs.get(front, 0) for front in self._leases)

    def renew(self, settings: Settings, device: WorkerDevice) -> None:
        """Draw by these settings: by limits of time at once, by what a process starts with as soon as this one is free
        and another has come up."""
        self._worker.renew(settings, device)

    # What fronts ask.

    def greet(self) -> bytes:
        """Who is here."""
        return messages.encode(self._here)

    async def watch(self, front: str, lease: Lease, body: bytes) -> AsyncGenerator[bytes, None]:
        """What happens to models and process, from how it stands now on, until the front is gone."""
        await self._serve(messages.read_watch(body).plans)
        outbox = Outbox[OfWatch]()
        for known in self._known.values():
            outbox.put(known)
        outbox.put(self._standing())
        self._watchers.append(outbox)
        self._hold(front, lease)
        try:
            while front in self._leases:
                yield messages.encode(await outbox.take())
        finally:
            self._watchers.remove(outbox)

    async def draw(self, front: str, lease: Lease, body: bytes) -> AsyncGenerator[bytes, None]:
        """Make a drawing. Closing the generator stops it."""
        asked = messages.read_draw(body)
        job_id = asked.drawing.job_id
        yield messages.encode(Accepted(job_id))
        outbox = self._drawings[job_id] = Outbox[OfDrawing]()
        task = asyncio.create_task(self._draw(asked, outbox), name=f"draw-{job_id}")
        tasks = self._tasks.setdefault(front, set())
        tasks.add(task)
        self._hold(front, lease)
        try:
            while True:
                message = await outbox.take()
                yield messages.encode(message)
                if isinstance(message, _LAST):
                    return
        finally:
            task.cancel()
            tasks.discard(task)
            if self._drawings.get(job_id) is outbox:
                del self._drawings[job_id]

    async def tell(self, body: bytes, front: str = "") -> None:
        """What needs no answer."""
        match messages.read_told(body):
            case messages.Jobs(count):
                self._jobs[front] = count
            case messages.Sleep():
                self._worker.sleep()
            case messages.Wake():
                self._worker.wake()
            case protocol.Serve(plans):
                await self._serve(plans)
            case protocol.Leave(plan, place):
                self._worker.leave(plan, ModelState(place))
            case protocol.Load(plan):
                task = asyncio.create_task(self._load(plan), name=f"load-{plan.key}")
                self._loads.add(task)
                task.add_done_callback(self._loads.discard)

    async def _draw(self, asked: protocol.Draw, outbox: Outbox[OfDrawing]) -> None:
        job_id = asked.drawing.job_id
        try:
            async with asyncio.timeout(asked.within_s or None):
                # Its steps and previews are heard with all the worker's messages.
                outbox.put(await self._worker.draw(asked.drawing, asked.encoding, lambda done, of: None))
        except TimeoutError:
            late = DeadlineExceeded("The job did not finish in the time that this server allows.")
            outbox.put(Refusal.of(job_id, late))
        except asyncio.CancelledError:
            # So that the stream ends, should anybody still read it: the front's lease has ended, and no worker.
            outbox.put(Refusal.of(job_id, failures.unheard()))
            raise
        except DarkroomError as error:
            outbox.put(Refusal.of(job_id, error))
        except Exception:  # a traceback is for the log, and not for another machine
            log.exception("drawing failed in the replica", extra={"job": job_id})
            fault = ServerFault("The server failed on this job; the log of its replica says why.")
            outbox.put(Refusal.of(job_id, fault))

    async def _load(self, plan: ModelPlan) -> None:
        with contextlib.suppress(DarkroomError):  # said by Moved or by Standing
            await self._worker.load(plan, plan.key)

    async def _serve(self, plans: Iterable[ModelPlan]) -> None:
        """Draw by these plans, and say which of their folders this machine has not."""
        plans = frozenset(plans)
        if plans != self._plans:  # before anything is waited for: a load that comes next is of one of them
            self._plans = plans
            self._worker.serve(plans, ())
        for plan in await asyncio.to_thread(_missing, plans):
            if plan not in self._plans:
                continue  # other plans have come meanwhile
            reason = f"{plan.source}: not there on {self._here.machine}; models lie at one path on all machines"
            self.hear(protocol.Moved(plan.key, str(ModelState.BROKEN), reason, 0.0, plan.mark))

    def _hold(self, front: str, lease: Lease) -> None:
        """This front asks for something: it is wanted until the front is gone."""
        if front not in self._leases:
            # Of no request: Ray ends all calls that one has begun when it is cancelled, as a watch is by a front that
            # sees the replica leave, and the lease would seem to have ended.
            self._leases[front] = asyncio.create_task(
                self._until_gone(front, lease), name=f"lease-{front}", context=contextvars.Context()
            )

    async def _until_gone(self, front: str, lease: Lease) -> None:
        try:
            await lease.ended()
        except Exception:  # what cannot be watched does not hold
            log.exception("a lease cannot be watched", extra={"front": front})
        finally:
            del self._leases[front]
            self._jobs.pop(front, None)
        tasks = self._tasks.pop(front, set())
        log.warning("a front is gone", extra={"front": front, "drawings": len(tasks)})
        for task in tasks:
            task.cancel()

    # What the worker says.

    def hear(self, message: protocol.ToFront) -> None:
        """Pass on what the worker process says."""
        match message:
            case protocol.Hello() | protocol.Refused():
                self._known = {("Hello", ""): message}
                self._tell(message)
            case protocol.Started() | protocol.Progress() | protocol.Previewed() | protocol.Failed():
                outbox = self._drawings.get(message.job_id)
                if outbox is not None:
                    outbox.put(message)
            case protocol.Finished():
                pass  # the end of its draw
            case _:
                self._known[type(message).__name__, getattr(message, "key", "")] = message
                self._tell(message)

    def _tell(self, message: OfWatch) -> None:
        for watcher in self._watchers:
            watcher.put(message)

    def _standing(self) -> Standing:
        # One that makes room for another does not sleep: its models are to be loaded again.
        asleep = self._worker.asleep and not self._worker.is_old
        return Standing(self._worker.up, asleep, self._worker.start_failure)

    def _tell_standing(self) -> None:
        if not self._worker.up:
            broken = str(ModelState.BROKEN)
            gone = {id_: said for id_, said in self._known.items() if getattr(said, "place", "") == broken}
            self._known = gone  # what is broken on the disk stays so
        self._tell(self._standing())


def _missing(plans: Iterable[ModelPlan]) -> list[ModelPlan]:
    return [plan for plan in plans if not Path(plan.source).exists()]
