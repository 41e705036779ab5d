"""The command ``darkroom edit``: which files are sent, and which cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.spec import Task
from tests.paper import Paper
from tests.pictures import opened, png, right_half, scene
from tests.unit.commands.command_line import run


def test_edit_sends_files_and_keeps_their_size(paper: Paper) -> None:
    Path("in.png").write_bytes(png(scene(70, 50)))
    Path("m.png").write_bytes(png(right_half(70, 50)))
    code = run("edit", "in.png", "a dog", "--mask", "m.png", "--strength", "0.4", "-m", "gpt-image-1",
               "--server", paper.url, "-o", "dog.jpg")  # fmt: skip
    assert code == 0
    spec = paper.worker.drawings[-1].spec
    assert (spec.task, spec.prompt, spec.strength) == (Task.INPAINTING, "a dog", 0.4)
    assert (spec.width, spec.height) == (70, 50)
    assert opened(Path("dog.jpg").read_bytes()).format == "JPEG"


def test_the_last_word_of_edit_is_the_prompt(paper: Paper, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.png").write_bytes(png(scene(70, 50)))
    assert run("edit", "in.png", "in.png", "a dog", "--server", paper.url) == 1
    assert "one picture" in capsys.readouterr().err  # two were sent, and the server says how many it takes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("edit", "nowhere.png", "x"), "nowhere.png"),
        (("edit", "there.png", "x", "--mask", "nowhere.png"), "nowhere.png"),
        (("edit", "there.png", "x", "--strength", "nan"), "must be a number"),
        (("edit", "x"), "PROMPT"),
    ],
)
def test_wrong_usage_is_2_and_draws_nothing(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.png").write_bytes(png(scene(8, 8)))
    assert run(*arguments) == 2
    assert says in capsys.readouterr().err
