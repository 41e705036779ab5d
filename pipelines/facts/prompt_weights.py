"""Weights in prompts, as A1111's web UI reads them: what is said, and how much of it.

    (word)      1.1 times as much; ((word)) 1.1 × 1.1 times
    [word]      1.1 times less
    (word:1.3)  1.3 times as much
    BREAK       what follows begins another chunk of 75 tokens
    \\( \\) \\[ \\] \\\\   the character itself

Whatever else is not understood is drawn as it is written: a bracket that closes nothing, ``:1.3`` outside of round
brackets. One that is not closed holds to the end. Knows text and numbers; knows neither tokens nor models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# The families whose prompts are weighted: CLIP alone hears them, and their pipelines take what it makes of them.
FAMILIES = frozenset(
    {
        "stable-diffusion",
        "stable-diffusion-inpainting",
        "lcm",
        "stable-diffusion-xl",
        "stable-diffusion-xl-refiner",
        "stable-diffusion-xl-inpainting",
    }
)
MAX_WEIGHT = 10.0
_FACTORS = {"(": 1.1, "[": 1 / 1.1}  # of a bracket without a number
_OPENS = {")": "(", "]": "["}
_MARK = re.compile(r"\\[()\[\]\\]?|[(\[)\]]|:\s*([+-]?[.\d]+)\s*\)|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\bBREAK\b")


class TooHeavy(ValueError):
    """A weight that no picture survives."""

    def __init__(self) -> None:
        super().__init__(f"has a weight beyond {MAX_WEIGHT:g} (each pair of round brackets is 1.1 times)")


@dataclass(frozen=True)
class Piece:
    """A part of a prompt, and how much of it is wanted: 1 is as it stands there."""

    text: str
    weight: float


Section = tuple[Piece, ...]  # up to a BREAK; neighbours have different weights


def parse(prompt: str) -> tuple[Section, ...]:
    """The sections of a prompt, one at least. Takes time in proportion to its length. Raises TooHeavy."""
    sections: list[list[Piece]] = [[]]
    for text, weight in _weighted(prompt):
        parts = _BREAK.split(text)
        for number, part in enumerate(parts):
            # The blanks round it go with it. A pattern that says so takes quadratic time for many of them.
            if number:
                sections.append([])
                part = part.lstrip()
            if number < len(parts) - 1:
                part = part.rstrip()
            if part.strip() and not abs(weight) <= MAX_WEIGHT:  # nan too
                raise TooHeavy
            if part:
                _add(sections[-1], part, weight)
    return tuple(tuple(section) for section in sections)


def plain(sections: tuple[Section, ...]) -> str | None:
    """The text of a prompt in which nothing is weighted or broken; None for any other."""
    pieces = sections[0]
    if len(sections) > 1 or any(piece.weight != 1 for piece in pieces):
        return None
    return "".join(piece.text for piece in pieces)


def _add(section: list[Piece], text: str, weight: float) -> None:
    if section and section[-1].weight == weight:
        section[-1] = Piece(section[-1].text + text, weight)
    else:
        section.append(Piece(text, weight))


def _weighted(prompt: str) -> Iterator[tuple[str, float]]:
    """The parts of a prompt between its marks, each with its weight.

    Round brackets and square ones are kept apart: they need not lie within each other.
    """
    marks = list(_MARK.finditer(prompt))
    closed_by = _pairs(marks)
    closing = {close: opening for opening, (close, _) in closed_by.items() if close is not None}
    weights = {"(": [1.0], "[": [1.0]}  # of what is open now, outermost first
    for at, mark in enumerate(marks):
        if at in closed_by:
            kind = mark[0]
            weights[kind].append(weights[kind][-1] * closed_by[at][1])
        elif at in closing:
            if mark[1] is not None and _number(mark[1]) is None:
                yield mark[0][:-1], weights["("][-1] * weights["["][-1]
            weights[marks[closing[at]][0]].pop()
        else:
            text = mark[0][1:] if mark[0].startswith("\\") else mark[0]
            yield text, weights["("][-1] * weights["["][-1]


def _pairs(marks: list[re.Match[str]]) -> dict[int, tuple[int | None, float]]:
    """The brackets that open something, by their places: where it closes, if anywhere, and how much it weighs."""
    found: dict[int, tuple[int | None, float]] = {}
    waiting: dict[str, list[int]] = {"(": [], "[": []}
    for at, mark in enumerate(marks):
        text = mark[0]
        if text in _FACTORS:
            waiting[text].append(at)
            found[at] = None, _FACTORS[text]
            continue
        kind = "(" if mark[1] is not None else _OPENS.get(text, "")
        if waiting.get(kind):
            factor = None if mark[1] is None else _number(mark[1])
            found[waiting[kind].pop()] = at, _FACTORS[kind] if factor is None else factor
    return found


def _number(text: str) -> float | None:
    """The number that is meant; None for dots and digits that are none."""
    try:
        return float(text)
    except ValueError:
        return None
