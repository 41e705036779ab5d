"""One device: its models, its engine, and the thread that loads while the engine draws.

Knows the engine, residency and the front's messages; knows nothing of sockets or processes.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipelines.engine import embeddings
from pipelines.engine.engine import Engine
from pipelines.engine.graph_pool import GraphPool
from pipelines.errors import Cancelled, DrawError
from pipelines.facts import working_room
from pipelines.models import garbage, loader, memory, residency, selfcheck, upscaler_alone
from pipelines.models.loader import LoadedModel
from pipelines.models.records import Records
from pipelines.models.upscaler_alone import UpscalerAlone
from pipelines.plan import Drawing, ModelPlan
from server.sizes import memory_of
from server.worker import protocol
from server.worker.child.enlarging import Enlargement
from server.worker.child.graph_watch import GraphWatch
from server.worker.child.link import Link
from server.worker.child.reporter import Reporter, fail_as_thread
from server.worker.child.signs import LoadSigns
from server.worker.child.verdicts import Verdicts

log = logging.getLogger("darkroom.worker")


class Device:
    """What the front's messages set going on one device. All methods are called from the thread that reads them."""

    def __init__(
        self,
        device: torch.device,
        link: Link,
        device_memory: str = "",
        records: Records | None = None,
        *,
        share: int = 1,
    ) -> None:
        """``records`` keeps what the checks at load find, and what is learnt of steps; without them, this process alone
        knows it. So many workers ``share`` the host's memory and cores."""
        self._link = link
        self._device = device
        self.reporter = Reporter(link, share=share)
        self._embeddings = embeddings.EmbeddingCache()
        self._engine = Engine(self.reporter, embeddings=self._embeddings, settle=garbage.settle)
        self._graphs = GraphPool(device) if device.type == "cuda" else None
        bound = memory_of(device_memory, memory.whole(device)) if device_memory else None
        budget, host_budget = memory.measure_budget(device)
        host_budget //= share
        if not memory.has_memory(device):
            budget //= share  # it is the host's
        self._residency = residency.Residency(
            self._load,
            self._size_of,
            self._moved,
            device=device,
            budget=budget if bound is None else min(bound, budget),
            host_budget=host_budget,
            # Not on the CPU: weights there are files that the kernel counts as free memory.
            room=working_bytes if device.type == "cuda" else lambda plan: None,
            advice=partial(_advice, device),
            measure=partial(_budget, device, bound, self._graphs) if memory.has_memory(device) else None,
            graphs=self._graphs,
        )
        self._graph_watch = GraphWatch(link, lambda: 0 if self._graphs is None else self._graphs.bytes)
        self._waiting_since: dict[str, float] = {}  # of drawings whose model is not loaded, by job (monotonic)
        self._failures: dict[ModelPlan, tuple[float, DrawError]] = {}  # of last loads, and when; the load thread's own
        self._host_encoders: dict[ModelPlan, bool] = {}  # of each plan that was sized; the load thread's own
        self._verdicts = Verdicts(records or Records(None, darkroom="", device=str(device)))
        self._load_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")
        self._served: frozenset[ModelPlan] = frozenset()  # as it was last told

    def preload(self, plan: ModelPlan) -> None:
        """Load a model that no drawing waits for yet, or say that it is there."""
        self._queue_load(plan, None)

    def serve(self, plans: Iterable[ModelPlan]) -> None:
        """Let go of the weights of all other plans: now, or once nothing is drawn with them."""
        before, self._served = self._served, frozenset(plans)
        self._residency.serve(self._served)
        self._on_load_thread(self._forget_all_but, self._served)
        for plan in self._served - before:  # one that is back has not left where something was drawn with it
            self._on_load_thread(self._tell_if_ready, plan)
        self._on_load_thread(self._residency.sweep)

    def leave(self, plan: ModelPlan, place: str) -> None:
        """Send a model away: now, or once nothing is drawn with it."""

        def ask() -> None:
            self._residency.ask_away(plan, residency.Place(place))

        self._on_load_thread(ask)  # behind a load of it that is under way
        self._on_load_thread(self._residency.sweep)

    def draw(self, drawing: Drawing) -> None:
        """Draw at once if the model is on the device, else after its load. Drawings of other models go on meanwhile."""
        if drawing.plan.only_enlarges and not drawing.plan.upscalers:
            self.reporter.enlarge(drawing)  # by Lanczos: there is nothing to load
            return
        model = self._residency.pin_if_ready(drawing.plan)
        if model is not None:
            self._submit(model, drawing)
        else:
            self._waiting_since[drawing.job_id] = time.monotonic()
            self._queue_load(drawing.plan, drawing)

    def cancel(self, job_id: str) -> None:
        """Stop a drawing, wherever it is on its way."""
        self._waiting_since.pop(job_id, None)
        self._engine.cancel(job_id)
        self.reporter.cancel(job_id)

    def close(self) -> None:
        """Finish what was sent."""
        self._load_thread.shutdown(wait=True)
        self._engine.close()
        self._verdicts.keep(self._verdicts.learnt())
        self.reporter.close()

    def _queue_load(self, plan: ModelPlan, drawing: Drawing | None) -> None:
        self._on_load_thread(self._load_then_draw, plan, drawing)

    def _forget_all_but(self, plans: frozenset[ModelPlan]) -> None:
        for known in (self._failures, self._host_encoders):
            for plan in known.keys() - plans:
                del known[plan]
        self._verdicts.forget_all_but(plans)
        self.reporter.costs.forget_all_but(plans)
        self._graph_watch.forget_all_but(plans)

    def _on_load_thread(self, work: Callable[..., object], *args: Any) -> None:
        self._load_thread.submit(work, *args).add_done_callback(fail_as_thread)

    def _unless_closing(self, work: Callable[..., object], *args: Any) -> None:
        """The same, for threads that go on after the load thread has ended, while the worker closes."""
        with contextlib.suppress(RuntimeError):
            self._on_load_thread(work, *args)

    def _load_then_draw(self, plan: ModelPlan, drawing: Drawing | None) -> None:
        try:
            if drawing is not None:
                self._pin_and_submit(drawing)
            elif not self._tell_if_ready(plan):
                self._pin(plan)
                self._residency.unpin(plan)
        except DrawError as error:
            if drawing is not None:
                self.reporter.failed(drawing, error)
        finally:
            if drawing is not None:
                self._waiting_since.pop(drawing.job_id, None)

    def _tell_if_ready(self, plan: ModelPlan) -> bool:
        """Say of a model on the device that it is there: the front has forgotten one whose entry was changed and
        changed back, and may have asked for it. On the load thread, where no load is told of meanwhile."""
        model = self._residency.pin_if_ready(plan)
        if model is None:
            return False
        self._moved(plan, residency.Place.DEVICE, "", 0.0)
        if not isinstance(model, UpscalerAlone):
            self._tell_shares(plan, model)
        self._unpin(plan)
        return True

    def _tell_shares(self, plan: ModelPlan, model: LoadedModel) -> None:
        self._link.send(protocol.Checked(plan.key, model.shares, model.reason, plan.mark))

    def _pin_and_submit(self, drawing: Drawing) -> None:
        """Raises DrawError where it does not come to drawing. Nothing is loaded for a client that left meanwhile, and a
        load that failed is not tried again for those who waited for it."""
        since = self._waiting_since.get(drawing.job_id)
        if since is None:
            raise Cancelled("the client left")
        failed, error = self._failures.get(drawing.plan, (0.0, None))
        if error is not None and since <= failed:
            raise error.with_traceback(None)
        model = self._pin(drawing.plan)
        if drawing.job_id not in self._waiting_since:
            self._residency.unpin(drawing.plan)
            raise Cancelled("the client left")
        self._submit(model, drawing)
        if drawing.job_id not in self._waiting_since:
            self._engine.cancel(drawing.job_id)  # it was cancelled before the engine knew it
            self.reporter.cancel(drawing.job_id)

    def _pin(self, plan: ModelPlan) -> LoadedModel | UpscalerAlone:
        try:
            model = self._residency.pin(plan)
        except DrawError as error:
            # Another like it: its own traceback would keep what the load had made.
            self._failures[plan] = time.monotonic(), type(error)(str(error))
            raise
        self._failures.pop(plan, None)
        return model

    def _submit(self, model: LoadedModel | UpscalerAlone, drawing: Drawing) -> None:
        network = None if drawing.spec.upscaler is None else model.upscalers.get(drawing.spec.upscaler)
        if network is not None:  # until its pictures have been made larger, which is after its run
            self._residency.pin_again(drawing.plan)
            self.reporter.set_enlargement(drawing, Enlargement(network, lambda: self._unpin(drawing.plan)))
        if isinstance(model, UpscalerAlone):
            self.reporter.enlarge(drawing)
            self._unpin(drawing.plan)
            return
        model.prepare(drawing.spec.task, [control.name for control in drawing.spec.controls])
        self.reporter.set_text_tokens(drawing, model.tokens.count(drawing.spec.prompt, drawing.spec.negative_prompt))
        self._engine.submit(model, drawing, done=lambda: self._run_ended(drawing))

    def _unpin(self, plan: ModelPlan) -> None:
        self._residency.unpin(plan)
        if self._residency.has_leavers:
            self._unless_closing(self._residency.sweep)

    def _run_ended(self, drawing: Drawing) -> None:
        self._graph_watch.tell(drawing.plan)  # before the model may leave, and its graphs
        self._unpin(drawing.plan)
        if self.reporter.is_idle:
            # What is learnt is read here, on the thread that learns. A worker that is closing keeps it itself.
            self._unless_closing(self._verdicts.keep, self._verdicts.learnt())
        # Not the hits of the prompt cache: whoever reads /metrics could tell that another key has sent a prompt.
        self._link.send(protocol.Tally(dict(self._engine.counts), memory.usage(self._device)))

    def _load(self, plan: ModelPlan) -> LoadedModel | UpscalerAlone:
        if plan.only_enlarges:
            return upscaler_alone.load(plan, self._device)
        # On a thread that ends with it. OpenMP keeps helpers for every thread that has computed, and once there are
        # more of them than cores they sleep at every barrier instead of spinning: a third of the time nothing ran.
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="load") as once:
            return once.submit(self._load_and_check, plan).result()

    def _load_and_check(self, plan: ModelPlan) -> LoadedModel:
        with LoadSigns(self._link, plan) as signs:
            record, known = self._verdicts.record_of(plan)  # of the files as they are before they are loaded
            on_host = self._host_encoders.get(plan, False)
            model = loader.load(
                plan, self._device, host_encoders=on_host, component_done=signs.component, graphs=self._graphs
            )
            verdict = selfcheck.check(model, known, signs.forward)
        self._verdicts.checked(plan, record, verdict, known, model)
        if not model.shares:
            log.warning("model runs unshared", extra={"model": plan.key, "reason": model.reason})
        self._tell_shares(plan, model)
        self.reporter.costs.checked(plan, model)
        self._graph_watch.checked(plan, model)
        return model

    def _size_of(self, plan: ModelPlan) -> int:
        """Bytes on the device. Decides where its text encoders stay: only a model that would not fit an empty device,
        or whose entry says so, has them in host memory."""
        if plan.only_enlarges:
            return upscaler_alone.weight_bytes(plan, self._device)
        size = loader.weight_bytes(plan, self._device)
        self._host_encoders[plan] = self._device.type == "cuda" and (
            plan.encoders == "host" or (plan.encoders == "auto" and size > self._residency.limit(plan))
        )
        if self._host_encoders[plan]:
            size = loader.weight_bytes(plan, self._device, host_encoders=True)
        return size

    def _moved(self, plan: ModelPlan, place: residency.Place, reason: str, seconds: float) -> None:
        ready = place is residency.Place.DEVICE
        size, room = self._residency.sizes(plan) if ready else (0, 0)
        self._link.send(protocol.Moved(plan.key, str(place), reason, round(seconds, 3), plan.mark, size, room))
        if usage := memory.usage(self._device):
            self._link.send(protocol.Tally(dict(self._engine.counts), usage))


def _budget(device: torch.device, bound: int | None, graphs: GraphPool | None, resident: int) -> int:
    budget = memory.device_budget(device, resident, 0 if graphs is None else graphs.bytes)
    return budget if bound is None else min(bound, budget)


def working_bytes(plan: ModelPlan) -> int | None:
    """Bytes of a device that the work of a model takes beside weights; None where its configurations do not say."""
    if plan.only_enlarges:
        return upscaler_alone.WORKING_BYTES
    room = working_room.working_bytes(Path(plan.folder), plan.native_width, plan.native_height)
    return None if room is None else room + embeddings.MAX_BYTES


def _advice(device: torch.device, plan: ModelPlan, limit: int) -> str:
    if plan.only_enlarges:
        return ""
    word = loader.advice(plan, device, limit)
    if word or device.type == "cpu":
        return word
    size = loader.weight_bytes(plan, device)
    return f"a device that has {size >> 20} MiB for weights; a model is never spread over several"
