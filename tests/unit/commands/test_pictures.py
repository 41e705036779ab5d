"""The pictures of one request: what a stream becomes, on disk and in words."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from server.agents.api_client import Standing
from server.commands.pictures import in_words
from tests.pictures import opened, png
from tests.unit.commands.command_line import run


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


@contextlib.contextmanager
def streaming(*events: bytes) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers every request with these events; its URL, and what it was sent."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream; charset=utf-8")
            self.end_headers()
            for event in events:
                self.wfile.write(event)
                self.wfile.flush()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def _completed(seed: int, colour: str) -> bytes:
    data = base64.b64encode(png(Image.new("RGB", (2, 2), colour))).decode()
    return _event("image_generation.completed", b64_json=data, seed=seed, index=seed, output_format="png", usage={})


def test_a_stream_is_read_to_its_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = _event("darkroom.progress", state="queued", place=2, eta_s=3.5, done=0, of=0)
    stepping = _event("darkroom.progress", state="running", place=0, eta_s=None, done=3, of=8)
    partial = _event("image_generation.partial_image", b64_json="", partial_image_index=0)
    events = (waiting, b": keep-alive\n\n", stepping, partial, _completed(5, "red"), _completed(6, "blue"))
    with streaming(*events) as (url, seen):
        assert run("generate", "a cat", "-n", "2", "--lora", "pixel=0.8", "--lora", "ink", "--server", url) == 0
    assert (seen[0]["stream"], seen[0]["stream_progress"], seen[0]["n"]) == (True, True, 2)
    assert seen[0]["loras"] == [{"name": "pixel", "weight": 0.8}, {"name": "ink"}]
    assert capsys.readouterr().out.split() == ["out/a-cat-seed5.png", "out/a-cat-seed6.png"]
    assert opened(Path("out/a-cat-seed6.png").read_bytes()).getpixel((0, 0)) == (0, 0, 255)


def test_a_failure_in_mid_stream_keeps_what_came_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    failed = _event("error", error={"message": "The device has no room.", "type": "server_error", "code": "x"})
    with streaming(_completed(5, "red"), failed) as (url, _):
        assert run("generate", "a cat", "-n", "2", "--server", url) == 1
    said = capsys.readouterr()
    assert said.out == "out/a-cat-seed5.png\n"
    assert said.err == "darkroom: The device has no room.\n"


def test_a_stream_that_ends_early_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with streaming(_completed(5, "red")) as (url, _):
        assert run("generate", "a cat", "-n", "2", "--server", url) == 1
    assert "1 of 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Standing("queued", 1, 12.4, 0, 0), "waiting, 1 in line, about 12 s"),
        (Standing("queued", 3, None, 0, 0), "waiting, 3 in line"),
        (Standing("running", 0, None, 3, 8), "drawing, step 3 of 8"),
        (Standing("running", 0, 1.0, 0, 0), "drawing"),
    ],
)
def test_the_status_in_words(status: Standing, words: str) -> None:
    assert in_words(status) == words
