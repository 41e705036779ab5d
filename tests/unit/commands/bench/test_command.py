"""The command ``darkroom bench``: its flags, and a server that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.paper import Paper
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
        (["--steps", "some"], "'some': must be a number, 1 or more"),
        (["--clients", "0"], "'0': must be a number, 1 or more"),
        (["--key", "@/no/such/file"], "--key"),
        (["--key", "@TEXT"], "--key = @TEXT: not text"),
        (["--guidance", "1,nan"], "--guidance"),
        (["http://127.0.0.1:80800"], "must look like http://127.0.0.1:8000"),
        (["http://[::1"], "must look like http://127.0.0.1:8000"),
    ],
)
def test_a_wrong_flag_is_named(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("TEXT").write_bytes(b"\xff\xfe")
    assert run("bench", *flags) == 2
    assert said in capsys.readouterr().err


def test_a_server_on_this_machine_is_asked_by_no_proxy(
    paper: Paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a proxy is set, and no_proxy is not, nobody answered at 127.0.0.1."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert run("bench", paper.url, "--requests", "2", "--out", str(tmp_path / "bench.html")) == 0
    assert "2 of 2" in capsys.readouterr().out
