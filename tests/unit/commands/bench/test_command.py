"""The command ``darkroom bench``: its flags, and a server that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.commands.command_line import run


def test_the_command_says_when_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "http://127.0.0.1:9", "--requests", "1", "--out", str(tmp_path / "bench.html")) == 2
    assert "nobody answers at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tasks", "t2v"], "--tasks"),
        (["--rate", "0"], "--rate"),
        (["--guidance", "x"], "--guidance"),
        (["--steps", "9-4"], "--steps"),
        (["--key", "@/no/such/file"], "--key"),
    ],
)
def test_a_wrong_flag_is_named(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", *flags) == 2
    assert said in capsys.readouterr().err
