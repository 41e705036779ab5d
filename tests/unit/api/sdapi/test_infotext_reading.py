"""Infotexts as AUTOMATIC1111 writes them, and our own parameters, read."""

from __future__ import annotations

import json
import time

import pytest

from server.api.sdapi.infotext_reading import infotext, parsed

THEIRS = """a cat, programming
on a laptop
Negative prompt: blurry,
dark
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x768, Model: mini, \
Lora hashes: "a: b1, c: d\\"2", Version: v1.10.1"""


def test_their_parameters() -> None:
    found = parsed(THEIRS)
    assert found["Prompt"] == "a cat, programming\non a laptop"
    assert found["Negative prompt"] == "blurry,\ndark"
    assert (found["Steps"], found["Sampler"], found["Schedule type"]) == ("20", "DPM++ 2M", "Karras")
    assert (found["Size"], found["Size-1"], found["Size-2"]) == ("512x768", "512", "768")
    assert found["Lora hashes"] == 'a: b1, c: d"2'
    assert found["Version"] == "v1.10.1"
    assert infotext(THEIRS) == THEIRS


@pytest.mark.parametrize("text", ["a cat", "ratio: 1, of 2", "", "Steps: 20, Seed: 1", '{"prompt": "x"}', "{", "[1]"])
def test_what_has_no_parameters_is_a_prompt(text: str) -> None:
    assert infotext(text) == text
    assert parsed(text) == {"Prompt": text, "Negative prompt": ""}


def test_our_parameters_are_told_in_their_words() -> None:
    ours = {"software": "Darkroom", "model": "mini", "prompt": "a cat: 猫", "seed": 7, "steps": 8, "guidance": 2.5}
    ours |= {"size": "64x48", "task": "text_to_image", "negative_prompt": "dark", "scheduler": "euler_a"}
    told = infotext(json.dumps(ours))
    lines = told.split("\n")
    assert lines[:2] == ["a cat: 猫", "Negative prompt: dark"]
    assert lines[2] == (
        "Steps: 8, Sampler: Euler a, CFG scale: 2.5, Seed: 7, Size: 64x48, Model: mini, Version: Darkroom"
    )
    found = parsed(told)
    assert (found["Prompt"], found["Seed"], found["Size-2"]) == ("a cat: 猫", "7", "48")


def test_values_with_commas_come_back() -> None:
    ours = {"software": "Darkroom", "prompt": "x", "seed": 1, "steps": 2, "size": "1x1", "model": 'a, "b": c'}
    assert parsed(infotext(json.dumps(ours)))["Model"] == 'a, "b": c'


def test_a_value_that_is_no_text_stays_as_it_stands() -> None:
    """A lone surrogate cannot be answered with: it was 500."""
    told = "x\nSteps: 1, Seed: 2, Size: 1x1, " r'Sampler: "\ud800, Euler"'
    found = parsed(told)
    assert found["Sampler"] == r'"\ud800, Euler"'
    assert parsed(told.replace("d800", "d83d\\ude00"))["Sampler"] == "\U0001f600, Euler"


@pytest.mark.parametrize(
    "line", ['a: "' * 100_000, "a: b, " * 100_000, "abc " * 200_000, '\\"' * 200_000, "," * 400_000]
)
def test_a_long_line_takes_no_time(line: str) -> None:
    began = time.process_time()
    parsed(line)
    assert time.process_time() - began < 2
