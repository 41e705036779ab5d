"""One device: its models, its engine, and the thread that loads while the engine draws.

Knows the engine, residency and the front's messages; knows nothing of sockets or processes.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from pipelines.engine.embeddings import EmbeddingCache
from pipelines.engine.engine import Engine
from pipelines.errors import Cancelled, DrawError
from pipelines.models import loader, residency, selfcheck
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing, ModelPlan
from server.worker import protocol
from server.worker.child.link import Link
from server.worker.child.reporter import Reporter

log = logging.getLogger("darkroom.worker")


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
        self._behind_load: dict[str, float] = {}  # drawings that wait for their model, and since when (monotonic)
        self._failures: dict[ModelPlan, tuple[float, DrawError]] = {}  # of last loads, and when; the load thread's own
        self._loads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")

    def preload(self, plan: ModelPlan) -> None:
        self._bring_in_turn(plan, None)

    def draw(self, drawing: Drawing) -> None:
        """At once if the model is on the device; behind its load if it is not. Other models go on meanwhile."""
        model = self._residency.pin_if_ready(drawing.plan)
        if model is not None:
            self._submit(model, drawing)
        else:
            self._behind_load[drawing.job_id] = time.monotonic()
            self._bring_in_turn(drawing.plan, drawing)

    def cancel(self, job_id: str) -> None:
        self._behind_load.pop(job_id, None)
        self._engine.cancel(job_id)

    def close(self) -> None:
        """Finish what was sent."""
        self._loads.shutdown(wait=True)
        self._engine.close()
        self.reporter.close()

    def _bring_in_turn(self, plan: ModelPlan, drawing: Drawing | None) -> None:
        self._loads.submit(self._pin_and_go_on, plan, drawing).add_done_callback(_fail_as_a_thread)

    def _pin_and_go_on(self, plan: ModelPlan, drawing: Drawing | None) -> None:
        try:
            if drawing is None:
                self._pin(plan)
                self._residency.unpin(plan)
            else:
                self._pin_and_submit(drawing)
        except DrawError as error:
            if drawing is not None:
                self.reporter.failed(drawing, error)
        finally:
            if drawing is not None:
                self._behind_load.pop(drawing.job_id, None)

    def _pin_and_submit(self, drawing: Drawing) -> None:
        """Raises DrawError where it does not come to drawing. No load for a client that left meanwhile, and none to
        fail once more for those who waited for one that failed."""
        since = self._behind_load.get(drawing.job_id)
        if since is None:
            raise Cancelled("the client left")
        failed, error = self._failures.get(drawing.plan, (0.0, None))
        if error is not None and since <= failed:
            raise error.with_traceback(None)
        model = self._pin(drawing.plan)
        if drawing.job_id not in self._behind_load:
            self._residency.unpin(drawing.plan)
            raise Cancelled("the client left")
        self._submit(model, drawing)
        if drawing.job_id not in self._behind_load:
            self._engine.cancel(drawing.job_id)  # it was cancelled before the engine knew it

    def _pin(self, plan: ModelPlan) -> LoadedModel:
        try:
            model = self._residency.pin(plan)
        except DrawError as error:
            # Another like it: its own traceback would keep what the load had made.
            self._failures[plan] = time.monotonic(), type(error)(str(error))
            raise
        self._failures.pop(plan, None)
        return model

    def _submit(self, model: LoadedModel, drawing: Drawing) -> None:
        self.reporter.counted(drawing, model.tokens.count(drawing.spec.prompt, drawing.spec.negative_prompt))
        self._engine.submit(model, drawing, done=lambda: self._left(drawing))

    def _left(self, drawing: Drawing) -> None:
        self._residency.unpin(drawing.plan)
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
        if not model.shares:
            log.warning("model runs unshared", extra={"model": plan.key, "reason": model.reason})
        self._link.send(protocol.Checked(plan.key, model.shares, model.reason))
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
