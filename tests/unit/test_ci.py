""".ci/run, with stand-ins for all that it runs: which commands, in which order, and what stops it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.running import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


@dataclass
class Machine:
    """A folder with a copy of .ci/run, and nothing on PATH but what is put there."""

    folder: Path

    def has(self, program: str, script: str = "") -> None:
        path = self.folder / "bin" / program
        path.write_text(f'#!/bin/sh\necho {program} "$@" >> {self.record}\n{script}\n')
        path.chmod(0o755)

    @property
    def record(self) -> Path:
        return self.folder / "record"

    def ran(self, code: int = 0) -> list[str]:
        """What the run recorded, in order; it must end with ``code``."""
        command = ["/bin/bash", str(self.folder / ".ci" / "run")]
        environment = {"PATH": str(self.folder / "bin")}
        done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return [line for line in self.record.read_text().splitlines() if not line.startswith("id ")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Debian, root, no browser, everything works."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "bin").mkdir()
    for name in ("sh", "dirname", "timeout"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    made = Machine(tmp_path)
    made.has("id", "echo 0")
    made.has("apt-get")
    made.has("make")
    return made


GATES = ["make check", "make test"]
INSTALL = ["apt-get update", "apt-get install -y --no-install-recommends chromium chromium-driver"]


def test_the_gates_come_before_the_readmes_test_command(machine: Machine) -> None:
    assert machine.ran() == [*INSTALL, *GATES]
    assert "make test " in README


def test_readme_names_the_packages_too() -> None:
    assert "apt-get install chromium chromium-driver" in README


@pytest.mark.parametrize("script", ["exit 100", None], ids=["fails", "missing"])
def test_without_apt_get_it_goes_on(machine: Machine, script: str | None) -> None:
    if script is None:
        (machine.folder / "bin" / "apt-get").unlink()
    else:
        machine.has("apt-get", script)
    assert [line for line in machine.ran() if line.startswith("make")] == GATES


@pytest.mark.parametrize("browser", ["chromium", "chromium-browser", "google-chrome"])
def test_nothing_is_installed_where_a_browser_is(machine: Machine, browser: str) -> None:
    machine.has(browser)
    machine.has("chromedriver")
    assert machine.ran() == GATES


def test_a_browser_without_its_driver_does_not_do(machine: Machine) -> None:
    machine.has("chromium")
    assert machine.ran() == [*INSTALL, *GATES]


def test_nothing_is_installed_by_who_is_not_root(machine: Machine) -> None:
    machine.has("id", "echo 1000")
    assert machine.ran() == GATES


def test_it_stops_where_a_gate_is_shut(machine: Machine) -> None:
    machine.has("make", "exit 2")
    assert machine.ran(code=2) == [*INSTALL, "make check"]
