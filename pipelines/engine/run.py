"""A run: one unmodified pipeline call as a greenlet, and the places where it waits.

Knows one drawing, its view and its turns; knows nothing of other runs. A run goes on only when the engine lets it, and
gives the turn back where it parks or ends. So tokenizers and schedulers are never entered twice at once, and handing
over costs under half a microsecond, where threads cost 24 to 31 (docs/engine-bench.md). What torch remembers per
thread goes with each run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import torch
from greenlet import greenlet

from pipelines.engine import thread_state
from pipelines.engine.call import LastCall
from pipelines.engine.collate import Fingerprints, Uncollatable, count_rows, group_key
from pipelines.engine.shared import SharedModule
from pipelines.errors import Cancelled
from pipelines.plan import Drawing

if TYPE_CHECKING:
    from pipelines.engine.engine import Engine
    from pipelines.models.loader import LoadedModel


class Call:
    """A parked call: what the policy reads, and what the engine runs."""

    first: bool

    def __init__(
        self,
        run: Run,
        shared: SharedModule,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        autocast: torch.dtype | None,
    ) -> None:
        self.run = run
        self.shared = shared
        self.args = args
        self.kwargs = kwargs
        self.first = shared.first
        self.principal = run.drawing.principal
        self.output: Any = None  # once it was run: for the trace at load
        self.autocast = autocast
        last = run.last.get(shared)
        alike = None if last is None else last.alike(args, kwargs, autocast, run.prints)
        if last is not None and alike is not None:
            self.arguments = alike
        else:
            last = run.last[shared] = self._look()
        if shared.ignores_generator and "generator" in self.arguments:
            self.arguments["generator"] = None
        self.rows, self.area, self.key = last.rows, last.area, last.key

    @property
    def passed_over(self) -> int:
        return self.run.passed_over

    @property
    def steps_left(self) -> int:
        return max(1, self.run.steps_of - self.run.steps_done)

    def _look(self) -> LastCall:
        """Find this call's rows, its latent elements a row, and the key under which it may be merged."""
        shared = self.shared
        self.arguments = shared.signature.normalise(self.args, self.kwargs)
        rows, area, key = self._measure()
        return LastCall(
            self.args,
            self.kwargs,
            self.arguments,
            names=shared.signature.names(self.args, self.kwargs),
            autocast=self.autocast,
            rows=rows,
            area=area,
            key=key,
            parts=shared.parts,
        )

    def _measure(self) -> tuple[int, int, Hashable]:
        run, shared = self.run, self.shared
        try:
            rows = count_rows(self.arguments, shared.parts)
        except Uncollatable:
            return 1, 1, (id(shared), id(run))
        area = _area(self.arguments, rows)
        if not run.model.shares:
            return rows, area, (id(shared), id(run))
        arguments = self.arguments if shared.ragged is None else shared.ragged.folded(self.arguments)
        if shared.ignores_generator and "generator" in arguments:
            arguments = {**arguments, "generator": None}
        apart = run.model.adapters.apart(shared.module, run.drawing.spec.adapters)
        key = group_key(arguments, rows, shared.parts, run.prints)
        return rows, area, shared.intern((area, self.autocast, apart, key))


class Run:
    """One drawing's pipeline call, as the engine sees it. It is the desk at which its stand-ins hand over."""

    def __init__(self, engine: Engine, drawing: Drawing, model: LoadedModel, done: Callable[[], None]) -> None:
        self.engine = engine
        self.drawing = drawing
        self.model = model
        self.done = done
        self._greenlet: greenlet | None = None  # made on the engine's thread, to which it belongs
        self.prints = Fingerprints()
        self.last: dict[SharedModule, LastCall] = {}
        self.passed_over = 0  # steps that went without it, while it waited for one
        self.steps_done = 0
        self.steps_of = drawing.spec.steps
        self.cancelled = False
        self.width, self.height = drawing.spec.draw_width, drawing.spec.draw_height
        self.result: Any = None
        self.error: BaseException | None = None

    def go(self) -> None:
        """Go on until the next call that may be shared, or to the end. Called by the engine's loop alone."""
        if self._greenlet is None:
            self._greenlet = greenlet(self._live)
        self._greenlet.switch()

    def share(self, shared: SharedModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._check()
        mine = thread_state.current()
        self.engine.park(Call(self, shared, args, kwargs, mine.autocast))
        mine.changed_to(self.engine.thread_state, self.engine.take_turn)
        result, error = self.result, self.error
        self.result = self.error = None
        if error is not None:
            try:
                raise error
            finally:
                del error  # this frame would hold it, and its traceback this frame, with all that the run made
        return result

    def alone(self, work: Callable[[], Any], module: torch.nn.Module | None = None) -> Any:
        self._check()
        if module is not None:
            self.engine.set_adapters(module, [self], [1])
        return work()

    def adapters(self, module: torch.nn.Module) -> Hashable:
        return self.model.adapters.of(module, self.drawing.spec.adapters)

    def stepped(self, done: int, of: int) -> None:
        self.steps_done, self.steps_of = done, of
        self.engine.sink.progress(self.drawing, done, of)

    def wants_preview(self, done: int, of: int) -> bool:
        """Previews lie evenly between the first step and the last; the finished picture is none."""
        asked = self.drawing.previews
        return asked > 0 and done < of and done in {round(of * number / (asked + 1)) for number in range(1, asked + 1)}

    def previewed(self, done: int, of: int, picture: torch.Tensor) -> None:
        self.engine.sink.previewed(self.drawing, done, of, picture)

    def resume(self, result: Any = None, error: BaseException | None = None) -> None:
        """Leave a result, or an error to raise, for when the run is woken."""
        self.result, self.error = result, error

    def forget(self) -> None:
        """Let go of its last calls' tensors: the view that it drew on goes round in circles, and waits for the
        garbage collector with all that the run has."""
        self.last.clear()
        self.prints = Fingerprints()

    def _live(self) -> None:
        self.engine.draw_and_leave(self)

    def _check(self) -> None:
        if self.cancelled:
            raise Cancelled("the client left")


def _area(arguments: dict[str, Any], rows: int) -> int:
    for value in arguments.values():
        if isinstance(value, torch.Tensor) and value.dim() > 1 and value.shape[0] == rows:
            return int(value.numel()) // rows
        if isinstance(value, list) and len(value) == rows and value and isinstance(value[0], torch.Tensor):
            return sum(int(item.numel()) for item in value) // rows
    return 1
