"""Processes that learn as one: their gradients' mean, the first one's clock, and an end that all share."""

import os
import subprocess
import sys

import torch

from tests.running import ROOT
from training import together

PROGRAM = """
import os, sys
import torch
from training import together
with together.processes(2, [sys.executable, "-c", os.environ["PROGRAM"]]):
    here = together.rank()
    one, other = torch.full((3,), float(here)), torch.full((2, 2), 10.0 * here)
    together.mean_([one, other])
    told = together.as_the_first(0.25 + here, here)
    print(together.size(), one.tolist(), other.tolist(), told, flush=True)
    if here and "FAIL" in os.environ:
        sys.exit(3)
"""


def run(**more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PROGRAM": PROGRAM, **more},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_two_processes_share_means_and_do_what_the_first_says() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 [0.5, 0.5, 0.5] [[5.0, 5.0], [5.0, 5.0]] (0.25, 0.0)\n"  # and the other is not heard


def test_a_process_that_fails_fails_the_training() -> None:
    done = run(FAIL="1")
    assert done.returncode == 1
    assert "another process of the training ended with 3" in done.stderr


def test_one_process_alone_needs_no_others() -> None:
    with together.processes(1, []):
        assert (together.size(), together.rank()) == (1, 0)
        assert together.as_the_first(0.5) == (0.5,)
        tensor = torch.ones(2)
        together.mean_([tensor])
        assert tensor.tolist() == [1, 1]
