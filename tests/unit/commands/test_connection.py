"""What the failures of a connection say on the command line."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.paper import Paper
from tests.unit.commands.command_line import run


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "a cat", "--server", "http://127.0.0.1:9") == 1
    said = capsys.readouterr().err
    assert "http://127.0.0.1:9" in said
    assert "darkroom serve" in said
    assert "--local" in said


def test_the_servers_words_are_passed_on(paper: Paper, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "a cat", "-n", "11", "--server", paper.url) == 1
    assert capsys.readouterr().err == "darkroom: n must be an integer from 1 to 10.\n"
    assert not Path("out").exists()


@pytest.mark.parametrize("command", [("generate", "a cat"), ("models",)])
def test_another_kind_of_server_is_told_by_its_status(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(418)
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever).start()
        assert run(*command, "--server", f"http://127.0.0.1:{other.server_port}") == 1
        other.shutdown()
    assert "418" in capsys.readouterr().err
