"""A run: one unmodified pipeline call on a thread of its own, and the places where it waits.

Knows one job, its view and its baton; knows nothing of other runs. A run executes only while it holds the
engine's baton: it gets it from whoever wakes it, and passes it on when it parks or ends. So tokenizers and
schedulers are never entered by two threads at once, while thread-local torch state stays each run's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pipelines.collate import Fingerprints, Uncollatable, count_rows, group_key, keeps_key
from pipelines.errors import Cancelled
from pipelines.plan import DrawJob
from pipelines.target import Target

if TYPE_CHECKING:
    from pipelines.engine import Engine
    from pipelines.loader import LoadedModel


class Call:
    """A parked call: what the policy reads, and what the engine runs."""

    first: bool

    def __init__(self, run: Run, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.run = run
        self.target = target
        self.args = args
        self.kwargs = kwargs
        self.first = target.first
        self.principal = run.job.principal
        self.output: Any = None  # once it was run: for the trace at load
        self.arguments = target.signature.normalise(args, kwargs)
        if target.ignores_generator and "generator" in self.arguments:
            self.arguments["generator"] = None
        self.autocast = _autocast()
        self.rows, self.area, self.key = self._measure()
        run.last[target] = Measured(self.arguments, self.autocast, self.rows, self.area, self.key)

    @property
    def passed_over(self) -> int:
        return self.run.passed_over

    @property
    def steps_left(self) -> int:
        return max(1, self.run.steps_of - self.run.steps_done)

    def _measure(self) -> tuple[int, int, Hashable]:
        """Rows, latent elements a row, and the key under which this call may be merged."""
        run, target = self.run, self.target
        last = run.last.get(target)
        if last is not None and last.autocast is self.autocast and last.fits(self.arguments, target, run.prints):
            return last.rows, last.area, last.key
        try:
            rows = count_rows(self.arguments, target.parts)
        except Uncollatable:
            return 1, 1, (id(target), id(run))
        area = _area(self.arguments, rows)
        if not run.model.shared:
            return rows, area, (id(target), id(run))
        arguments = self.arguments if target.ragged is None else target.ragged.folded(self.arguments)
        key = group_key(arguments, rows, target.parts, run.prints)
        return rows, area, target.intern((area, self.autocast, key))


class Measured(NamedTuple):
    """What was found of a run's last call. Step after step the calls differ in nothing that the key is made of."""

    arguments: dict[str, Any]
    autocast: torch.dtype | None
    rows: int
    area: int
    key: Hashable

    def fits(self, arguments: dict[str, Any], target: Target, prints: Fingerprints) -> bool:
        return keeps_key(arguments, self.arguments, (), self.rows, target.parts, prints)


class Run:
    """One job's pipeline call, as the engine sees it. It is the desk at which its stand-ins hand over."""

    def __init__(self, engine: Engine, job: DrawJob, model: LoadedModel, done: Callable[[], None]) -> None:
        self.engine = engine
        self.job = job
        self.model = model
        self.done = done
        self.wake = threading.Lock()  # held while the run waits; releasing it hands over the baton
        self.wake.acquire()
        self.prints = Fingerprints()
        self.last: dict[Target, Measured] = {}
        self.passed_over = 0  # steps that went without it, while it waited for one
        self.steps_done = 0
        self.steps_of = job.spec.steps
        self.cancelled = False
        self.width, self.height = job.spec.draw_width, job.spec.draw_height
        self.result: Any = None
        self.error: BaseException | None = None

    def share(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._check()
        return self._wait(lambda: self.engine.park(Call(self, target, args, kwargs)))

    def alone(self, work: Callable[[], Any]) -> Any:
        self._check()
        return self._wait(lambda: self.engine.lend(self, work))

    def stepped(self, done: int, of: int) -> None:
        self.steps_done, self.steps_of = done, of
        self.engine.sink.progress(self.job, done, of)

    def wants_preview(self, done: int, of: int) -> bool:
        """Previews lie evenly between the first step and the last; the finished picture is none."""
        asked = self.job.previews
        return asked > 0 and done < of and done in {round(of * number / (asked + 1)) for number in range(1, asked + 1)}

    def previewed(self, done: int, of: int, picture: torch.Tensor) -> None:
        self.engine.sink.previewed(self.job, done, of, picture)

    def resume(self, result: Any = None, error: BaseException | None = None) -> None:
        """Leave a result, or an error to raise, for when the run is woken."""
        self.result, self.error = result, error

    def _wait(self, hand_over: Callable[[], None]) -> Any:
        hand_over()
        self.wake.acquire()
        result, error = self.result, self.error
        self.result = self.error = None
        if error is not None:
            raise error
        return result

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


def _autocast() -> torch.dtype | None:
    """The dtype of this thread's autocast, which the engine's thread must use for this call; None when off."""
    for kind in ("cuda", "cpu"):
        if torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
    return None
