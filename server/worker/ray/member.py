"""A replica as a member of the fleet: a device of another machine, watched and drawn on over a link.

Knows messages, deadlines and models; knows neither Ray nor sockets. A replica that says nothing for ten seconds is lost
to its drawings, and is given no more until it is heard again. One that leaves ends what it has accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable

import msgspec

from pipelines.plan import Drawing, ModelPlan
from pipelines.spec import Encoding
from server.worker import failures, news, protocol
from server.worker.member import Assignment, Previewed, Progress, Spent, spends_nothing
from server.worker.pending import Pending, Pendings, note_spent
from server.worker.ray import messages
from server.worker.ray.link import Link, LinkBroken
from server.worker.ray.messages import Accepted, Alive, Refusal, Standing
from server.worker.rest import Rest
from server.worker.status import ModelState, ModelStatuses

log = logging.getLogger("darkroom.worker")

SILENT_S = 10.0  # five signs of life
_RETRY_S = 1.0
_LOOK_S = 0.05  # between two looks at a load that somebody waits for
_MIN_WITHIN_S = 0.01  # 0 would be no limit
_AWAY = Standing(up=False, asleep=False)


class ServeMember:
    """The front's handle on one replica. All methods run on the event loop's thread."""

    def __init__(self, assignment: Assignment, *, link: Link, silent_s: float = SILENT_S) -> None:
        self.name = assignment.device.name
        self.device = assignment.device.kind
        self.device_name = self.device_problem = self.start_failure = ""
        self.rest = Rest()
        self.on_refused: Callable[[str], None] = lambda reason: None
        self.on_change: Callable[[], None] = lambda: None
        self.on_spent: Spent = spends_nothing
        self._settings = assignment.settings
        self._plans = assignment.plans
        self._preload = self._awaited = assignment.preload
        self._metrics = assignment.metrics
        self.models = ModelStatuses(self._plans, self._metrics, self.name, assignment.deaths)
        self._link = link
        self._silent_s = silent_s
        self._standing = _AWAY
        self._pending = Pendings()
        self._accepted: set[str] = set()  # jobs that have reached the replica
        self._readings: set[asyncio.Task[None]] = set()
        self._tellings: set[asyncio.Task[None]] = set()
        self._telling = asyncio.Lock()  # given in the order in which it is asked for
        self._watching: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Is its worker process up, and has it been heard lately?"""
        return self._standing.up

    @property
    def asleep(self) -> bool:
        return self._standing.asleep

    @property
    def busy(self) -> bool:
        """Is anything drawn or loaded for this server?"""
        return bool(self._pending or self.models.loading)

    @property
    def settled(self) -> bool:
        """Is it up, and has every model to preload been ready, or found broken?"""
        return self.rest.excused or (self.up and self.models.tried(self._awaited))

    def in_use(self, plan: ModelPlan) -> bool:
        return any(pending.plan == plan for pending in self._pending.values())

    def require(self, key: str, model: str, *, retry: bool = True) -> None:
        if self.start_failure:
            raise failures.cannot_start()
        self.models.require(key, model, retry=retry)

    # Life.

    def start(self) -> None:
        """Begin to watch the replica."""
        self._watching = asyncio.create_task(self._watch(), name=f"watch-{self.name}")

    async def stop(self) -> None:
        """End all that is drawn there for this server, and watch it no more."""
        self._stand(_AWAY, known=False)
        for task in (self._watching, *self._tellings, *self._readings):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._watching is not None:
            self._watching = None
            self.models.close()

    async def retire(self) -> None:
        """The replica leaves. Return when the drawings that it has accepted have ended; others are lost at once, and
        may be drawn elsewhere."""
        if self._watching is not None:
            self._watching.cancel()
        self._stand(_AWAY, known=False)
        for job_id, pending in self._pending.items():
            if job_id not in self._accepted:
                pending.end(failures.unheard(begun=True, started=False))
        while self._readings:
            await asyncio.wait(self._readings)
        await self.stop()

    async def _watch(self) -> None:
        while True:
            try:
                frames = self._link.watch(messages.encode(messages.Watch(self._plans)))
                async with contextlib.aclosing(frames):
                    while True:
                        async with asyncio.timeout(self._silent_s):
                            body = await anext(frames)
                        self._hear(messages.read_of_watch(body))
            except (LinkBroken, StopAsyncIteration, msgspec.DecodeError) as error:
                reason = f"{type(error).__name__}: {error}"
            except TimeoutError:
                reason = f"silent for {self._silent_s:.0f} s"
            except Exception as error:  # whatever it is: a member that nobody watches would be up for ever
                log.exception("watching a replica failed", extra={"device": self.name})
                reason = type(error).__name__
            self._lose(reason)
            await asyncio.sleep(_RETRY_S)

    def _lose(self, reason: str) -> None:
        """It is not to be chosen until it is heard again. Whether its worker has ended, too, nobody knows."""
        if self.up or self.asleep:
            log.error("replica lost", extra={"device": self.name, "reason": reason})
            if self.up:
                self._metrics.restarted(self.name)
        self._stand(_AWAY, known=False)

    def _hear(self, message: messages.OfWatch) -> None:
        match message:
            case protocol.Hello(device, device_name, torch_version, problem):
                self.device, self.device_name, self.device_problem = device, device_name, problem
                self.models.worker_up()
                log.info("worker up", extra={"device": self.name, "device_name": device_name, "torch": torch_version})
            case protocol.Refused(reason):
                log.error("the device cannot be used", extra={"device": self.name, "reason": reason})
            case Standing():
                if self.up and not (message.up or message.asleep):
                    self._metrics.restarted(self.name)
                self._stand(message, known=True)
            case Alive():
                pass
            case _:
                news.note(message, self.models, self._metrics, self.name, {"device": self.name})
                if isinstance(message, protocol.Moved) and message.place == ModelState.READY:
                    self.rest.use(message.key)

    def _stand(self, standing: Standing, *, known: bool) -> None:
        """``known``: the replica says so. What is not known is blamed on no model."""
        before, self._standing = self._standing, standing
        self.start_failure = standing.start_failure
        if standing.start_failure and not before.start_failure:
            log.error("worker cannot start", extra={"device": self.name, "reason": standing.start_failure})
        if before.up and not standing.up:
            self.models.worker_lost(self._wanted(), blame=known)
            self._metrics.forget_memory(self.name)
        elif not (standing.up or standing.asleep) and self.models.loading:
            self.models.worker_lost(blame=False)  # it was to wake for that
        self._rest(standing, known=known)
        if standing.up and not before.up:
            preload = self._preload if self.rest.preloads else ()
            self._awaited = () if self.rest.waking else preload
            self.rest.up()
            self._load_all(plan for plan in preload if self.models.may_preload(plan.key))
        if standing != before:
            self.on_change()

    def _wanted(self) -> set[str]:
        """The keys of the models of what the worker has to draw."""
        accepted = (self._pending[job_id].plan for job_id in self._accepted if job_id in self._pending)
        return {plan.key for plan in accepted if self.models.serves(plan)}

    def _rest(self, standing: Standing, *, known: bool) -> None:
        """Note whether it sleeps, or wakes: one that is lost, or whose process cannot start, does neither."""
        if standing.asleep and not self.rest.asleep:
            self.rest.begin()
        wakes = self.rest.waking or (self.rest.asleep and not standing.asleep)
        self.rest.asleep = standing.asleep
        self.rest.waking = wakes and known and not (standing.asleep or standing.start_failure)

    # Models.

    def serve(self, plans: Iterable[ModelPlan], preload: Iterable[ModelPlan]) -> None:
        """Draw by these plans from now on; what is new among ``preload`` is loaded."""
        self._plans, before, self._preload = tuple(plans), set(self._preload), tuple(preload)
        self.models.serve(self._plans)
        self._awaited = tuple(plan for plan in self._awaited if self.models.serves(plan))
        self._tell(protocol.Serve(self._plans))
        if self.up:
            self._load_all(plan for plan in self._preload if plan not in before)

    def _load_all(self, plans: Iterable[ModelPlan]) -> None:
        for plan in self.models.absent(plans):
            self.models.moved(plan.key, ModelState.LOADING)
            self._tell(protocol.Load(plan))

    async def load(self, plan: ModelPlan, model: str) -> None:
        """Return when the weights are on the device. Raises ModelUnavailable, WorkerLost without a replica, and
        Unavailable where its process cannot start."""
        if self.models.is_ready(plan):
            return
        if not (self.up or self.rest.excused):
            raise failures.unheard()
        self.models.moved(plan.key, ModelState.LOADING)
        await self._send(protocol.Load(plan))
        while self._awaits(plan):  # noqa: ASYNC110, no event tells of it
            await asyncio.sleep(_LOOK_S)
        if self.models.is_ready(plan):
            return
        if self.start_failure:
            raise failures.cannot_start()
        raise failures.unavailable(model) if self.up else failures.lost()

    def leave(self, plan: ModelPlan, place: ModelState) -> None:
        self._tell(protocol.Leave(plan, str(place)))

    def sleep(self) -> None:
        self._tell(messages.Sleep())

    def wake(self) -> None:
        self.rest.preloads = True
        self._tell(messages.Wake())
        if self.up:
            self._load_all(self._preload)

    def tell_jobs(self, count: int) -> None:
        """Let the replica know how many jobs this server has; one that says nothing is told when it is heard again."""
        if self.up or self.asleep:
            self._tell(messages.Jobs(count))

    def _tell(self, message: messages.Told) -> None:
        """Say it without waiting. Where it does not arrive, the watch finds out why."""

        async def tell() -> None:
            with contextlib.suppress(Exception):
                await self._send(message)

        task = asyncio.create_task(tell(), name=f"tell-{self.name}")
        self._tellings.add(task)
        task.add_done_callback(self._tellings.discard)

    async def _send(self, message: messages.Told) -> None:
        """Say it after all that was to be said before: of two that are on their way the second may arrive first."""
        try:
            async with self._telling, asyncio.timeout(self._silent_s):
                await self._link.tell(messages.encode(message))
        except Exception as error:  # whatever it is, it has not arrived
            reason = f"{type(error).__name__}: {error}"
            log.warning("replica is not told", extra={"device": self.name, "reason": reason})
            if isinstance(message, protocol.Load) and self._awaits(message.plan):
                self.models.moved(message.plan.key, ModelState.UNLOADED)
            raise failures.unheard() from None

    def _awaits(self, plan: ModelPlan) -> bool:
        return self.models.serves(plan) and self.models[plan.key].state is ModelState.LOADING

    # Drawing.

    async def draw(
        self,
        drawing: Drawing,
        encoding: Encoding,
        progress: Progress,
        previewed: Previewed = lambda number, picture: None,
        deadline_s: float = math.inf,
    ) -> protocol.Finished:
        """The pictures of a drawing. Cancelling this coroutine stops the drawing at its next step."""
        if self.models.serves(drawing.plan):
            self.require(drawing.plan.key, drawing.spec.model)
        result: asyncio.Future[protocol.Finished] = asyncio.get_running_loop().create_future()
        pending = Pending(drawing.plan, drawing.spec.model, result, progress, previewed)
        self._pending[drawing.job_id] = pending
        self.rest.use(drawing.plan.key)
        # What is left to whoever waits for it: the replica ends it then, should it not hear that nobody does.
        within_s = min(self._settings.job_timeout_s, deadline_s - time.monotonic())
        asked = protocol.Draw(drawing, encoding, max(_MIN_WITHIN_S, within_s))
        reading = asyncio.create_task(self._read(asked, pending), name=f"draw-{drawing.job_id}")
        self._readings.add(reading)
        reading.add_done_callback(self._readings.discard)
        try:
            return await result
        finally:
            reading.cancel()  # closes the link's generator, which ends the drawing there
            self._pending.pop(drawing.job_id, None)
            self._accepted.discard(drawing.job_id)
            self.rest.use(drawing.plan.key)

    async def _read(self, asked: protocol.Draw, pending: Pending) -> None:
        job_id, reason, ready = asked.drawing.job_id, "", self.models.is_ready(pending.plan)
        try:
            frames = self._link.draw(messages.encode(asked))
            async with contextlib.aclosing(frames):
                while not pending.result.done():
                    async with asyncio.timeout(self._silent_s):
                        body = await anext(frames)
                    self._hear_of(messages.read_of_drawing(body), job_id, pending)
        except TimeoutError:
            reason = f"silent for {self._silent_s:.0f} s"
        except (LinkBroken, StopAsyncIteration, msgspec.DecodeError) as error:
            reason = f"{type(error).__name__}: {error}"
        except Exception as error:  # whatever it is: a drawing that nobody reads would last until its deadline
            log.exception("reading a drawing failed", extra={"device": self.name, "job": job_id})
            reason = type(error).__name__
        finally:
            if reason:
                log.error("drawing lost with its replica", extra={"device": self.name, "job": job_id, "reason": reason})
            # The watch may have noted before that all models there are gone.
            waited = job_id in self._accepted and not (ready or self.models.is_ready(pending.plan))
            pending.end(failures.unheard(begun=not (pending.started or waited), started=pending.started))

    def _hear_of(self, message: messages.OfDrawing, job_id: str, pending: Pending) -> None:
        match message:
            case Accepted():
                self._accepted.add(job_id)
            case Alive():
                pass
            case Refusal(_, kind, reason):
                extra = {"device": self.name, "job": job_id, "kind": kind, "reason": reason}
                log.warning("drawing ended in its replica", extra=extra)
                pending.end(message.error())
            case _:
                note_spent(message, self._metrics, self.name, self.on_spent)
                self._pending.hear(message)
