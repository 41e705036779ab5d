"""A batch: the calls that share one forward, and what is done when that forward fails.

Knows calls, rows and device memory; knows neither runs nor who chose the calls.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pipelines.engine import collate, encoders, residuals
from pipelines.engine.adapters import Share
from pipelines.engine.call import Call
from pipelines.engine.graph_pool import SHORT, GraphPool
from pipelines.engine.graphs import Form, StepGraphs
from pipelines.engine.kept import Part
from pipelines.engine.model import Model
from pipelines.engine.shared import Stage
from pipelines.engine.trees import joined_parts
from pipelines.errors import OutOfMemory, is_device_lost, is_out_of_memory

log = logging.getLogger("darkroom.engine")


class Batch:
    """Calls with equal keys: of one module, of one model, under one autocast."""

    def __init__(
        self, calls: Sequence[Call], merger: collate.Merger, counts: Counter[str], *, again: bool = False
    ) -> None:
        """``calls`` is not empty. ``counts`` gains the forwards, the rows, and every fallback. What is tried ``again``
        after a failure says nothing of what steps cost."""
        first = calls[0]
        self.calls = calls
        self.rows = [call.rows for call in calls]
        self.area = first.area
        self._model, self._shared, self._autocast = first.model, first.shared, first.autocast
        self._merger = merger
        self._counts = counts
        self._again = again

    def run(self) -> None:
        """Run one forward for all calls, and leave each its output. If it fails, find out which call it is, leave that
        one its error, and spare the others."""
        outputs, failure = self._try()
        if outputs is None and failure is None and self._drop_graphs():
            outputs, failure = self._try()
        if outputs is not None:
            self._shared.note_fitted(sum(self.rows), self.area)
            for call, output in zip(self.calls, outputs, strict=True):
                call.output, call.company = output, len(self.calls)
        elif failure is None:
            self._run_smaller()
        elif len(self.calls) == 1:
            self.calls[0].error = failure
        else:
            self._counts["retried_alone"] += 1
            log.warning("shared step failed, trying its runs alone", extra={"error": type(failure).__name__})
            for call in self.calls:
                self._of([call]).run()

    def _try(self) -> tuple[list[Any] | None, Exception | None]:
        """Each call's output, or what was raised; neither where the device had no room.

        Whoever goes on is out of the handler then: as long as it runs, its error's frames hold all that the failed
        forward made."""
        try:
            return self._forward(), None
        except Exception as error:
            if is_device_lost(error):
                raise
            return None, None if is_out_of_memory(error) else _plain(error)

    def _drop_graphs(self) -> bool:
        """The device had no room: graphs hold memory that the next try may have. False where there are none."""
        pool = self._shared.pool
        self._again = True
        if pool is None or not pool.drop_all(SHORT):
            return False
        self._counts["graphs_dropped_for_room"] += 1
        return True

    def _of(self, calls: Sequence[Call]) -> Batch:
        return Batch(calls, self._merger, self._counts, again=True)

    def _forward(self) -> list[Any]:
        shared, rows = self._shared, self.rows
        filling = shared.filled_up(sum(rows)) - sum(rows) if self._model.shares else 0
        self._use_adapters(filling)
        self._counts[f"{shared.name}_forwards"] += 1
        self._counts[f"{shared.name}_rows"] += sum(rows)
        with _autocast(self._autocast):
            if len(self.calls) == 1 and (not filling or shared.at_once(rows[0], self.area) < rows[0]):
                return [self._alone(self.calls[0])]
            arguments: list[Mapping[str, Any]] = [call.arguments for call in self.calls]
            if shared.ragged is not None:
                arguments = [*shared.ragged.levelled(arguments)]
            if shared.fills:
                arguments = residuals.levelled(arguments, rows)
            arguments += [collate.take_rows(arguments[-1], 0, 1, rows[-1], shared.parts)] * filling
            rows = [*rows, *[1] * filling]
            merged = self._merger.merge(arguments, rows, shared.parts)
            output = self._computed(((), merged), arguments, merged, sum(rows))
            if shared.stage is Stage.ENCODE:
                return encoders.pieces(output, rows)
            return collate.split(output, rows, shared.output_parts)[: len(self.calls)]

    def _computed(
        self,
        call: tuple[tuple[Any, ...], dict[str, Any]],
        calls: Sequence[Mapping[str, Any]],
        arguments: Mapping[str, Any],
        rows: int,
    ) -> Any:
        """What the module makes of one call, which has these ``arguments`` by name, put together of those of
        ``calls``: by a graph where there is one."""
        shared, graphs = self._shared, self._graphs(arguments)
        form: Form | None = None
        parts: collate.Parts = shared.parts
        fills = len(self.calls) > 1  # a call on its own is made as its pipeline made it
        if graphs is not None:
            parts = joined_parts(calls[0], parts) if fills else parts
            form = graphs.form(call, rows, self.area, parts, fills=fills)
        if graphs is None or form is None or not form.is_due:
            with self._prompts_kept(calls, arguments), self._timed(rows, form):
                return shared.function(*call[0], **call[1])
        # The first time says nothing of what a step costs: it is drawn three times over.
        replayed = form.graph is not None
        with shared.timed(rows, self.area, form, replayed=True) if replayed else contextlib.nullcontext():
            output = graphs.draw(form, call, rows, shared.function, (parts, shared.output_parts))
        if replayed or form.graph is not None:
            self._counts["graph_replays" if replayed else "graph_captures"] += 1
        return output

    def _graphs(self, arguments: Mapping[str, Any]) -> StepGraphs | None:
        """The module's graphs, where these calls may be drawn by one.

        Not those of a model that may look at its batch as a whole, nor what adapters change row by row, nor what is
        cast on the way, nor prompts of several lengths, whose denoiser reads their mask."""
        shared, model = self._shared, self._model
        if shared.graphs is None or self._again or not model.shares or self._autocast is not None:
            return None
        if any(model.adapters.of(shared.module, call.drawing.spec.adapters) for call in self.calls):
            return None
        if shared.ragged is not None and arguments.get(shared.ragged.mask) is not None:
            return None
        return shared.graphs

    def _prompts_kept(
        self, calls: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]
    ) -> contextlib.AbstractContextManager[None]:
        """In the block, layers give again what they made of the same prompts at an earlier step."""
        work = self._shared.prompt_work
        if work is None or len(calls) > len(self.calls):  # rows that fill up are no run's
            return contextlib.nullcontext()
        parts = [
            Part(call.history.kept(self._shared), given, rows)
            for call, given, rows in zip(self.calls, calls, self.rows, strict=True)
        ]
        return work.of(parts, arguments, self._counts)

    def _use_adapters(self, filling: int) -> None:
        """Switch on what each call's rows are to get; the rows that fill up get what the last call's get."""
        if self._model.adapters:
            rows = [*self.rows[:-1], self.rows[-1] + filling]
            wanted = [call.drawing.spec.adapters for call in self.calls]
            shares = [Share(*share) for share in zip(rows, wanted, strict=True)]
            self._counts["adapter_switches"] += self._model.adapters.use(self._shared.module, shares)

    def _alone(self, call: Call) -> Any:
        most = self._shared.at_once(call.rows, call.area)
        if most < call.rows:
            return self._by_rows(call, most)
        # Exactly the call that the pipeline made.
        return self._computed((call.args, call.kwargs), [call.arguments], call.arguments, call.rows)

    def _timed(self, rows: int, form: Form | None = None) -> contextlib.AbstractContextManager[None]:
        if self._again or self._shared.stage is Stage.DECODE:
            return contextlib.nullcontext()
        return self._shared.timed(rows, self.area, form)

    def _run_smaller(self) -> None:
        """The device had no room: try again with half of the calls, or half of the only call's rows."""
        self._note_full(sum(self.rows))
        if len(self.calls) > 1:
            half = len(self.calls) // 2
            self._of(self.calls[:half]).run()
            self._of(self.calls[half:]).run()
            return
        (call,) = self.calls
        try:
            # One prompt cannot be cut. What torch kept for batches that are over may be all that was in its way.
            is_prompt = self._shared.stage is Stage.ENCODE and call.rows == 1
            with _autocast(self._autocast):
                call.output = self._by_rows(call, 1 if is_prompt else _half(call.rows))
        except Exception as error:
            if is_device_lost(error):
                raise
            call.error = _plain(error)

    def _by_rows(self, call: Call, most: int) -> Any:
        """A call's output, at most ``most`` of its rows together; fewer where they do not fit. Raises OutOfMemory where
        not even one does."""
        outputs, counts = [], []
        low = 0
        while low < call.rows:
            high = min(low + most, call.rows)
            output = None
            try:
                output = self._shared.function(
                    **collate.take_rows(call.arguments, low, high, call.rows, self._shared.parts)
                )
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            if output is None:  # once out of the handler, whose error holds what the failed forward made
                self._note_full(high - low)
                most = _half(high - low)
                continue
            outputs.append(output)
            counts.append(high - low)
            low = high
        return collate.join(outputs, counts, self._shared.output_parts)

    def _note_full(self, rows: int) -> None:
        """Remember that the device had no room for so many rows, and free what can be freed."""
        self._counts["out_of_memory"] += 1
        shared = self._shared
        shared.note_full(rows, self.area)
        give_up_prompts(self._model)
        log.warning("out of device memory", extra={"target": shared.name, "rows": rows, "area": self.area})
        self._drop_graphs()
        free_cached(shared.pool)


def _half(rows: int) -> int:
    if rows == 1:
        raise OutOfMemory("the device has no room for one row")
    return rows // 2


def give_up_prompts(model: Model) -> None:
    """Have no module of a model keep what comes of prompts any more, whichever of them found no room."""
    for shared in model.shared_modules.values():
        if shared.prompt_work is not None:
            shared.prompt_work.give_up()


def free_cached(pool: GraphPool | None) -> None:
    """Give back the device memory that torch keeps for later; not while a graph of ``pool`` is captured."""
    if pool is not None:
        pool.empty_cache()
    elif torch.cuda.is_available():
        torch.cuda.empty_cache()


def _autocast(dtype: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", dtype=dtype)


def _plain(error: Exception) -> Exception:
    """The same error without the frames of our thread, which would keep tensors alive."""
    error.__context__ = None
    return error.with_traceback(None)
