"""The commands that draw, against a running server and without one, as somebody types them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pictures import opened, parameters, png, right_half, scene
from tests.running import ROOT, Running


def darkroom(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    own = {"PYTHONPATH": str(ROOT), "DARKROOM_DATA_DIR": str(tmp_path / "data")}
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        capture_output=True, text=True, cwd=tmp_path, env={**clean, **own}, timeout=150,
    )  # fmt: skip


@pytest.mark.parametrize("where", ["server", "local"])
def test_generate_then_edit(server: Running, tmp_path: Path, where: str) -> None:
    who = ["--local"] if where == "local" else ["--server", server.url]
    made = darkroom(tmp_path, "generate", "a red apple", "-n", "2", "--seed", "5", "--steps", "2", "-m", "gpt-image-1",
                    "-s", "96x64", *who)  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert made.stdout.split() == ["out/a-red-apple-seed5.png", "out/a-red-apple-seed6.png"]
    assert made.stderr == ""
    first = (tmp_path / "out/a-red-apple-seed5.png").read_bytes()
    assert opened(first).size == (96, 64)
    assert (parameters(first)["seed"], parameters(first)["steps"]) == (5, 2)
    if where == "local":
        assert not (tmp_path / "data").exists()  # it keeps nothing but the pictures
        return
    (tmp_path / "mask.png").write_bytes(png(right_half(96, 64)))
    edited = darkroom(tmp_path, "edit", "out/a-red-apple-seed5.png", "a green apple", "--mask", "mask.png",
                      "-m", "gpt-image-1", "--steps", "2", "--show", "blocks", "-o", "green.webp", *who)  # fmt: skip
    assert edited.returncode == 0, edited.stderr
    assert opened((tmp_path / "green.webp").read_bytes()).size == (96, 64)
    assert "▀" in edited.stdout


def test_without_a_server_a_failure_reads_the_same(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(png(scene(8, 8))[:40])
    failed = darkroom(tmp_path, "edit", "in.png", "x", "--local")
    assert failed.returncode == 1
    assert failed.stderr.startswith("darkroom: image: the picture is")
