"""The steps that a run leaves out: what its denoiser would answer is told from what it answered last.

Knows one run's outputs, its places and the times of its steps; knows neither modules nor other runs. Nothing lies on a
module, so whoever shares the other steps is drawn as ever: the rows of a step that is left out are in no batch.

The answer is a straight line through the run's last two computed outputs, over the scheduler's time: for a flow that is
the method of Adams and Bashforth with its steps left in place. Which steps are left out is told by a plan before the
first, or by a check: a computed step is predicted too, and how far that was off says how far the next one will be.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.engine.collate import tensors
from pipelines.facts.step_cache import FIRST, LAST, MAX_IN_A_ROW, Check, Plan

_KNOWN = 2  # outputs, for a line
_Place = tuple[Hashable, int]  # a target, and which of its calls in the step


class Question:
    """A number on the device that a run wants to know; the engine reads those of all runs at once."""

    def __init__(self, number: torch.Tensor) -> None:
        self.number = number
        self.answer = 0.0


@dataclass
class _Stream:
    """The calls of one place."""

    known: list[tuple[int, Any]] = field(default_factory=list)  # step and output, the newest first
    error: torch.Tensor | None = None  # of the last computed step's prediction, for a time of 1; on the device


class StepCache:
    """One run's. Its calls ask ``answer`` before they are made; what was computed comes to ``keep``."""

    def __init__(self, make_rule: Callable[[int], Plan | Check | None]) -> None:
        """``make_rule`` tells how a run that really makes so many steps leaves some out."""
        self._make_rule = make_rule
        self._schedule: Sequence[float] = ()
        self._main: Hashable = None  # the denoiser, whose first call in a step is looked at
        self._rule: Plan | Check | None = None
        self._times: Sequence[float] = ()
        self._step = 0
        self._calls: Counter[Hashable] = Counter()  # in this step
        self._streams: defaultdict[_Place, _Stream] = defaultdict(_Stream)
        self._leaves_out: bool | None = None  # this step; None: not yet told
        self._in_a_row = 0
        self.left_out = 0  # steps so far

    def told(self, schedule: Sequence[float]) -> None:
        """The times of the run's scheduler, of which it may begin later than with the first."""
        self._schedule = schedule

    def stepped(self, done: int, of: int) -> None:
        """The scheduler has done so many steps, of so many."""
        if self._step == 0:
            self._begin(of)
        self._in_a_row = self._in_a_row + 1 if self._leaves_out else 0
        self.left_out += bool(self._leaves_out)
        self._step, self._leaves_out = done, None
        self._calls.clear()
        if self._rule is None:
            self._streams.clear()  # all is computed: nothing is kept

    def _begin(self, steps: int) -> None:
        rule, times = self._make_rule(steps), self._schedule[-steps:]
        if rule is not None and self._main is not None and len(times) == steps and _falling(times):
            self._rule, self._times = rule, times

    def computed_left(self, steps_left: int) -> int:
        """Of the steps that are left, those that will be computed, as far as that is known."""
        if isinstance(self._rule, Plan):
            return steps_left - sum(step >= self._step for step in self._rule.left_out)
        return steps_left - round(steps_left * self.left_out / self._step) if self._step else steps_left

    def question(self) -> Question | None:
        """The number that says whether this step is left out; None where none is needed for that."""
        if self._leaves_out is not None or not isinstance(self._rule, Check) or not self._may():
            return None
        error = self._streams[self._main, 0].error
        return None if error is None else Question(error)

    def decide(self, error: float | None) -> None:
        """Whether this step is left out, at its first call. ``error`` is what the question's number was."""
        if self._leaves_out is not None:
            return
        rule = self._rule
        if isinstance(rule, Plan):
            self._leaves_out = self._step in rule.left_out and self._may()
        elif isinstance(rule, Check) and error is not None:
            last = self._streams[self._main, 0].known[0][0]
            self._leaves_out = error * (self._times[last] - self._times[self._step]) ** 2 < rule.tolerance
        else:
            self._leaves_out = False

    def answer(self, target: Hashable) -> Any:
        """The output of the call that is about to be made, where it is not computed; else None."""
        stream = self._streams[target, self._calls[target]]
        if not self._leaves_out or len(stream.known) < _KNOWN:
            return None
        self._calls[target] += 1
        return _line(stream.known, self._times, self._step)

    def keep(self, target: Hashable, output: Any, *, is_main: bool) -> None:
        """What the denoiser answered, from which others may be told. A row of a batch would keep the whole batch: it is
        copied."""
        if is_main and self._main is None:
            self._main = target
        place = target, self._calls[target]
        self._calls[target] += 1
        if self._step > 0 and self._rule is None:
            return
        stream = self._streams[place]
        mine = _map(torch.clone, output)
        if stream.known and not _alike(stream.known[0][1], mine):
            stream.known.clear()
        if isinstance(self._rule, Check) and place == (self._main, 0):
            stream.error = self._off(stream.known, mine)
        stream.known = [(self._step, mine), *stream.known[: _KNOWN - 1]]

    def _off(self, known: list[tuple[int, Any]], output: Any) -> torch.Tensor | None:
        """How far the prediction of this computed step is off, relative to it, for a time of 1."""
        if len(known) < _KNOWN:
            return None
        predicted, real = _first(_line(known, self._times, self._step)), _first(output)
        distance = self._times[known[0][0]] - self._times[self._step]
        off: torch.Tensor = (real - predicted).abs().mean().float() / real.abs().mean().float()
        return off / distance**2

    def _may(self) -> bool:
        """Is enough known to leave this step out, and is it none of those that are always computed?"""
        inner = FIRST <= self._step < len(self._times) - LAST
        checked = isinstance(self._rule, Check)
        return (
            inner
            and len(self._streams[self._main, 0].known) == _KNOWN
            and not (checked and self._in_a_row >= MAX_IN_A_ROW)
        )


def _falling(times: Sequence[float]) -> bool:
    return all(earlier > later for earlier, later in itertools.pairwise(times))


def _line(known: Sequence[tuple[int, Any]], times: Sequence[float], step: int) -> Any:
    """The line through two outputs, the newest first, at a later step."""
    (newer, output), (older, before) = known
    share = (times[step] - times[newer]) / (times[newer] - times[older])

    def drawn_out(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return one + (one - other) * share if one.is_floating_point() else one

    return _map(drawn_out, output, before)


def _map(function: Callable[..., torch.Tensor], value: Any, *others: Any) -> Any:
    """The function of each tensor of a tree, and of those that others of its form have in its place."""
    if isinstance(value, torch.Tensor):
        return function(value, *others)
    if isinstance(value, dict):
        items = {name: _map(function, item, *(other[name] for other in others)) for name, item in value.items()}
        return items if type(value) is dict else type(value)(**items)
    if isinstance(value, list | tuple):
        return type(value)(_map(function, item, *(other[i] for other in others)) for i, item in enumerate(value))
    return value


def _first(value: Any) -> torch.Tensor:
    return next(tensors(value))


def _alike(one: Any, other: Any) -> bool:
    shapes = [[(leaf.shape, leaf.dtype) for leaf in tensors(value)] for value in (one, other)]
    return shapes[0] == shapes[1]
