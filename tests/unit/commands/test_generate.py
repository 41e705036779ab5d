"""darkroom generate and edit: what flags become, what a stream becomes, and how failures read."""

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

from pipelines.spec import Task
from server.cli import main
from server.commands.drawing import Stage
from server.commands.generate import tell
from tests.paper import Paper, PaperServers
from tests.pictures import opened, png, right_half, scene


@pytest.fixture(autouse=True)
def _plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DARKROOM_URL", "DARKROOM_API_KEY", "DARKROOM_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DARKROOM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


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


def test_keys(desk: PaperServers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    paper = desk.open(keys=True)
    assert run("generate", "x", "--server", paper.url) == 1
    assert "--key-file" in capsys.readouterr().err
    Path("key").write_text(f"{paper.key}\n")
    assert run("generate", "x", "--server", paper.url, "--key-file", "key") == 0
    monkeypatch.setenv("DARKROOM_API_KEY", str(paper.key))
    monkeypatch.setenv("DARKROOM_URL", paper.url)
    assert run("generate", "x") == 0
    assert len(paper.worker.drawings) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("generate", "x", "--server", "ftp://a"), "--server"),
        (("generate", "x", "--key-file", "nowhere"), "nowhere"),
        (("generate", "x", "-n", "2", "-o", "a.png"), "folder"),
        (("generate", "x", "-o", "a.png", "--format", "webp"), "ending"),
        (("generate", "x", "-o", "there.png"), "overwritten"),
        (("edit", "nowhere.png", "x"), "nowhere.png"),
        (("edit", "there.png", "x", "--mask", "nowhere.png"), "nowhere.png"),
        (("generate", "x", "--lora", "a=b"), "WEIGHT"),
        (("generate", "x", "--show", "holograms"), "holograms"),
        (("generate",), "PROMPT"),
        (("edit", "x"), "PROMPT"),
    ],
)
def test_wrong_usage_is_2_and_draws_nothing(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.png").write_bytes(png(scene(8, 8)))
    assert run(*arguments) == 2
    assert says in capsys.readouterr().err


# --- a server that streams, as the wire says ---


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
    ("stage", "words"),
    [
        (Stage("queued", 1, 12.4, 0, 0), "waiting, 1 in line, about 12 s"),
        (Stage("queued", 3, None, 0, 0), "waiting, 3 in line"),
        (Stage("running", 0, None, 3, 8), "drawing, step 3 of 8"),
        (Stage("running", 0, 1.0, 0, 0), "drawing"),
    ],
)
def test_stages_in_words(stage: Stage, words: str) -> None:
    assert tell(stage) == words


# --- darkroom models ---


def test_models_of_a_running_server(paper: Paper, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--server", paper.url) == 0
    said = capsys.readouterr().out
    assert "(running)" in said
    assert "ready" in said
    assert "28 MB" in said
    assert "doubao-seedream-4-0-250828" in said


def test_models_without_a_server_are_those_of_the_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_PORT", "9")
    assert run("models") == 0
    said = capsys.readouterr().out
    assert "models.yaml" in said
    assert "on disk" in said
    assert run("models", "--server", "http://127.0.0.1:9") == 1
    assert "no server answers" in capsys.readouterr().err


def test_a_password_in_the_url_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (("generate", "a cat"), ("models",)):
        assert run(*command, "--server", "http://me:canary@127.0.0.1:9") == 1
        said = capsys.readouterr().err
        assert "http://127.0.0.1:9" in said
        assert "canary" not in said


def test_bytes_that_are_no_text_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "caf\udce9") == 2
    assert "prompt" in capsys.readouterr().err


def test_a_table_for_programs_is_not_folded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a[" / "b]"  # rich would read markup in it
    folder.mkdir(parents=True)
    names = [f"another-name-{i}" for i in range(9)]
    text = f"default: x\nmodels:\n  x: {{ path: /nowhere, aliases: [{', '.join(names)}] }}\n"
    (folder / "models.yaml").write_text(text)
    assert run("models", "--models", str(folder / "models.yaml")) == 0
    title, _, row = capsys.readouterr().out.splitlines()
    assert title.strip() == str(folder / "models.yaml")
    assert row.split()[-9:] == names


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
