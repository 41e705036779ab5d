"""Which steps of a module are launched as a whole, as CUDA graphs, and which kernel by kernel.

Knows a module's calls by the shapes of their arguments, and what steps took; knows neither runs nor families. A graph
is made for one *form* of call: the shapes and plain values of all arguments, at a bucket of rows (1, 2, 4 …). A call's
tensors are copied to the graph's own, the graph is launched, and what it gave is copied out. Rows that a bucket has
more than the call are copies of its last row: rows are independent, and theirs are dropped.

A form is drawn kernel by kernel until it has come a few times. Then it is drawn so once more, on the stream of
captures; it is captured; and the first replay must equal that step, bit for bit. A form that fails, waits for the
device or brings nothing is drawn kernel by kernel for good.
"""

from __future__ import annotations

import itertools
import logging
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from pipelines.engine.collate import Parts, split, version
from pipelines.engine.cost import BUCKETS, bucket
from pipelines.engine.graph_pool import SHORT, UNUSED, CaptureFailed, Graph, GraphPool
from pipelines.engine.recording import Watch
from pipelines.engine.trees import Leaf, Untold, equal, leaves, mapped, rebuilt, shape
from pipelines.errors import is_out_of_memory

log = logging.getLogger("darkroom.graphs")

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # of a call: positional, and by name
Function = Callable[..., Any]

MAX_SHARE = 0.9  # of a step's time that its kernels alone may take: where it is more, a graph brings nothing
ASKED = 4  # times that a form is drawn kernel by kernel first
SAMPLES = 3  # steps of each kind, to compare what they take
_PATIENCE = 256  # askings until a form is tried again that memory was too short for
_MAX_FORMS = 256
_NO_BOUND = BUCKETS[-1] + 1  # rows: with more than the last bucket's a device is full, whatever it draws


@dataclass
class Tally:
    """What became of a module's steps. ``reason`` says why none of them are replayed, where that is so for all."""

    captured: int = 0
    replayed: int = 0
    held: int = 0  # graphs, now
    dropped: Counter[str] = field(default_factory=Counter)  # graphs by why
    refused: Counter[str] = field(default_factory=Counter)  # forms that are never captured, by why
    reason: str = ""


class _Slot:
    """A tensor that a graph reads, and what was last copied to it."""

    def __init__(self, leaf: Leaf, size: int) -> None:
        given, self._has_rows = leaf
        self.tensor = given.new_empty((size, *given.shape[1:])) if self._has_rows else torch.empty_like(given)
        self._last: weakref.ref[torch.Tensor] | None = None
        self._written = 0.0

    def fill(self, given: torch.Tensor, rows: int) -> None:
        """Copy a call's tensor here. Prompts are the same at every step, and are here already."""
        written = version(given)
        if self._last is not None and self._last() is given and self._written == written:
            return
        if self._has_rows and rows < len(self.tensor):
            more = self.tensor[rows:]
            more.copy_(given[-1:].expand_as(more))
            self.tensor[:rows].copy_(given)
        else:
            self.tensor.copy_(given)
        self._last, self._written = weakref.ref(given), written


class _Inputs:
    """The arguments of a form, in tensors that its graph reads."""

    def __init__(self, call: Arguments, rows: int, size: int, parts: Parts) -> None:
        self._size, self._parts = size, parts
        self._slots = [_Slot(leaf, size) for leaf in self._leaves(call, rows)]
        tensors = (slot.tensor for slot in self._slots)
        args, kwargs = call
        self.args = tuple(rebuilt(args, rows, size, parts, tensors, ("*",)))
        self.kwargs = rebuilt(kwargs, rows, size, parts, tensors)
        self.fill(call, rows)

    def fill(self, call: Arguments, rows: int) -> None:
        for slot, leaf in zip(self._slots, self._leaves(call, rows), strict=True):
            slot.fill(leaf.tensor, rows)

    def _leaves(self, call: Arguments, rows: int) -> itertools.chain[Leaf]:
        args, kwargs = call
        return itertools.chain(
            leaves(args, rows, self._size, self._parts, ("*",)), leaves(kwargs, rows, self._size, self._parts)
        )


class Form:
    """One form of call: how often it came, what its steps took, and its graph, if it has one."""

    def __init__(self, rows: int, area: int) -> None:
        self.rows = rows  # the bucket's
        self.area = area
        self.asked = 0
        self.patience = ASKED
        self.is_refused = False
        self.graph: Graph | None = None
        self.inputs: _Inputs | None = None
        self.eager_s: list[float] = []
        self.replay_s: list[float] = []

    @property
    def is_due(self) -> bool:
        """Is its next step to be captured, or replayed?"""
        return self.graph is not None or (self.asked > self.patience and len(self.eager_s) >= SAMPLES)

    def took(self, seconds: float) -> None:
        """A step of it that was launched kernel by kernel took so long."""
        self.eager_s = [*self.eager_s, seconds][-SAMPLES:]


class StepGraphs:
    """The graphs of one module. Only the thread that calls the module may use it, but for ``drop``."""

    def __init__(self, module: torch.nn.Module, pool: GraphPool, *, max_share: float = MAX_SHARE) -> None:
        self.pool = pool
        self.tally = Tally()
        self.is_paused = False  # the check at load draws kernel by kernel
        self._module = module
        self._max_share = max_share
        self._forms: OrderedDict[Hashable, Form] = OrderedDict()  # those used last at the end
        self._bounds: dict[int, int] = {}  # area → rows from which on graphs bring nothing
        self._told: set[str] = set()  # what the log has
        self._refused = ""

    def refuse(self, why: str) -> None:
        """Have no graphs at all from now on, unless ``why`` is empty."""
        self._refused = self.tally.reason = why

    def form(self, call: Arguments, rows: int, area: int, parts: Parts, *, fills: bool) -> Form | None:
        """The form of a call of so many rows, which is asked for once more; None for one that has no graph.

        Without ``fills`` the call has just its rows."""
        size = bucket(rows)
        self.tally.reason = self._refused or self.pool.problem
        if self.is_paused or self.tally.reason or (size > rows and not fills):
            return None
        if size >= self._bounds.get(area, _NO_BOUND):
            return None
        args, kwargs = call
        try:
            key = size, shape(args, rows, size, parts, ("*",)), shape(kwargs, rows, size, parts)
        except Untold as error:
            self._say("a call", str(error))
            return None
        with self.pool.lock:  # another thread may drop some
            form = self._forms.get(key)
            if form is None:
                if len(self._forms) >= _MAX_FORMS:
                    self._leave()
                form = self._forms[key] = Form(size, area)
                if any(not leaf.tensor.is_cuda for leaf in leaves(call, rows, rows, parts)):
                    self._refuse(form, "an argument is in host memory")
            self._forms.move_to_end(key)
        form.asked += 1
        return None if form.is_refused else form

    def draw(self, form: Form, call: Arguments, rows: int, function: Function, parts: tuple[Parts, Parts]) -> Any:
        """What the module makes of a call whose form is due. ``function`` calls the module; ``parts`` are those of its
        arguments and of its output. Raises what the module raises."""
        of_arguments, of_output = parts
        with self.pool.lock:
            if not form.is_due:  # another thread has dropped its graph since it was asked for
                return function(*call[0], **call[1])
            if form.graph is None or form.inputs is None:
                output = self._first(form, call, rows, function, of_arguments)
            else:
                form.inputs.fill(call, rows)
                form.graph.replay()
                form.graph.used = self.pool.tick()
                output = form.graph.output
                self.tally.replayed += 1
            if rows < form.rows:
                output = split(output, [rows, form.rows - rows], of_output)[0]
            return mapped(output, torch.clone)

    def replay_took(self, form: Form, seconds: float) -> None:
        """A replay took so long. Where the kernels alone take nearly as long as the step did, it brings nothing; nor do
        graphs of more rows."""
        with self.pool.lock:
            if form.graph is None or len(form.replay_s) >= SAMPLES:
                return
            form.replay_s.append(seconds)
            if len(form.replay_s) == SAMPLES and median(form.replay_s) > self._max_share * median(form.eager_s):
                self._bounds[form.area] = min(form.rows, self._bounds.get(form.area, _NO_BOUND))
                self.pool.forget(form.graph, f"brought nothing at {form.rows} rows")

    def drop(self, why: str) -> None:
        """Give up all graphs: the weights move, or the model goes. From any thread, while no run uses the module."""
        with self.pool.lock:
            for form in self._forms.values():
                if form.graph is not None:
                    self.pool.forget(form.graph, why)

    # The first time.

    def _first(self, form: Form, call: Arguments, rows: int, function: Function, parts: Parts) -> Any:
        """Draw a form's step kernel by kernel, capture it, and replay it. What the step made."""
        device = self.pool.device
        inputs = _Inputs(call, rows, form.rows, parts)
        # Where no rows are filled up, the very call that would have been made.
        args, kwargs = call if form.rows == rows else (inputs.args, inputs.kwargs)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            expected, waits = self._beside(function, args, kwargs)
            if waits:  # it may have made a table that it keeps
                expected, waits = self._beside(function, args, kwargs)
        except Exception as error:
            if is_out_of_memory(error):
                form.asked = -_PATIENCE
            else:
                self._refuse(form, "it failed")
            raise
        needed = torch.cuda.max_memory_allocated(device) - before
        why = f"it waits for the device: {waits[0]}" if waits else self.pool.why_no_room(needed)
        if not why:
            why = self._capture(form, inputs, function, expected)
        if why == SHORT:
            form.asked = -_PATIENCE
        elif why:
            self._refuse(form, why)
        return expected

    def _beside(self, function: Function, args: Any, kwargs: Any) -> tuple[Any, list[str]]:
        """What a call makes, on the stream of captures, and the operators that made the host wait."""
        stream, current = self.pool.stream, torch.cuda.current_stream(self.pool.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream), Watch() as watch:
            output = function(*args, **kwargs)
        current.wait_stream(stream)
        return output, watch.waits

    def _capture(self, form: Form, inputs: _Inputs, function: Function, expected: Any) -> str:
        """Capture a form, and replay it. Why it has no graph after all; empty if it has."""
        tensors = (*self._module.parameters(), *self._module.buffers())
        weights = frozenset(tensor.untyped_storage()._cdata for tensor in tensors)
        try:
            graph = self.pool.capture(lambda: function(*inputs.args, **inputs.kwargs), weights, self._dropped)
        except CaptureFailed as error:
            return SHORT if error.is_short else f"it cannot be captured: {error}"
        form.graph, form.inputs, form.replay_s = graph, inputs, []
        self.tally.captured += 1
        self.tally.held += 1
        graph.replay()
        if not equal(expected, graph.output):
            self.pool.forget(graph, "differed from the step")
            return "its replay differs from the step"
        log.info("step captured", extra={"rows": form.rows, "area": form.area, "graphs": self.tally.held})
        return ""

    # What becomes of forms.

    def _refuse(self, form: Form, why: str) -> None:
        form.is_refused = True
        self.tally.refused[why] += 1
        self._say("a step", why)

    def _dropped(self, graph: Graph, why: str) -> None:
        for form in self._forms.values():
            if form.graph is graph:
                form.graph = form.inputs = None
                form.asked = -_PATIENCE if why == SHORT else 0
                if why == UNUSED:  # it may take turns with others
                    form.patience = min(2 * form.patience, _PATIENCE)
        self.tally.held -= 1
        self.tally.dropped[why] += 1
        self._say("a graph", why)

    def _leave(self) -> None:
        """Let go of the form that came least recently; of one that has no graph, if there is such."""
        key = next((key for key, form in self._forms.items() if form.graph is None), next(iter(self._forms)))
        graph = self._forms[key].graph
        if graph is not None:
            self.pool.forget(graph, UNUSED)
        del self._forms[key]

    def _say(self, what: str, why: str) -> None:
        """Each reason once."""
        if why not in self._told:
            self._told.add(why)
            extra = {"target": type(self._module).__name__, "what": what, "reason": why}
            log.warning("launched kernel by kernel", extra=extra)
