"""A run: one unmodified pipeline call for one drawing, from its first turn to its last.

Knows one drawing, its view of the pipeline and its turns; knows neither the engine nor other runs. A run is a greenlet.
It goes on when ``go`` is called, and gives the turn back where it waits for a shared call, or ends. So tokenizers and
schedulers are never entered twice at once, and a hand-over costs under half a microsecond, where threads cost 24 to 31
(docs/engine-bench.md). What torch remembers per thread goes with each run.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import torch
from greenlet import getcurrent, greenlet

from pipelines.engine import noise, thread_state
from pipelines.engine.adapters import Share
from pipelines.engine.arguments import call_arguments
from pipelines.engine.batch import free_cached, give_up_prompts
from pipelines.engine.call import Call, History
from pipelines.engine.embeddings import EmbeddingCache
from pipelines.engine.graph_pool import SHORT
from pipelines.engine.model import Model
from pipelines.engine.prompts import prompt_arguments
from pipelines.engine.shared import SharedModule, Stage, uncast
from pipelines.engine.sink import Sink
from pipelines.engine.step_cache import Question, StepCache
from pipelines.engine.thread_state import ThreadState
from pipelines.engine.view import bind, tell_times
from pipelines.errors import Cancelled, DrawError, OutOfMemory, is_device_lost, is_out_of_memory
from pipelines.facts import spacing, step_cache
from pipelines.plan import Drawing

log = logging.getLogger("darkroom.engine")


class Run:
    """One drawing's pipeline call. Its stand-ins meet here: it is the ``Rendezvous`` of its view.

    ``sink`` is told of the run's progress and end. ``counts`` gains the switches of adapters. ``settle`` is called
    before ``sink`` is told of the end, so that it has been told of all the seconds.
    """

    def __init__(
        self,
        drawing: Drawing,
        model: Model,
        sink: Sink,
        *,
        embeddings: EmbeddingCache | None = None,
        counts: Counter[str],
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self.drawing = drawing
        self.model = model
        self.cancelled = False
        self.width, self.height = drawing.spec.draw_width, drawing.spec.draw_height
        self.history = History(drawing.spec.steps)
        self._sink = sink
        self._embeddings = embeddings
        self._counts = counts
        self._settle = settle
        self._waits_for: Call | Question | None = None
        # Made at the first turn, on the thread that gives it: a greenlet belongs to its thread.
        self._greenlet: greenlet | None = None
        self._outside: ThreadState
        self._give_back: Callable[[], object]

    def go(self) -> Call | Question | None:
        """Go on to the next call that may be shared, or number to be read, and return it; None once the run has ended.

        It must hold its output, its error or its answer before ``go`` is called again. Only one thread may call this.
        """
        if self._greenlet is None:
            self._outside, self._give_back = thread_state.current(), getcurrent().switch
            self._greenlet = greenlet(self._live)
        self._greenlet.switch()
        found, self._waits_for = self._waits_for, None
        return found

    def _live(self) -> None:
        """All that a run does, in its own turns."""
        try:
            self._require_wanted()
            self._sink.started(self.drawing)
            drawn = self._draw()
            self._settle()
            self._sink.drawn(self.drawing, drawn)
        except DrawError as error:
            self._fail(error)
        except Exception as error:
            if is_device_lost(error):
                raise
            if is_out_of_memory(error):
                self._fail(OutOfMemory("the device has no room for this picture"))
            else:
                log.exception("run failed", extra={"job": self.drawing.job_id, "model": self.drawing.plan.key})
                self._fail(DrawError(f"{type(error).__name__}: {error}"))
        # The view that it drew on is part of reference cycles, and waits for the garbage collector with all it has.
        self.history.forget()

    def _fail(self, error: DrawError) -> None:
        self._settle()
        self._sink.failed(self.drawing, error)

    def _draw(self) -> torch.Tensor:
        """One ordinary pipeline call: (n, 3, draw_height, draw_width), 0..1."""
        model, spec = self.model, self.drawing.spec
        model.adapters.require(spec.adapters)
        pipeline, nets = model.pipeline(spec.task), list[SharedModule]()
        if spec.controls:
            pipeline, nets = model.controlled(spec.task, [control.name for control in spec.controls])
        if not model.shares:
            for shared in model.shared_modules.values():
                shared.forget()
        view = bind(
            pipeline,
            self,
            modules=model.shared_modules,
            scheduler=spec.scheduler,
            sigmas=spec.sigmas,
            dense_steps=self._dense_steps(),
            embeddings=self._embeddings,
            controls=nets,
        )
        self._begin_cache(view.scheduler)
        components = pipeline.components.values()
        with uncast(components), noise.in_float32(components):
            arguments = call_arguments(view, model.family, spec, self.drawing.seeds)
            drawn: torch.Tensor = view(**prompt_arguments(view, model.family, self.drawing, arguments)).images
        return drawn

    def _begin_cache(self, scheduler: Any) -> None:
        """Leave out steps, where the drawing is to."""
        strength = self.drawing.spec.step_cache
        if not strength or any(shared.keeps_state() for shared in self.model.shared_modules.values()):
            return
        name, config = type(scheduler).__name__, scheduler.config
        cache = StepCache(lambda steps: step_cache.rule(name, config, steps, strength))
        tell_times(scheduler, cache.told)
        self.history.cache = cache

    def _dense_steps(self) -> int | None:
        spec = self.drawing.spec
        if spec.spacing != spacing.DENSE_START:
            return None
        is_redrawn = spec.sources and not self.model.family.by_instruction
        return spacing.steps_drawn(spec.steps, spec.strength if is_redrawn else None)

    def _require_wanted(self) -> None:
        if self.cancelled:
            raise Cancelled("the client left")

    # What the view's stand-ins ask for.

    def share(
        self,
        shared: SharedModule,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        known: Callable[[], Any] | None = None,
    ) -> Any:
        self._require_wanted()
        cache = self.history.cache if shared.is_denoiser else None
        if cache is None:
            return self._call(shared, args, kwargs, known)
        question = cache.question()
        if question is not None:
            self._wait_for(question)
        cache.decide(None if question is None else question.answer)
        output = cache.answer(shared)
        if output is not None:
            self._counts["answered_from_cache"] += 1
            return output
        output = self._call(shared, args, kwargs)
        cache.keep(shared, output, is_main=shared.stage is Stage.DENOISE)
        return output

    def _wait_for(self, what: Call | Question) -> None:
        """Give the turn back until ``go`` is called again."""
        mine = thread_state.current()
        self._waits_for = what
        mine.changed_to(self._outside, self._give_back)

    def _call(
        self,
        shared: SharedModule,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        known: Callable[[], Any] | None = None,
    ) -> Any:
        mine = thread_state.current()
        call = Call(self.model, self.drawing, self.history, shared, args, kwargs, mine.autocast, known)
        self._waits_for = call
        mine.changed_to(self._outside, self._give_back)
        error, call.error = call.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # this frame would hold it, and its traceback this frame, with all that the run made
        output = call.output
        if shared.stage is Stage.ENCODE:
            call.output = call.known = None  # the check at load keeps calls: all layers' states are not for it to keep
        return output

    def alone(self, work: Callable[[], Any], module: torch.nn.Module | None = None) -> Any:
        self._require_wanted()
        shared = None if module is None else self.model.shared_modules.get(id(module))
        if shared is not None:
            self._counts[f"{shared.name}_forwards"] += 1
        if module is not None and self.model.adapters:
            wanted = [Share(1, self.drawing.spec.adapters)]
            self._counts["adapter_switches"] += self.model.adapters.use(module, wanted)
        with noise.suspended():
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Once out of the handler, whose error holds what the failed forward made. It cannot be cut, but what torch
            # keeps for batches that are over may be all that is in its way.
            self._counts["out_of_memory"] += 1
            give_up_prompts(self.model)
            pool = next((shared.pool for shared in self.model.shared_modules.values()), None)
            if pool is not None:
                pool.drop_all(SHORT)
            free_cached(pool)
            return work()

    def adapters(self, module: torch.nn.Module) -> Hashable:
        return self.model.adapters.of(module, self.drawing.spec.adapters)

    def stepped(self, done: int, of: int) -> None:
        self.history.steps_done, self.history.steps_of = done, of
        cache = self.history.cache
        if cache is not None:
            before = cache.left_out
            cache.stepped(done, of)
            if cache.left_out > before:
                self._sink.left_out(self.drawing)
        self._sink.progress(self.drawing, done, of)

    def wants_preview(self, done: int, of: int) -> bool:
        """Previews lie evenly between the first step and the last; the finished picture is none."""
        asked = self.drawing.previews
        return asked > 0 and done < of and done in {round(of * number / (asked + 1)) for number in range(1, asked + 1)}

    def previewed(self, done: int, of: int, picture: torch.Tensor) -> None:
        self._sink.previewed(self.drawing, done, of, picture)
