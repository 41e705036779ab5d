"""How the steps of each size are launched, so that what they cost is learnt of one way at a time.

Knows rows, areas and two ways; knows no seconds. A step that is replayed takes less of the host than the same step
kernel by kernel, so a size's cost would be of neither if it were learnt of both. A size goes by the way that its steps
have had lately: what is drawn the other way now and then (its rows have adapters) says nothing, and once some in a row
are, the size is learnt anew.
"""

from __future__ import annotations

from enum import Enum, auto

_CHANGE = 4  # steps in a row the other way
_MAX_SIZES = 256


class Told(Enum):
    """What a step says of its size's cost."""

    AGAIN = auto()  # as those before it
    NOTHING = auto()
    ANEW = auto()  # what is known of the size is of the other way


class Ways:
    """The ways of one module's steps."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[int, int], tuple[bool, int]] = {}  # rows and area → replayed?, others in a row

    def told(self, rows: int, area: int, *, replayed: bool) -> Told:
        """A step of this size was drawn one way or the other."""
        if len(self._sizes) >= _MAX_SIZES and (rows, area) not in self._sizes:
            del self._sizes[next(iter(self._sizes))]
        way, others = self._sizes.get((rows, area), (False, 0))
        if way is replayed:
            self._sizes[rows, area] = way, 0
            return Told.AGAIN
        if others + 1 < _CHANGE:
            self._sizes[rows, area] = way, others + 1
            return Told.NOTHING
        self._sizes[rows, area] = replayed, 0
        return Told.ANEW
