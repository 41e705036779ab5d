"""The darkroom command: exit codes, and how little it imports before it knows what to do."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
        from server.cli import build_parser, main
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
