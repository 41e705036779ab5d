"""The engine: continuous batching at the denoising step, for any diffusers pipeline.

Knows runs, calls and steps on one device; knows neither HTTP, nor pipes, nor any pipeline class by name.
docs/engine.md tells how it works, with a drawing. In short: every run parks at its denoiser; when all have
parked, the calls that the policy chooses are merged, the real module runs once, and its rows go back. All of it, the
runs' own code too, happens on one thread, whose turns the runs take as greenlets.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from greenlet import getcurrent

from pipelines.engine import collate, policy, thread_state
from pipelines.engine.adapters import Share
from pipelines.engine.arguments import call_arguments
from pipelines.engine.embeddings import EmbeddingCache
from pipelines.engine.run import Call, Run
from pipelines.engine.shared import SharedModule
from pipelines.engine.view import bind
from pipelines.errors import Cancelled, DrawError, OutOfMemory, is_out_of_memory
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing

log = logging.getLogger("darkroom.engine")

_MAX_ACTIVE = 256  # runs at once: each keeps its latents; the front sends no more than its running_jobs
_SETUPS_PER_STEP = 4  # encoding prompts and sources holds up everybody's next step


class Sink(Protocol):
    """Who is told. Called while every run waits: must return at once."""

    def started(self, drawing: Drawing) -> None: ...
    def progress(self, drawing: Drawing, done: int, of: int) -> None: ...
    def previewed(self, drawing: Drawing, done: int, of: int, picture: torch.Tensor) -> None: ...  # (n, 3, h, w), 0..1
    def drawn(self, drawing: Drawing, drawn: torch.Tensor) -> None: ...  # (n, 3, h, w), 0..1
    def failed(self, drawing: Drawing, error: DrawError) -> None: ...


class Engine:
    """Draws drawings on one device. ``submit`` and ``cancel`` may be called from any thread."""

    def __init__(
        self,
        sink: Sink,
        *,
        embeddings: EmbeddingCache | None = None,
        observe: Callable[[Call], None] = lambda call: None,
        max_active: int = _MAX_ACTIVE,
    ) -> None:
        """``observe`` is shown every parked call; for the checks at load. No more than ``max_active`` runs go on
        at once."""
        self.sink = sink
        self._max_active = max_active
        self._observe = observe
        self.embeddings = embeddings
        self.counts: Counter[str] = Counter()  # forwards, rows, and every fallback
        self._newcomers: deque[Run] = deque()
        self._active: dict[str, Run] = {}
        self._ready: deque[Run] = deque()  # may go on as soon as it is their turn
        self._parked: list[Call] = []
        self._decoded = False  # since the last denoiser step
        # While runs are active; weakly, for a busy engine must not keep a model that was evicted.
        self._mergers: weakref.WeakKeyDictionary[SharedModule, collate.Merger] = weakref.WeakKeyDictionary()
        self._change = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="engine")
        self._thread.start()

    def submit(self, model: LoadedModel, *drawings: Drawing, done: Callable[[], None] = lambda: None) -> None:
        """Draw drawings on a loaded model. ``done`` is called as each run has ended, whatever its end."""
        with self._change:
            self._newcomers.extend(Run(self, drawing, model, done) for drawing in drawings)
            self._change.notify()

    def cancel(self, job_id: str) -> None:
        """Stop a drawing at its next step, or before it starts. A drawing that is not here is left alone."""
        with self._change:
            for run in (*self._newcomers, *self._active.values()):
                if run.drawing.job_id == job_id:
                    run.cancelled = True
            self._change.notify()

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join()

    # The loop.

    def _work(self) -> None:
        with torch.no_grad():  # grad mode is each thread's own
            self.thread_state = thread_state.current()
            self.take_turn = getcurrent().switch  # from the run that calls it
            while self._wait_for_work():
                self._admit()
                self._let_runs_go()
                self._dismiss_cancelled()
                if self._parked:
                    self._step()

    def _wait_for_work(self) -> bool:
        if not self._active:
            self._mergers.clear()
        with self._change:
            self._change.wait_for(lambda: self._active or self._newcomers or self._closing)
            return bool(self._active or self._newcomers)

    def _admit(self) -> None:
        """Let newcomers in: a few a step, one at a time for a model that cannot share."""
        with self._change:  # throughout: a drawing is always found by ``cancel``, here or there
            admitted, kept = 0, []
            for run in self._newcomers:
                busy = not run.model.shares and any(other.model is run.model for other in self._active.values())
                if admitted == _SETUPS_PER_STEP or len(self._active) >= self._max_active or busy:
                    kept.append(run)
                    continue
                admitted += 1
                self._active[run.drawing.job_id] = run
                self._ready.append(run)
            self._newcomers = deque(kept)

    def _let_runs_go(self) -> None:
        """Let the ready runs go, one after another, each until it parks or ends."""
        while self._ready:
            self._ready.popleft().go()

    def set_adapters(self, module: torch.nn.Module, runs: Sequence[Run], rows: Sequence[int]) -> None:
        """Switch on, for the next forward of ``module``, what each of ``runs`` asked for on its rows."""
        adapters = runs[0].model.adapters
        if adapters:
            shares = [Share(count, run.drawing.spec.adapters) for count, run in zip(rows, runs, strict=True)]
            self.counts["adapter_switches"] += adapters.use(module, shares)

    def _dismiss_cancelled(self) -> None:
        for call in [call for call in self._parked if call.run.cancelled]:
            self._wake(call, error=Cancelled("the client left"))

    def _step(self) -> None:
        waiting = self._parked
        if self._decoded:  # a crowd that ended together does not hold up everybody else's next step
            waiting = [call for call in waiting if call.shared.is_denoiser] or waiting
        one_of_each = {call.key: call for call in waiting}
        limits = {key: call.shared.most_rows(call.area) for key, call in one_of_each.items()}
        chosen = policy.choose(waiting, limits)
        if not chosen[0].shared.is_denoiser:
            self._decoded = True
        elif not chosen[0].first:
            self._decoded = False
        if chosen[0].run.model.adapters:  # equal ones side by side
            chosen.sort(key=lambda call: call.run.drawing.spec.adapters)
        going = set(chosen)
        for call in self._parked:
            call.run.passed_over += call not in going
        self._run_together(chosen)

    def _run_together(self, calls: Sequence[Call]) -> None:
        """One forward for all of ``calls``; on failure, find out which of them it is, and spare the others."""
        rows = [call.rows for call in calls]
        # Once out of the handlers: as long as one runs, its error's frames hold all that the failed forward made.
        outputs = failure = None
        try:
            outputs = self._forward(calls, rows)
        except torch.AcceleratorError:
            raise  # the device is lost to this process, which ends; another takes its place
        except Exception as error:
            if not is_out_of_memory(error):
                failure = _plain(error)
        if outputs is not None:
            for call, output in zip(calls, outputs, strict=True):
                self._wake(call, output)
        elif failure is None:
            self._run_smaller(calls, sum(rows))
        elif len(calls) == 1:
            self._wake(calls[0], error=failure)
        else:
            self.counts["retried_alone"] += 1
            log.warning("shared step failed, trying its runs alone", extra={"error": type(failure).__name__})
            for call in calls:
                self._run_together([call])

    def _forward(self, calls: Sequence[Call], rows: Sequence[int]) -> list[Any]:
        shared = calls[0].shared
        filling = shared.filled_up(sum(rows)) - sum(rows) if calls[0].run.model.shares else 0
        self.set_adapters(shared.module, [call.run for call in calls], [*rows[:-1], rows[-1] + filling])
        self.counts[f"{shared.name}_forwards"] += 1
        self.counts[f"{shared.name}_rows"] += sum(rows)
        with _autocast(calls[0].autocast):
            if len(calls) == 1 and not filling:
                most = shared.at_once(rows[0], calls[0].area)
                if most < rows[0]:
                    return [_cut(calls[0], most)]
                return [shared.function(*calls[0].args, **calls[0].kwargs)]  # exactly the call that the pipeline made
            arguments = [call.arguments for call in calls]
            if shared.ragged is not None:
                arguments = shared.ragged.levelled(arguments)
            arguments += [collate.take_rows(arguments[-1], 0, 1, rows[-1], shared.parts)] * filling
            rows = [*rows, *[1] * filling]
            merged = self._mergers.setdefault(shared, collate.Merger()).merge(arguments, rows, shared.parts)
            return collate.split(shared.function(**merged), rows, shared.output_parts)[: len(calls)]

    def _run_smaller(self, calls: Sequence[Call], rows: int) -> None:
        """The device had no room: remember it, and try again with half the rows."""
        self.counts["out_of_memory"] += 1
        shared, area = calls[0].shared, calls[0].area
        shared.learned_rows[area] = max(1, shared.at_once(rows, area) // 2)
        log.warning("out of device memory", extra={"shared": shared.name, "rows": rows, "area": area})
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(calls) > 1:
            self._run_together(calls[: len(calls) // 2])
            self._run_together(calls[len(calls) // 2 :])
        elif rows > 1:
            self._run_in_pieces(calls[0])
        else:
            self._wake(calls[0], error=OutOfMemory("the device has no room for one row"))

    def _run_in_pieces(self, call: Call) -> None:
        """One run's call, cut by rows into halves, and those again while they do not fit."""
        try:
            self._wake(call, self._pieces(call, 0, call.rows))
        except torch.AcceleratorError:
            raise
        except Exception as error:
            full = is_out_of_memory(error)
            self._wake(call, error=OutOfMemory("the device has no room for one row") if full else _plain(error))

    def _pieces(self, call: Call, start: int, stop: int) -> Any:
        middle = (start + stop) // 2
        outputs = []
        for piece_start, piece_stop in ((start, middle), (middle, stop)):
            part = collate.take_rows(call.arguments, piece_start, piece_stop, call.rows, call.shared.parts)
            output = None
            try:
                with _autocast(call.autocast):
                    output = call.shared.function(**part)
            except Exception as error:
                if piece_stop - piece_start == 1 or not is_out_of_memory(error):
                    raise
            outputs.append(self._pieces(call, piece_start, piece_stop) if output is None else output)
        return collate.join(outputs, [middle - start, stop - middle], call.shared.output_parts)

    def _wake(self, call: Call, result: Any = None, error: BaseException | None = None) -> None:
        self._parked.remove(call)
        call.output = result
        call.run.resume(result, error)
        self._ready.append(call.run)

    # What runs do, in their own turn.

    def park(self, call: Call) -> None:
        """Leave a call to be shared."""
        self._observe(call)
        self._parked.append(call)

    def draw_and_leave(self, run: Run) -> None:
        """All that a run does, from its first turn to its last."""
        self.draw(run)
        run.forget()
        with self._change:
            del self._active[run.drawing.job_id]
        run.done()

    def draw(self, run: Run) -> None:
        """The whole of a run: one ordinary pipeline call."""
        drawing, model = run.drawing, run.model
        try:
            if run.cancelled:
                raise Cancelled("the client left")
            self.sink.started(drawing)
            model.adapters.require(drawing.spec.adapters)
            pipeline = model.pipeline(drawing.spec.task)
            if not model.shares:
                for shared in model.shared_modules.values():
                    shared.forget()
            view = bind(
                pipeline,
                run,
                modules=model.shared_modules,
                scheduler=drawing.spec.scheduler,
                embeddings=self.embeddings,
            )
            drawn = view(**call_arguments(view, model.family, drawing.spec, drawing.seeds)).images
            self.sink.drawn(drawing, drawn)
        except DrawError as error:
            self.sink.failed(drawing, error)
        except torch.AcceleratorError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                self.sink.failed(drawing, OutOfMemory("the device has no room for this picture"))
                return
            log.exception("run failed", extra={"drawing": drawing.job_id, "model": drawing.plan.key})
            self.sink.failed(drawing, DrawError(f"{type(error).__name__}: {error}"))


def _cut(call: Call, most: int) -> Any:
    """A decode of more rows than it should have, so many at a time."""
    shared = call.shared
    starts = range(0, call.rows, most)
    counts = [min(most, call.rows - start) for start in starts]
    spans = ((start, start + count) for start, count in zip(starts, counts, strict=True))
    parts = (collate.take_rows(call.arguments, start, stop, call.rows, shared.parts) for start, stop in spans)
    return collate.join([shared.function(**part) for part in parts], counts, shared.output_parts)


def _autocast(dtype: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", dtype=dtype)


def _plain(error: Exception) -> Exception:
    """The same error without the frames of our thread, which would keep tensors alive."""
    error.__context__ = None
    return error.with_traceback(None)
