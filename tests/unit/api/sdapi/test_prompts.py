"""Prompts with A1111's marks."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.sdapi import prompts


@pytest.mark.parametrize(
    ("text", "left", "loras"),
    [
        ("a cat", "a cat", {}),
        ("  a cat ", "  a cat ", {}),
        ("<lora:Pixel:0.8> a cat", "a cat", {"Pixel": 0.8}),
        ("a <lora:x> cat <lora:y:-1:0.5>", "a  cat", {"x": 1.0, "y": -1.0}),
        ("<lora:x:1><lora:x:2>", "", {"x": 2.0}),
        ("<lora:x:99>", "", {"x": 4.0}),
        ("<lora:x:nan>", "", {"x": 1.0}),
        ("1 < 2 > 0", "1 < 2 > 0", {}),
    ],
)
def test_tags_are_taken_out(text: str, left: str, loras: dict[str, float]) -> None:
    found = prompts.read(text)
    assert (found.text, dict(found.loras)) == (left, loras)


def test_other_networks_are_told() -> None:
    assert prompts.read("<hypernet:x:1> a cat").ignored == ("hypernet",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(x:1.3)", "x"),
        ("((x))", "x"),
        ("[x]", "x"),
        ("\\(x\\)", "(x)"),
        ("a cat BREAK a dog", "a cat a dog"),
        ("a cat AND a dog", "a cat, a dog"),
        ("a [cat:dog:0.3] here", "a dog here"),
        ("a [cat:dog:0.8] here", "a cat here"),
        ("a [cat:dog:25] here", "a cat here"),
        ("a quiet (street at night:1)", "a quiet street at night"),
        ("12:30 o'clock", "12:30 o'clock"),
        ("", ""),
    ],
)
def test_the_words_without_weights(text: str, words: str) -> None:
    assert prompts.plain(text) == words


def test_loras_are_named_in_any_case() -> None:
    assert prompts.named({"PIXEL": 0.5, "other": 1.0}, {"pixel": None}) == ({"pixel": 0.5}, ("other",))


def test_loras_of_the_field_that_stable_diffusion_cpp_has() -> None:
    sent = [{"path": "loras/pixel.safetensors", "multiplier": "0.5"}, {"path": 7}, "x", {"path": "b\\other"}]
    assert prompts.from_field(sent) == {"pixel": 0.5, "other": 1.0}
    for beyond in (10**400, -(10**400), "1e400"):  # the first two were 500
        assert prompts.from_field([{"path": "pixel", "multiplier": beyond}]) == {"pixel": 1.0}


@pytest.mark.parametrize("text", ["<lora:" * 15_000, "[a:" * 30_000, "[:" * 50_000, "(" * 100_000, "AND " * 25_000])
def test_hostile_prompts_take_time_in_proportion(text: str) -> None:
    began = time.process_time()
    prompts.plain(prompts.read(text).text)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "mark", [" ", "AND ", " AND", "[a:", "[a:b:0.5]", "<lora:", "<lora:x:1>", "(", "[", "\\", "BREAK "]
)
def test_a_long_prompt_takes_no_time(mark: str) -> None:
    """32,000 blanks took 18 s, on the thread that answers everybody."""
    text = (mark * 100_000)[:100_000]
    began = time.monotonic()
    prompts.read(text)
    prompts.plain(text)
    assert time.monotonic() - began < 2


_PIECES = st.sampled_from(
    [
        *"()[]:<>\\|{} \n,.",
        "AND",
        "BREAK",
        "<lora:a:1>",
        "<lora:",
        "1.3",
        ":1)",
        "[a:b:0.5]",
        "cat",
        "猫",
        "1e9",
        "-",
        "nan",
    ]
)


@given(st.lists(_PIECES, max_size=40).map("".join))
def test_no_prompt_is_an_accident(text: str) -> None:
    found = prompts.read(text)
    settled = prompts.settled(found.text)
    prompts.plain(found.text)
    assert prompts.settled("a cat") == "a cat"
    assert not set(found.loras.values()) - {weight for weight in found.loras.values() if -4 <= weight <= 4}
    assert len(settled) <= 2 * len(text) + 2
