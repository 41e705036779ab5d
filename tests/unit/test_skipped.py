from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT

NEEDY = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_with_a_browser(number):
    pytest.skip("needs a browser: apt-get install one")

@pytest.mark.skipif(True, reason="needs a JDK")
def test_with_java():
    pass

def test_with_nothing():
    pass
"""


def last_line(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "tests.skipped", "-p", "no:cacheprovider", *arguments, "."]
    done = subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("arguments", [(), ("-q", "-ra"), ("-n", "2", "--dist", "loadfile")], ids=" ".join)
def test_the_last_line_says_what_was_skipped_and_what_installs_it(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "test_needy.py").write_text(NEEDY, encoding="utf-8")
    line = last_line(tmp_path, *arguments)
    assert line == "4 skipped: needs a browser: apt-get install one (3); needs a JDK (1)"


def test_there_is_no_such_line_where_nothing_was_skipped(tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text("def test_nothing():\n    pass\n", encoding="utf-8")
    assert "skipped" not in last_line(tmp_path)


def test_this_run_says_it_too(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.pluginmanager.has_plugin("tests.skipped")


LONG = """
import pytest

@pytest.mark.long
def test_long():
    pass

def test_short():
    pass
"""


def test_what_takes_long_runs_where_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = long: takes long\n", encoding="utf-8")
    (tmp_path / "test_long.py").write_text(LONG, encoding="utf-8")
    assert last_line(tmp_path) == "1 skipped: takes long: make test-long (1)"
    assert "1 passed, 1 deselected" in last_line(tmp_path, "-m", "long")
