"""The darkroom command: exit codes, and how little it imports before it knows what to do."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.app import create_app
from server.edge.keys import Keyring
from server.serve import _openness
from server.settings import Settings
from tests.running import ROOT
from tests.unit.commands.command_line import run


@pytest.fixture(autouse=True)
def _data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """``serve`` sends the log to stderr, which here is pytest's: what came later would write to a closed file."""
    root, ours = logging.getLogger(), logging.getLogger("darkroom")
    kept = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:] = kept[0]
    root.setLevel(kept[1])
    ours.setLevel(kept[2])


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_typing_error_is_told_alike_with_and_without_serving(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("default: a\nmodels:\n  a: { paht: nowhere }\n")
    assert run(command, "--models", str(file)) == 2
    assert f"darkroom: {file}, line 3: models.a.paht" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [(), ("dance",), ("check", "--nonsense"), ("serve", "--nonsense"), ("keys",)])
def test_wrong_usage_is_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "packages"),
    [
        ((), set()),  # the parser alone
        (("keys", "list"), {"pydantic"}),
        (("check",), {"pydantic", "yaml"}),
        (("models", "--models", "models.yaml"), {"pydantic", "yaml", "rich", "httpx"}),
    ],
)
def test_a_command_imports_what_it_needs(arguments: tuple[str, ...], packages: set[str]) -> None:
    """Every command adds its flags before one of them runs: an import at the top of one file would slow down all."""
    code = """if True:
        import contextlib, io, sys
        from server import interpreter
        from server.cli import build_parser, main
        interpreter.python = lambda module: ["true"]  # a process of its own, with torch, which says nothing
        build_parser()
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
            main() if sys.argv[1:] else None
        slow = "pydantic yaml rich httpx httpcore PIL numpy fastapi starlette uvicorn openai torch".split()
        print(*(name for name in slow if name in sys.modules))
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert set(done.stdout.split()) <= packages


def said(*arguments: str, **environment: str) -> tuple[int, str]:
    """The exit code and standard error of a command, whose standard output is a full disk."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "server", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**clean, **environment}, check=False,
        )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("serve", "--port", "0", "--data-dir", "FILE"), "FILE"),
        (("serve", "--port", "0", "--data-dir", "FILE/below"), "FILE/below"),
        (("serve", "--port", "0", "--data-dir", "PICTURES"), "PICTURES/pictures: cannot keep pictures here"),
        (("serve", "--port", "0", "--data-dir", "SECRET"), "SECRET/signing_key"),
        (("serve", "--port", "0", "--data-dir", "KEYS"), "KEYS/keys.json"),
        (("serve", "--port", "TAKEN", "--data-dir", "NEW"), "port TAKEN: Address already in use"),
        (("serve", "--host", "127.0.0.1.x", "--allow-open", "--data-dir", "NEW"), "cannot listen on 127.0.0.1.x"),
        (("serve", "--host", "x" * 300, "--allow-open", "--data-dir", "NEW"), "cannot listen on x"),
        (("serve", "--models", "NEW"), "NEW: is a folder; name the models.yaml in it"),
        (("check", "--models", "FILE/models.yaml"), "FILE/models.yaml"),
        (("demo", "--out", "FILE"), "--out FILE: no folder can be made there: File exists"),
        (("bench", "--out", "FILE/x.html"), "--out FILE/x.html: its folder cannot be made"),
        (("bench", "--out", "NEW"), "--out NEW: cannot be written"),
        (("models", "--models", "models.yaml"), "No space left on device"),  # its own output
        (("keys", "list"), ""),
    ],
    ids=range(15),
)
def test_what_the_system_refuses_at_start_is_a_sentence_and_2(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    """A data folder that could not be written was 40 lines of traceback, and exit code 1."""
    (tmp_path / "FILE").write_text("a file")
    for folder, inside in (("PICTURES", "pictures"), ("NEW", "unused"), ("SECRET", ""), ("KEYS", "")):
        (tmp_path / folder).mkdir()
        if inside:
            (tmp_path / folder / inside).write_text("a file")
    (tmp_path / "SECRET" / "signing_key").mkdir()
    (tmp_path / "KEYS" / "keys.json").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        def real(text: str) -> str:
            for name in ("FILE", "PICTURES", "NEW", "SECRET", "KEYS"):
                text = text.replace(name, str(tmp_path / name))
            return text.replace("TAKEN", port)

        code, error = said(*map(real, arguments), DARKROOM_DATA_DIR=str(tmp_path / "data"))
    if not says:
        assert (code, error) == (0, "")  # nothing to list, nothing to write
        return
    assert code == 2
    (line,) = error.splitlines()
    assert line.startswith("darkroom: ")
    assert real(says) in line


def test_a_user_without_a_home_is_told_which_setting_helps() -> None:
    """A container's number without a name had a traceback."""
    code = "import pathlib; pathlib.Path.home = lambda: (_ for _ in ()).throw(RuntimeError('no home'))"
    run_it = f"{code}; from server.cli import main; main(['keys', 'list'])"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DARKROOM_", "XDG_"))}
    done = subprocess.run([sys.executable, "-c", run_it], capture_output=True, text=True, cwd=ROOT, env=clean)
    assert done.returncode == 2
    assert "DARKROOM_DATA_DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_says_who_is_let_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a public_url beyond loopback and no key it said: this machine only."""
    there = ("--data-dir", str(tmp_path / "data"), "--port", "0")
    assert run("serve", *there, "--public-url", "https://pictures.example.com") == 2
    error = capsys.readouterr().err
    assert "public_url https://pictures.example.com is reachable from other machines" in error
    assert "keys create" in error
    assert "DARKROOM_ALLOW_OPEN" in error
    keyring = Keyring(tmp_path / "data" / "keys.json")
    never = openness(tmp_path)
    keyring.create("alice")
    has = openness(tmp_path)
    keyring.revoke("alice")
    had, allowed = openness(tmp_path), openness(tmp_path, allow_open=True)
    assert "this machine only" in never
    assert has == ""
    assert "last key has been revoked" in had
    assert "DARKROOM_ALLOW_OPEN" in had
    assert "keys create" in had
    assert "last key" not in allowed


def openness(tmp_path: Path, **settings: Any) -> str:
    chosen = Settings(data_dir=tmp_path / "data", models=ROOT / "models.yaml", **settings)
    return _openness(chosen, create_app(chosen))
