"""The engine: continuous batching at the denoising step, for any diffusers pipeline.

Knows runs, calls and steps on one device; knows neither HTTP, nor pipes, nor how models are loaded, nor any pipeline
class by name. docs/engine.md tells how it works, with a drawing. In short: every run waits at its denoiser; when all
wait, the calls that the policy chooses are merged, the real module runs once, and its rows go back. All of it, the
runs' own code too, happens on one thread, whose turns the runs take as greenlets.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence

import torch

from pipelines.engine import collate, policy
from pipelines.engine.batch import Batch
from pipelines.engine.call import Call
from pipelines.engine.embeddings import EmbeddingCache
from pipelines.engine.meter import Meter
from pipelines.engine.model import Model
from pipelines.engine.run import Run
from pipelines.engine.shared import SharedModule, Stage
from pipelines.engine.sink import Sink
from pipelines.engine.step_cache import Question
from pipelines.engine.turns import Turns
from pipelines.errors import Cancelled
from pipelines.plan import Drawing

_MAX_ACTIVE = 256  # runs at once: each keeps its latents; the front sends no more than its running_jobs
# Set-ups hold up everybody's next step: of runs whose prompts are to be encoded, which they wait for, not by much.
_SETUPS_PER_STEP, _SOURCE_SETUPS_PER_STEP = 16, 4


class Engine:
    """Draws on one device. ``submit`` and ``cancel`` may be called from any thread."""

    def __init__(
        self,
        sink: Sink,
        *,
        embeddings: EmbeddingCache | None = None,
        observe: Callable[[Call], None] = lambda call: None,
        max_active: int = _MAX_ACTIVE,
        encodes_first: bool = False,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        """``observe`` is shown every call that a run waits for; for the check at load. No more than ``max_active`` runs
        go on at once. ``encodes_first``: steps wait until all prompts are encoded. ``settle`` is called whenever all
        is drawn and nothing waits."""
        self.counts: Counter[str] = Counter()  # forwards, rows, and every fallback
        self._sink = sink
        self._embeddings = embeddings
        self._observe = observe
        self._max_active = max_active
        self._settle = settle
        # In order of arrival, each with what to call when it has ended.
        self._newcomers: dict[Run, Callable[[], None]] = {}
        self._active: dict[Run, Callable[[], None]] = {}
        self._ready: deque[Run] = deque()  # may go on as soon as it is their turn
        self._waiting: dict[Call, Run] = {}
        self._turns = Turns(encodes_first=encodes_first)
        self._meter = Meter(sink.took)
        # While runs are active; weakly, for a busy engine must not keep a model that was evicted.
        self._mergers: weakref.WeakKeyDictionary[SharedModule, collate.Merger] = weakref.WeakKeyDictionary()
        self._change = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="engine")
        self._thread.start()

    def submit(self, model: Model, *drawings: Drawing, done: Callable[[], None] = lambda: None) -> None:
        """Draw on a loaded model. ``done`` is called as each run has ended, whatever its end."""
        runs = [
            Run(
                drawing,
                model,
                self._sink,
                embeddings=self._embeddings,
                counts=self.counts,
                settle=self._meter.settle,
            )
            for drawing in drawings
        ]
        with self._change:
            self._newcomers.update(dict.fromkeys(runs, done))
            self._change.notify()

    def cancel(self, job_id: str) -> None:
        """Stop a drawing at its next step, or before it starts. One that is not here is left alone."""
        with self._change:
            for run in (*self._newcomers, *self._active):
                if run.drawing.job_id == job_id:
                    run.cancelled = True
            self._change.notify()

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join()

    @property
    def idle(self) -> bool:
        """Nothing is drawn or waits, and nothing is kept of what was."""
        return not (self._newcomers or self._active or self._ready or self._waiting or self._mergers)

    # The loop.

    def _work(self) -> None:
        with torch.no_grad():  # grad mode is each thread's own
            while self._wait_for_work():
                self._admit()
                self._let_runs_go()
                self._dismiss_cancelled()
                if not self._take_known() and self._waiting:
                    self._step()

    def _wait_for_work(self) -> bool:
        if not self._active:
            for shared in self._mergers:
                if shared.prompt_work is not None:
                    shared.prompt_work.rest()
            has_drawn = bool(self._mergers)
            self._mergers.clear()
            if has_drawn and not (self._newcomers or self._closing):
                self._settle()
        with self._change:
            self._change.wait_for(lambda: self._active or self._newcomers or self._closing)
            return bool(self._active or self._newcomers)

    def _admit(self) -> None:
        """Let newcomers in: a few a step, one at a time for a model that cannot share."""
        with self._change:  # throughout: a run is always found by ``cancel``, here or there
            room = 1.0
            for run in list(self._newcomers):
                takes = 1 / (_SOURCE_SETUPS_PER_STEP if _brings_pictures(run) else _SETUPS_PER_STEP)
                if takes > room or len(self._active) >= self._max_active:
                    break
                if not run.model.shares and any(other.model is run.model for other in self._active):
                    continue
                room -= takes
                self._active[run] = self._newcomers.pop(run)
                self._ready.append(run)

    def _let_runs_go(self) -> None:
        """Let the ready runs go, one after another, each until it waits for a shared call, or ends."""
        asking: list[tuple[Run, Question]] = []
        while self._ready:
            run = self._ready.popleft()
            found = run.go()
            if found is None:
                self._leave(run)
            elif isinstance(found, Question):
                asking.append((run, found))
            else:
                self._observe(found)
                self._waiting[found] = run
            if asking and not self._ready:
                self._answer([question for _, question in asking])
                self._ready.extend(run for run, _ in asking)
                asking.clear()

    def _answer(self, questions: Sequence[Question]) -> None:
        """Read what runs want to know: once, for it holds up the device."""
        self.counts["cache_reads"] += 1
        numbers: list[float] = torch.stack([question.number for question in questions]).tolist()
        for question, number in zip(questions, numbers, strict=True):
            question.answer = number

    def _leave(self, run: Run) -> None:
        with self._change:
            done = self._active.pop(run)
        done()

    def _dismiss_cancelled(self) -> None:
        for call, run in list(self._waiting.items()):
            if run.cancelled:
                call.error = Cancelled("the client left")
                self._wake(call)

    def _take_known(self) -> bool:
        """Wake runs whose prompts were kept of another while they waited. Are there any?"""
        woken = False
        for call in list(self._waiting):
            if call.known is not None and (output := call.known()) is not None:
                call.output, woken = output, True
                self._wake(call)
        return woken

    def _step(self) -> None:
        batch = self._choose()
        began_s = time.perf_counter()
        first = batch.calls[0]
        with self._meter.time(batch.calls, first.shared.device):
            batch.run()
        self._turns.took(first.shared, sum(batch.rows), batch.area, time.perf_counter() - began_s)
        if first.shared.stage is Stage.DENOISE:
            self._sink.stepped(first.drawing, first.shared.costs)
        for call in batch.calls:
            self._wake(call)

    def _choose(self) -> Batch:
        waiting = self._turns.due(list(self._waiting))
        alike: Counter[Hashable] = Counter()  # rows
        for call in waiting:
            alike[call.key] += call.rows
        one_of_each = {call.key: call for call in waiting}
        limits = {key: call.shared.most_rows(call.area, alike[key]) for key, call in one_of_each.items()}
        chosen = self._try_others(policy.choose(waiting, limits), waiting, limits, alike)
        shared, model = chosen[0].shared, chosen[0].model
        if model.adapters:  # equal ones side by side
            chosen.sort(key=lambda call: call.drawing.spec.adapters)
        for call in self._waiting.keys() - set(chosen):
            call.history.passed_over += 1
        return Batch(chosen, self._mergers.setdefault(shared, collate.Merger()), self.counts)

    def _try_others(
        self, chosen: list[Call], waiting: list[Call], limits: dict[Hashable, int], alike: Counter[Hashable]
    ) -> list[Call]:
        """The calls of the next step: mostly those ``chosen``; now and then more or fewer, so that no limit of their
        rows is wrong for long. ``alike``: the rows that wait, by what they fit."""
        head = chosen[0]
        if not head.shared.is_denoiser or len(waiting) == 1:
            return chosen
        tried = head.shared.rows_to_try(limits[head.key], alike[head.key], head.area)
        return chosen if tried == limits[head.key] else policy.choose(waiting, {**limits, head.key: tried})

    def _wake(self, call: Call) -> None:
        self._ready.append(self._waiting.pop(call))


def _brings_pictures(run: Run) -> bool:
    return bool(run.drawing.spec.sources or run.drawing.spec.controls)
