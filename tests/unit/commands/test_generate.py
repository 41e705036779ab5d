"""The command ``darkroom generate``: what flags become, and which are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.paper import Paper
from tests.pictures import opened, png, scene
from tests.unit.commands.command_line import run


def test_every_flag_is_its_field(paper: Paper, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "-n 2 -m gpt-image-1 -s 128x64 -q low --style natural --seed 7 --steps 5 --guidance 1.5 --scheduler euler"
    code = run("generate", "A cat", *flags.split(), "--negative", "rain", "--format", "webp", "--compression", "70",
               "--server", f"{paper.url}/v1/", "-o", "pictures")  # fmt: skip
    assert code == 0
    drawing, encoding = paper.worker.drawings[-1], paper.worker.encodings[-1]
    spec = drawing.spec
    assert (spec.prompt, spec.negative_prompt, spec.model) == ("A cat", "rain", "gpt-image-1")
    assert (spec.width, spec.height, spec.steps, spec.guidance, spec.scheduler) == (128, 64, 5, 1.5, "euler")
    assert (drawing.seeds, encoding.format, encoding.quality) == ((7, 8), "webp", 70)
    said = capsys.readouterr()
    assert said.out.split() == ["pictures/a-cat-seed7.webp", "pictures/a-cat-seed8.webp"]
    assert said.err == ""  # no progress where nobody watches
    for path in said.out.split():
        assert opened(Path(path).read_bytes()).format == "WEBP"


def test_what_is_not_typed_is_the_servers_to_decide(paper: Paper) -> None:
    assert run("generate", "a cat", "--server", paper.url) == 0
    assert paper.worker.drawings[-1].spec.model == "dall-e-2"
    assert len(list(Path("out").iterdir())) == 1


def test_bytes_that_are_no_text_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "caf\udce9") == 2
    assert "prompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("generate", "x", "--server", "ftp://a"), "--server"),
        (("generate", "x", "--server", "http://127.0.0.1:80800"), "--server"),
        (("generate", "x", "--guidance", "nan"), "must be a number"),
        (("generate", "x", "--step-cache", "inf"), "must be a number"),
        (("generate", "x", "--lora", "a=nan"), "WEIGHT"),
        (("generate", "x", "--key-file", "nowhere"), "nowhere"),
        (("generate", "x", "-n", "2", "-o", "a.png"), "folder"),
        (("generate", "x", "-o", "a.png", "--format", "webp"), "ending"),
        (("generate", "x", "-o", "there.png"), "overwritten"),
        (("generate", "x", "--lora", "a=b"), "WEIGHT"),
        (("generate", "x", "--show", "holograms"), "holograms"),
        (("generate",), "PROMPT"),
    ],
)
def test_wrong_usage_is_2_and_draws_nothing(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.png").write_bytes(png(scene(8, 8)))
    assert run(*arguments) == 2
    assert says in capsys.readouterr().err
