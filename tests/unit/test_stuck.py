from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.running import ROOT

STUCK = """
import time

def test_that_waits_for_what_never_comes():
    time.sleep(600)
"""


def test_a_test_that_does_not_end_is_told_with_its_stack(tmp_path: Path) -> None:
    """All that a run said of it was that a worker had gone."""
    (tmp_path / "test_long.py").write_text(STUCK, encoding="utf-8")
    options = ["-n", "1", "--timeout", "1", "--timeout-method", "thread", "--max-worker-restart", "0"]
    command = [sys.executable, "-m", "pytest", "-p", "tests.stuck", "-p", "no:cacheprovider", *options, "."]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "test_long.py::test_that_waits_for_what_never_comes has not ended in 1 s" in done.stderr
    assert 'test_long.py", line 5 in test_that_waits_for_what_never_comes' in done.stderr
