"""``darkroom bundle`` and ``darkroom bundle install``, with a stand-in for Darkroom's wheel: nothing is fetched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.facts import seal
from server.commands.bundle import archive, install, wheels
from server.commands.failure import CommandFailed
from tests.running import ROOT
from tests.unit.commands.bundle import stand_ins
from tests.unit.commands.command_line import run
from tests.unit.pipelines.facts.test_seal import WEIGHTS, flip


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What pip was asked for, in whose place the stand-ins come."""
    asked = []

    def fetch(folder: Path, *arguments: Any) -> None:
        asked.append(arguments)
        stand_ins.wheels(folder)

    monkeypatch.setattr(wheels, "fetch", fetch)
    return asked


@pytest.fixture
def file(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "weights" / "darkroom-mini", tmp_path / "model")
    path = tmp_path / "models.yaml"
    path.write_text("default: a\nmodels:\n  a: { path: model }\n")
    assert run("models", "--models", str(path), "seal", "a") == 0
    return path


def test_a_bundle_installs_itself(
    file: Path, tmp_path: Path, fetched: list[tuple[Any, ...]], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle.tar.gz"
    assert run("bundle", str(out), "a", "--models", str(file)) == 0
    assert fetched[0][2].is_this
    with tarfile.open(out) as opened:
        names = set(opened.getnames())
    assert {"install.py", "models.yaml", "docs/models.md", "docs/LICENSE", f"models/a/{WEIGHTS}"} < names
    capfd.readouterr()
    assert run("bundle", "install", str(out), "--into", str(tmp_path / "there")) == 0
    said = capfd.readouterr().out
    there = tmp_path / "there"
    assert f"stand-in: doctor --models {there / 'models.yaml'}" in said
    assert "it is not signed" in said
    assert f"serve with: {there / 'venv/bin/darkroom'} serve --models" in said
    assert sorted(path.name for path in there.iterdir()) == [
        *("MANIFEST.json", "docs", "install.py", "models", "models.yaml", "venv")
    ]
    assert (there / "models" / "a" / seal.NAME).is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_install_py_needs_nothing_but_python(tmp_path: Path) -> None:
    """Not even a folder of packages: -I and -S leave out whatever is installed."""
    stand_ins.wheels(tmp_path / "wheels")
    files = {f"wheels/{path.name}": path for path in (tmp_path / "wheels").iterdir()}
    facts = stand_ins.facts()
    archive.write(tmp_path / "b.tar", files, facts, {}, sign=None, report=lambda read: None)
    shutil.copy(install.__file__, tmp_path / "install.py")
    command = [sys.executable, "-I", "-S", str(tmp_path / "install.py"), "b.tar", "--into", "there"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "stand-in: doctor\n" in done.stdout
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 1
    assert "there is not empty: name a new folder with --into" in again.stderr
    environment = {**os.environ, "STAND_IN_EXIT": "1"}
    other = subprocess.run([*command[:-1], "other"], cwd=tmp_path, env=environment, capture_output=True)
    assert other.returncode == 1, "what doctor says is the exit code"
    assert (tmp_path / "other" / "venv").is_dir(), "and it stays installed"


def test_nothing_stays_of_an_installation_that_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stand_ins.wheels(tmp_path / "wheels")
    files = {f"wheels/{path.name}": path for path in (tmp_path / "wheels").glob("pip*")}
    archive.write(tmp_path / "b.tar", files, stand_ins.facts(), {}, sign=None, report=lambda read: None)
    (tmp_path / "torn.tar").write_bytes((tmp_path / "b.tar").read_bytes()[:-5000])
    before = sorted(path.name for path in tmp_path.iterdir())
    for bundle, says in (("b.tar", "nothing is installed"), ("torn.tar", "it is truncated"), ("gone.tar", "No such")):
        assert run("bundle", "install", bundle, "--into", "there") in (1, 2)
        assert says in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_is_not_sealed_makes_no_bundle(
    file: Path, tmp_path: Path, fetched: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    flip(tmp_path / "model" / WEIGHTS, -1)  # which only reading every byte tells
    assert run("bundle", "out.tar", "--all", "--models", str(file)) == 1
    assert f"{tmp_path / 'model' / WEIGHTS} is not what was sealed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name or path.name.startswith(".")] == []


def test_a_bundle_of_no_model_has_the_embedded_one(tmp_path: Path, fetched: list[tuple[Any, ...]]) -> None:
    assert run("bundle", "out.tar", "--platform", "linux-aarch64", "--python-version", "3.13", "--extra", "vision") == 0
    _, extras, target, options = fetched[0]
    assert (extras, target.python, target.system, target.machine) == ("[vision]", "3.13", "Linux", "aarch64")
    assert {"manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "linux_aarch64"} < set(target.platforms)
    assert options == ["--constraint", str(ROOT / "constraints.txt")]
    with tarfile.open("out.tar") as opened:
        found = opened.extractfile(install.MANIFEST)
        assert found is not None
        manifest = json.load(found)
    assert (manifest["darkroom"], manifest["python"], manifest["machine"]) == ("9.9", "3.13", "aarch64")
    assert "models.yaml" not in manifest["files"]


def test_pip_is_asked_for_wheels_of_that_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[str]] = []
    monkeypatch.setattr(wheels, "_pip", lambda arguments, failure: asked.append(arguments))
    own = tmp_path / "darkroom-9.9-py3-none-any.whl"
    own.touch()
    wheels.fetch(tmp_path, own, "[vision]", wheels.target(["macosx_12_0_arm64"], "3.12"), ["--index-url", "URL"])
    wheels.fetch(tmp_path, own, "", wheels.target([], None), [])
    first = ["--python-version", "3.12", "--implementation", "cp", "--platform", "macosx_12_0_arm64"]
    head = ["download", "--dest", str(tmp_path), "--only-binary=:all:"]
    assert asked == [
        [*head, *first, "--index-url", "URL", f"{own}[vision]", "pip"],
        [*head, str(own), "pip"],
    ]
    with pytest.raises(CommandFailed, match="no wheel"):
        wheels.fetch(tmp_path, tmp_path / "x.zip", "", wheels.target([], None), [])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["out.zip"], "the name must end with .tar or .tar.gz"),
        (["out.tar", "--platform", "amiga"], "--platform amiga: must be linux-x86_64"),
        (["out.tar", "--python-version", "2.7"], "--python-version 2.7: must be 3.11 or newer"),
        (["out.tar", "--sign", "gone.key"], "--sign needs|no such file"),
        (["install"], "name one bundle"),
        (["install", "a", "b"], "name one bundle"),
        (["out.tar", "nonsense"], "No such model"),
    ],
)
def test_wrong_usage(
    arguments: list[str], says: str, fetched: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bundle", *arguments) == 1
    assert any(part in capsys.readouterr().err for part in says.split("|"))
    assert fetched == []
