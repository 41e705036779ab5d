"""What steps cost, learnt from the steps themselves, and how many rows the next one may have.

Knows rows, areas and seconds; knows neither tensors, nor devices, nor who waits.

A step takes *pace* × *shape(rows)*. The pace is the machine's: it follows every step, and a busy minute is forgotten in
a few. The shape is the model's on this device: what some number of rows takes, against what another takes. Only steps
of different sizes that follow each other say something of it, so neither a busy minute nor one slow step moves it much.
A size counts once three steps have had it. Before two sizes are known of which one has twice the rows of the other, a
*guess* stands for them: what the check at load saw, or what was learnt the last time.

A bound that is too low or too high would never be found out by the steps that it allows. So now and then, where more
rows wait than it lets in, a step has twice as many, or half as many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import msgspec

from pipelines.engine.cost import MAX_ROWS, MAX_STEP_S, MIN_ROWS, StepCost, fit_cost

_PACE_WEIGHT = 0.2  # of a step: the last five or so count
_SHAPE_WEIGHT = 0.05  # of a step beside one of another size, once the two are known well: half of it for each
_MAX_COUNT = 20
_MAX_RATIO = 2.0  # of what a step took to what it should have: something held it up
_MAX_QUIET_OFF = 0.2  # the same for the shape (a logarithm), where steps do not scatter by more
_MADE = 3  # steps, for a size to count: the one in the middle, as the first of a size may be slow
_REFIT_STEPS = 8
_FORGET_STEPS = 200
_MAX_AREAS = 8  # that are kept: pictures have few sizes
_UNMEASURED_ROWS = 16
# Steps that a bound cut, until another number of rows is tried: at first; at most while not sure; at most.
_FIRST_TRIAL, _UNSURE_TRIAL, _MAX_TRIAL = 4, 16, 256
_FEW = 4  # rows
_MORE = 1.25  # times as many
_SURE = 0.03  # errors that are no reason to try more
_GUESS_ERROR = 0.05
_UP_OF = 4  # of so many trials all but one are of more rows


class Curve(msgspec.Struct, frozen=True):
    """What steps took at ``area`` latent elements a row, as a value that can be kept."""

    area: int
    samples: tuple[tuple[int, float, float], ...]  # rows, seconds, and by which part of themselves these may be wrong
    min_rows: int = MIN_ROWS

    def moved(self, since: Curve) -> bool:
        """Has the cost, or the bound, changed by a tenth?"""
        new, old = (costs.cost() for costs in (StepCosts(self), StepCosts(since)))
        if new is None or old is None or self.area != since.area:
            return new != old or self.area != since.area
        rows, before = new.most_rows(self.area), old.most_rows(self.area)
        if abs(rows - before) > max(1, 0.1 * before):
            return True
        pairs = [(new.fixed_s + new.row_s * rows, old.fixed_s + old.row_s * rows) for rows in (1, MIN_ROWS)]
        return any(abs(one - other) > 0.1 * other for one, other in pairs)


class StepCosts:
    """The costs of one module's steps. One thread at a time learns."""

    def __init__(self, guess: Curve | None = None) -> None:
        """``guess`` is taken for what steps cost until some were seen."""
        self.min_rows = MIN_ROWS if guess is None else guess.min_rows  # a step may have so many, whatever they cost
        self._areas: dict[int, _Area] = {}  # those learnt last at the end
        if guess is not None and guess.samples:
            self._areas[guess.area] = _Area(guess.area, guess.samples)

    @property
    def steps(self) -> int:
        """How many steps were learnt from since the guess, at the area with the most."""
        main = self._main()
        return 0 if main is None else main.steps

    @property
    def is_guess(self) -> bool:
        """Do too few sizes count to go without the guess?"""
        main = self._main()
        return main is None or not main.is_learnt

    def learn(self, rows: int, area: int, seconds: float) -> None:
        """A step of so many rows of ``area`` took so long, and nothing went wrong with it."""
        if seconds <= 0:
            return
        known = self._areas.pop(area, None)
        if known is None:
            nearest = self._nearest(area)
            known = _Area(area, () if nearest is None else nearest.scaled(area))
            if len(self._areas) >= _MAX_AREAS:
                del self._areas[next(other for other, kept in self._areas.items() if kept is not self._main())]
        self._areas[area] = known
        known.learn(rows, seconds)

    def forget(self, rows: int, area: int) -> None:
        """Steps of this size are made in another way from now on: what they take is learnt anew."""
        known = self._areas.get(area)
        if known is not None:
            known.forget(rows)

    def guess(self, rows: int, area: int, seconds: float) -> None:
        """Such a step took so long before any was seen."""
        known = self._areas.get(area)
        if known is None:
            known = self._areas[area] = _Area(area)
        known.guess(rows, seconds)

    def cost(self, area: int | None = None) -> StepCost | None:
        """What a step costs, as far as is known: at the area of most steps, or at the one that is nearest to ``area``;
        None before the first step."""
        known = self._main() if area is None else self._nearest(area)
        return None if known is None else known.cost(self.min_rows)

    def most_rows(self, area: int) -> int:
        """The most rows of ``area`` that a step should have: worth their time, in 2 s, and no more than twice as many
        as were seen."""
        known = self._nearest(area)
        if known is None:
            return _UNMEASURED_ROWS
        bound, least = known.cost(self.min_rows).most_rows(area), self.min_rows
        if bound <= least or not known.has_sizes:
            return bound
        return max(least, min(bound, 2 * known.seen * known.area // area))

    def to_try(self, bound: int, waiting: int, area: int) -> int:
        """The most rows of the next step, for which so many rows are ``waiting``: mostly ``bound``; now and then, where
        that cuts off some, or no step has had few, another number, to see what it takes."""
        known = self._areas.get(area)
        return bound if known is None else known.to_try(bound, waiting)

    def guessed(self) -> StepCosts:
        """The same, all of which is a guess: what was seen under other circumstances."""
        costs = StepCosts()
        costs.min_rows = self.min_rows
        costs._areas = {area: _Area(area, known.samples(few=True)) for area, known in self._areas.items()}
        return costs

    def curve(self) -> Curve | None:
        """What is known at the area of most steps; None before the first."""
        main = self._main()
        return None if main is None else Curve(main.area, main.samples(), self.min_rows)

    def _main(self) -> _Area | None:
        return max(reversed(list(self._areas.values())), key=lambda known: known.steps, default=None)

    def _nearest(self, area: int) -> _Area | None:
        found = self._areas.get(area)
        if found is None and self._areas:
            found = min(list(self._areas.values()), key=lambda known: abs(math.log(known.area / area)))
        return found


@dataclass
class _Size:
    """What a number of rows takes."""

    relative_s: float = 0.0  # at the pace of 1
    noise: float = 0.0  # by which part of itself a step is off, in the mean
    count: int = 0  # comparisons, up to those that matter; 0: too few steps have had it
    first: list[float] = field(default_factory=list)  # before it counts: seconds of its steps, at the pace of then
    seen_at: int = 0  # its last step, by the number of all

    @property
    def error(self) -> float:
        """By which part of itself it may be wrong."""
        return self.noise / math.sqrt(max(1, self.count))


class _Area:
    """What steps cost with pictures of one size. Sizes of more than 8 rows stand for their like, four an octave."""

    def __init__(self, area: int, guess: Sequence[tuple[int, float, float]] = ()) -> None:
        self.area = area
        self.steps = 0
        self._guess = list(guess)
        self._pace = 1.0
        self._sizes: dict[int, _Size] = {}
        self._made: dict[int, _Size] = {}  # those that count
        self._last: tuple[int, float] | None = None  # the last step of one that counts: its size and seconds
        self._line: StepCost | None = None  # at the pace of 1
        self._line_steps = 0  # since it was drawn
        self._trials = self._fewer_trials = self._trial_bound = 0
        self._trial_in = self._trial_every = _FIRST_TRIAL

    @property
    def seen(self) -> int:
        """The most rows of a step, or of the guess."""
        return max([*self._made, *(rows for rows, _, _ in self._guess)], default=0)

    @property
    def is_learnt(self) -> bool:
        """Do sizes count of which one has twice the rows of another?"""
        return bool(self._made) and max(self._made) >= 2 * min(self._made)

    @property
    def has_sizes(self) -> bool:
        """Is there more than one size to go by, be they guessed?"""
        return self.is_learnt or len(self._guess) > 1

    def _is_sure(self, rows: int) -> bool:
        """Are all sizes known well, and is there one of few rows, against so many?"""
        knows_few = min(self._made, default=MAX_ROWS) <= max(_FEW, rows // 8)
        return knows_few and all(size.error < _SURE for size in self._made.values())

    def learn(self, rows: int, seconds: float) -> None:
        self.steps += 1
        if not self._guess:
            self._guess = [(rows, seconds, _GUESS_ERROR)]
        self._line_steps += 1
        line, like = self._fitted(), _like(rows)
        seconds *= _at(line, like) / _at(line, rows)
        size = self._sizes.get(like)
        if size is None:
            size = self._sizes[like] = _Size()
        size.seen_at = self.steps
        if like in self._made:
            self._follow(like, size, seconds)
        elif self._made:
            self._make(like, size, seconds)
        else:
            self._begin(like, size, seconds, _at(line, like))

    def guess(self, rows: int, seconds: float) -> None:
        self._guess = [*(sample for sample in self._guess if sample[0] != rows), (rows, seconds, _GUESS_ERROR)]
        self._line = None

    def forget(self, rows: int) -> None:
        like = _like(rows)
        self._sizes.pop(like, None)
        self._made.pop(like, None)
        if self._last is not None and self._last[0] == like:
            self._last = None
        self._line = None

    def _begin(self, rows: int, size: _Size, seconds: float, guess_s: float) -> None:
        """Before any size counts, the guess's shape is believed, and steps tell the pace."""
        size.first.append(seconds)
        middle_s = median(size.first)
        self._pace = middle_s / guess_s
        if len(size.first) == _MADE:
            self._sizes = {rows: size}  # the pace of the others' steps was not known
            self._count(rows, size, guess_s)

    def _make(self, rows: int, size: _Size, seconds: float) -> None:
        size.first.append(seconds / self._pace)
        if len(size.first) == _MADE:
            self._count(rows, size, median(size.first))

    def _count(self, rows: int, size: _Size, relative_s: float) -> None:
        middle = median(size.first)
        # Three say little of their noise; others were made beside the same.
        others = [other.noise for other in self._made.values()]
        own = 2 * median(abs(each - middle) for each in size.first) / middle
        size.noise = min(1.0, max(own, sum(others) / max(1, len(others))))
        size.relative_s, size.count = relative_s, _MADE
        size.first.clear()
        self._made[rows] = size
        self._line = None

    def _follow(self, rows: int, size: _Size, seconds: float) -> None:
        ratio = seconds / size.relative_s
        self._pace += _PACE_WEIGHT * (min(ratio, _MAX_RATIO * self._pace) - self._pace)
        if self._last is not None and self._last[0] != rows:
            other = self._made[self._last[0]]
            self._compare(size, other, math.log(ratio * other.relative_s / self._last[1]))
        self._last = rows, seconds

    def _compare(self, size: _Size, other: _Size, more: float) -> None:
        """The step of ``size`` took ``more`` (a logarithm) than it should have, by the one of ``other`` before it: the
        less is known of a size, the more of that is its own."""
        off = min(math.log(_MAX_RATIO), abs(more))
        believed = math.copysign(min(off, max(_MAX_QUIET_OFF, 1.5 * (size.noise + other.noise))), more)
        for each, its in ((size, believed), (other, -believed)):
            weight = max(_SHAPE_WEIGHT, 1 / (each.count + 1))
            each.relative_s *= math.exp(weight / 2 * its)
            each.noise += weight * (off - each.noise)
            each.count = min(_MAX_COUNT, each.count + 1)

    def cost(self, min_rows: int) -> StepCost:
        line, pace = self._fitted(), self._pace
        if not self.has_sizes:  # a row is taken to cost all; and a step may have what an unknown device is given
            return StepCost(0.0, line.row_s * pace, self.area, None, max(min_rows, _UNMEASURED_ROWS))
        return replace(line, fixed_s=line.fixed_s * pace, row_s=line.row_s * pace, min_rows=min_rows)

    def samples(self, *, few: bool = False) -> tuple[tuple[int, float, float], ...]:
        """All sizes that count, those of the guess among them, by growing rows: rows, seconds, errors. With ``few``
        also those that too few steps have had."""
        found = {rows: (seconds * self._pace, error) for rows, seconds, error in self._guess}
        for rows, size in list(self._sizes.items()):
            if size.count:
                found[rows] = size.relative_s * self._pace, size.error
            elif few and size.first:
                found[rows] = min(size.first) * (self._pace if self._made else 1.0), _GUESS_ERROR
        return tuple((rows, *found[rows]) for rows in sorted(found))

    def scaled(self, area: int) -> list[tuple[int, float, float]]:
        """A guess for another area, from this one: what rows take grows with it, the rest does not."""
        line, growth = self._fitted(), area / self.area
        sizes = sorted({rows for rows, _, _ in self.samples()})
        return [(rows, self._pace * (line.fixed_s + line.row_s * growth * rows), _GUESS_ERROR) for rows in sizes]

    def _fitted(self) -> StepCost:
        """The line through the sizes that count, drawn anew now and then; through the guess, while they are too few."""
        if self._line is None or self._line_steps >= _REFIT_STEPS:
            self._forget_old()
            if self.is_learnt:
                samples = [(rows, self._made[rows].relative_s, self._made[rows].error) for rows in sorted(self._made)]
            else:
                samples = sorted(self._guess)
            points = [(rows, seconds) for rows, seconds, _ in samples]
            self._line = fit_cost(points, self.area, errors=[error for _, _, error in samples])
            self._line_steps = 0
        return self._line

    def _forget_old(self) -> None:
        """Let go of sizes that were never known well, and that no step has had for long: a busy minute made them."""
        for rows, size in list(self._made.items()):
            if size.error < _SURE or self.steps - size.seen_at < _FORGET_STEPS:
                continue
            others = self._made.keys() - {rows}
            if others and max(others) >= 2 * min(others):
                del self._made[rows], self._sizes[rows]
                if self._last is not None and self._last[0] == rows:
                    self._last = None

    def to_try(self, bound: int, waiting: int) -> int:
        if waiting <= bound and (waiting < 4 * _FEW or self._is_sure(waiting)):
            return bound  # nothing is cut off, and of fewer rows nothing is to be learnt
        self._trial_in -= 1
        if self._trial_in > 0:
            return bound
        self._trials += 1
        more = self._more(bound, waiting)
        self._plan_trial(bound, more)
        if more > bound and self._trials % _UP_OF != 0:
            return more
        self._fewer_trials += 1
        return max(1, _down(min(_like(bound), waiting) // (4, 8, 2)[self._fewer_trials % 3]))

    def _plan_trial(self, bound: int, more: int) -> None:
        """The next one comes the later the longer the bound has stood, if what it goes by is known well."""
        sure = (more <= bound or more in self._made) and self._is_sure(bound)
        if abs(bound - self._trial_bound) > max(1, bound // 8):
            self._trial_every, self._trial_bound = _FIRST_TRIAL, bound
        else:
            self._trial_every = min(_MAX_TRIAL if sure else _UNSURE_TRIAL, 2 * self._trial_every)
        self._trial_in = self._trial_every

    def _more(self, bound: int, waiting: int) -> int:
        line = self._fitted()
        left_s = MAX_STEP_S - line.fixed_s * self._pace
        patient = max(0, int(left_s / (line.row_s * self._pace)))
        more = _down(min(2 * bound, MAX_ROWS, waiting, patient))
        return more if more >= _MORE * bound else bound  # a size that is near says little new


def _at(line: StepCost, rows: int) -> float:
    return line.fixed_s + line.row_s * rows


def _like(rows: int) -> int:
    """The size that stands for so many rows: of those from 8 to 16 every second, from 16 to 32 every fourth …"""
    step = max(1, 1 << max(0, rows.bit_length() - 3))
    return (rows + step // 2) // step * step


def _down(rows: int) -> int:
    """The largest such size of no more rows."""
    step = max(1, 1 << max(0, rows.bit_length() - 3))
    return rows // step * step
