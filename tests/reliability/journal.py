"""A suite's results: JSON lines in out/reliability/, a summary line, and where to go on after a break.

Knows files, options and figures; knows nothing of servers. The first line of a file holds the options of the run; a
run with the same options on the same commit goes on behind the last line, and any other begins a new file.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tests.running import ROOT

FOLDER = ROOT / "out" / "reliability"
PLACE = ("fresh", "time_limit")  # options that change nothing in the results


@dataclass(frozen=True)
class Bar:
    """A figure and what it must be."""

    name: str
    value: float
    limit: float  # it may be this
    unit: str = ""

    @property
    def met(self) -> bool:
        return bool(self.value <= self.limit)  # which NaN, no figure at all, is not

    def __str__(self) -> str:
        return f"{self.name} {self.value:,.6g}{self.unit} (bar {self.limit:,.6g}){'' if self.met else ' FAILED'}"


class Journal:
    """The results of one run of a suite, this process's and those before it."""

    def __init__(self, suite: str, options: argparse.Namespace) -> None:
        self.suite = suite
        self.file = FOLDER / f"{suite}.jsonl"
        self.rows: list[dict[str, Any]] = []
        self.ends: list[dict[str, Any]] = []  # of servers: what was left when each had done its part
        self._lock = threading.Lock()  # of the file: suites may have several servers
        self._deadline: float = time.monotonic() + options.time_limit
        chosen: dict[str, Any] = {name: value for name, value in vars(options).items() if name not in PLACE}
        chosen["commit"] = _commit()
        FOLDER.mkdir(parents=True, exist_ok=True)
        if self.file.exists():
            first, *lines = self.file.read_text().splitlines() or ["{}"]
            if not options.fresh and _read(first).get("options") == chosen:
                found = [row for row in map(_read, lines) if row and "summary" not in row]
                self.rows = [row for row in found if "end" not in row]
                self.ends = [row["end"] for row in found if "end" in row]
                return
            self.file.replace(self.file.with_name(f"{suite}.{int(self.file.stat().st_mtime)}.jsonl"))
        self._write({"suite": suite, "options": chosen, "began": time.strftime("%Y-%m-%dT%H:%M:%S%z")})

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        self._write(row)

    def add_end(self, **row: Any) -> None:
        self.ends.append(row)
        self._write({"end": row})

    @property
    def out_of_time(self) -> bool:
        return time.monotonic() > self._deadline

    @property
    def faults(self) -> list[str]:
        return [fault for row in (*self.rows, *self.ends) for fault in row.get("faults", ())]

    def values(self, name: str) -> list[float]:
        return [row[name] for row in self.rows if row.get(name) is not None]

    def end(self, counts: str, bars: Sequence[Bar], *, whole: bool) -> int:
        """Print the summary line; the exit code."""
        bars = [*bars, Bar("faults", len(self.faults), 0)]
        passed = all(bar.met for bar in bars)
        verdict = ("passed" if passed else "FAILED") + ("" if whole else ", NOT COMPLETE: the same command goes on")
        line = f"{self.suite}: {counts}; {'; '.join(map(str, bars))}: {verdict}"
        self._write({"summary": line, "passed": passed, "whole": whole})
        for fault, times in Counter(self.faults).most_common(20):
            print(f"  {times} × {fault}")
        print(line)
        return 0 if passed and whole else 1

    def _write(self, row: dict[str, Any]) -> None:
        with self._lock, Path(self.file).open("a") as opened:
            opened.write(json.dumps(row) + "\n")


def _read(line: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}  # the last line of a run that was killed
    return found


def parser(description: str | None, *, time_limit_s: float) -> argparse.ArgumentParser:
    """A parser with the options that every suite has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seed", type=int, default=1, help="of everything that is drawn by lot (default: 1)")
    made.add_argument(
        "--time-limit",
        type=float,
        default=time_limit_s,
        metavar="S",
        help=f"seconds until nothing more is begun (default: {time_limit_s:g})",
    )
    made.add_argument("--fresh", action="store_true", help="begin anew instead of going on after the last result")
    return made


class _Progress(Progress):
    """A bar; where no terminal shows it, a line each time that something is done."""

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        task = self.tasks[task_id]
        if not self.console.is_terminal:
            of = "" if task.total is None else f" of {task.total:g}"
            print(f"{task.description}: {task.completed:g}{of}, {task.elapsed or 0:.0f} s", file=sys.stderr, flush=True)


def progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return _Progress(*columns, console=Console(stderr=True))


def quantile(values: Iterable[float], share: float) -> float:
    """The least value that ``share`` of the values do not exceed; NaN if there are none."""
    found = sorted(values)
    return found[max(0, math.ceil(share * len(found)) - 1)] if found else math.nan


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
