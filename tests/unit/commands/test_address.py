"""Which server a command asks, and with which key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.paper import PaperServers
from tests.unit.commands.command_line import run


def test_the_key_is_in_a_file_or_in_the_environment(
    paper_servers: PaperServers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = paper_servers.open(keys=True)
    assert run("generate", "x", "--server", paper.url) == 1
    assert "--key-file" in capsys.readouterr().err
    Path("key").write_text(f"{paper.key}\n")
    assert run("generate", "x", "--server", paper.url, "--key-file", "key") == 0
    monkeypatch.setenv("DARKROOM_API_KEY", str(paper.key))
    monkeypatch.setenv("DARKROOM_URL", paper.url)
    assert run("generate", "x") == 0
    assert len(paper.worker.drawings) == 2


def test_a_password_in_the_url_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (("generate", "a cat"), ("models",)):
        assert run(*command, "--server", "http://me:canary@127.0.0.1:9") == 1
        said = capsys.readouterr().err
        assert "http://127.0.0.1:9" in said
        assert "canary" not in said
