"""Weights in prompts: what is said and how much of it, whatever is written, in time that grows with its length."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.facts.families import FAMILIES
from pipelines.facts.prompt_weights import FAMILIES as WEIGHTED
from pipelines.facts.prompt_weights import MAX_WEIGHT, TooHeavy, parse, plain

Flat = list[list[tuple[str, float]]]  # each letter of each section, with its weight


def flat(prompt: str) -> Flat:
    return [[(letter, piece.weight) for piece in section for letter in piece.text] for section in parse(prompt)]


def said(prompt: str) -> list[tuple[str, float]]:
    (section,) = parse(prompt)
    return [(piece.text, round(piece.weight, 6)) for piece in section]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", []),
        ("a cat", [("a cat", 1)]),
        ("an (old) map", [("an ", 1), ("old", 1.1), (" map", 1)]),
        ("((old))", [("old", 1.21)]),
        ("[old]", [("old", 0.909091)]),
        ("([old])", [("old", 1)]),
        ("(old:1.3) map", [("old", 1.3), (" map", 1)]),
        ("(old: .5 )", [("old", 0.5)]),
        ("(old:+2)(er:2)", [("older", 2)]),
        ("(old:-1)", [("old", -1)]),
        ("(old:0)", [("old", 0)]),
        ("((a:2) b)", [("a", 2.2), (" b", 1.1)]),
        # A bracket that is not closed holds to the end; one that closes nothing is a character.
        ("an ((old map", [("an ", 1), ("old map", 1.21)]),
        ("an [old map", [("an ", 1), ("old map", 0.909091)]),
        ("old) map]", [("old) map]", 1)]),
        ("old:1.3) map", [("old:1.3) map", 1)]),
        ("[old:1.3] map", [("old:1.3", 0.909091), (" map", 1)]),
        # Round brackets and square ones need not lie within each other.
        ("(a [b) c]", [("a ", 1.1), ("b", 1), (" c", 0.909091)]),
        (r"a \(b\) \[c\] \\ d", [(r"a (b) [c] \ d", 1)]),
        (r"a\b\(", [("ab(", 1)]),
        # No numbers: the round bracket is as one without.
        ("(old:nan)", [("old:nan", 1.1)]),
        ("(old:1e9)", [("old:1e9", 1.1)]),
        ("(old:1.2.3) map", [("old:1.2.3", 1.1), (" map", 1)]),
        ("(old:..)", [("old:..", 1.1)]),
        ("(old:)", [("old:", 1.1)]),
        ("12:30, a :)", [("12:30, a :)", 1)]),
    ],
)
def test_what_is_written_is_read_as_a1111_reads_it(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert said(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "sections"),
    [
        ("a BREAK b", ["a", "b"]),
        ("a   BREAK\n\nb BREAK c", ["a", "b", "c"]),
        ("BREAK a", ["", "a"]),
        ("a BREAK", ["a", ""]),
        ("a BREAKFAST, outBREAK", ["a BREAKFAST, outBREAK"]),
        ("(a BREAK b)", ["a", "b"]),
        ("a (b) BREAK [c] d", ["a b", "c d"]),
    ],
)
def test_break_begins_another_section(prompt: str, sections: list[str]) -> None:
    assert ["".join(piece.text for piece in section) for section in parse(prompt)] == sections


def test_a_break_within_brackets_keeps_their_weight() -> None:
    assert flat("(a BREAK b:2)") == [[("a", 2.0)], [("b", 2.0)]]


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a cat", "a cat"),
        ("", ""),
        ("(a cat:1)", "a cat"),
        ("(a:1.0) cat", "a cat"),
        (r"a \(cat\)", "a (cat)"),
        ("(a) cat", None),
        ("a BREAK cat", None),
    ],
)
def test_a_prompt_of_weight_one_is_a_text(prompt: str, text: str | None) -> None:
    assert plain(parse(prompt)) == text


@pytest.mark.parametrize(
    "prompt",
    [
        "(old:10.1)",
        "(old:-11)",
        "(old:1000000000)",
        f"(old:{'9' * 400})",
        "(" * 25 + "old",
        "(" * 25 + "old" + ")" * 25,
        "((old:9):2)",
        "(" * 20_000 + "old",
        "[(" * 9000 + "(((((((((((((((((((((((((old",
        f"(((old:0):{'9' * 200}):{'9' * 200})",  # infinitely much of nothing
    ],
)
def test_a_weight_that_no_picture_survives_is_refused(prompt: str) -> None:
    with pytest.raises(TooHeavy, match="beyond 10"):
        parse(prompt)


def test_a_heavy_bracket_round_nothing_is_no_fault() -> None:
    assert flat("(" * 40 + " BREAK " + ")" * 40 + "a")[1] == [("a", 1.0)]


@pytest.mark.parametrize(
    "prompt",
    [
        "(" * 32_000,
        "()" * 16_000,
        "[(" * 16_000 + ")]" * 16_000,
        "a)" * 16_000,
        ":" * 32_000,
        ": " * 16_000,
        ":" + " " * 32_000,
        ":1" + " " * 32_000,
        ":" + "1" * 32_000,
        " " * 32_000,
        "\\" * 32_000,
        "BREAK " * 6000,
    ],
    ids=lambda prompt: repr(prompt[:6]),
)
def test_a_prompt_of_nothing_but_marks_takes_no_longer(prompt: str) -> None:
    """Blanks before a BREAK that never came took time with their square: 32,000 of them 45 seconds."""
    assert len("".join(letter for section in flat(prompt) for letter, _ in section)) <= len(prompt)


def naive(prompt: str) -> list[tuple[str, float]]:
    """Prompts of letters and brackets alone, letter by letter."""
    found: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    factor = {"(": 1.1, "[": 1 / 1.1}

    def weigh(kind: str) -> None:
        start = opened[kind].pop()
        found[start:] = [(letter, weight * factor[kind]) for letter, weight in found[start:]]

    for letter in prompt:
        kind = {")": "(", "]": "["}.get(letter, "")
        if letter in opened:
            opened[letter].append(len(found))
        elif opened.get(kind):
            weigh(kind)
        else:
            found.append((letter, 1.0))
    for kind, places in opened.items():
        while places:
            weigh(kind)
    return found


@given(st.text("()[]ab ", max_size=24))
@example("(a [b) c] (d")
def test_any_nest_of_brackets_weighs_what_it_weighs_letter_by_letter(prompt: str) -> None:
    expected = naive(prompt)
    if any(abs(weight) > MAX_WEIGHT * 0.999 for _, weight in expected):
        return
    (found,) = flat(prompt)
    assert [letter for letter, _ in found] == [letter for letter, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


@given(st.text(max_size=60) | st.text("()[]:.1-+\\ BREAK\n", max_size=60))
def test_whatever_is_written_is_read_or_refused(prompt: str) -> None:
    try:
        sections = parse(prompt)
    except TooHeavy:
        return
    assert sections
    assert all(abs(piece.weight) <= MAX_WEIGHT for each in sections for piece in each if piece.text.strip())
    assert all(a.weight != b.weight for each in sections for a, b in itertools.pairwise(each))


def test_the_families_are_known() -> None:
    assert {family.name for family in FAMILIES} > WEIGHTED
