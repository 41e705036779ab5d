"""Results of a suite, as lines of JSON in out/reliability/NAME.jsonl: one for each batch that is done.

A run goes on where the last one stopped: batches with the same seed, on the same commit, are not run again. Knows
batches and findings; knows nothing of what is tried.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.running import ROOT

FOLDER = ROOT / "out" / "reliability"
MAX_SHOWN = 10  # findings of a kind that the end of a run prints


@dataclass
class Finding:
    """Something that was not as it must be, with what it takes to see it again."""

    kind: str
    detail: str
    input: str


@dataclass
class Batch:
    """What one batch of a part did. ``counts`` are what the part counts; of names that begin with max, the largest."""

    part: str
    index: int
    done: int = 0  # requests, pictures, URLs
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, detail: str, input: str) -> None:
        self.findings.append(Finding(kind, detail[:1000], input[:20_000]))


class Record:
    """The lines of one suite and seed. What is in them already counts as done."""

    def __init__(self, name: str, seed: int, *, folder: Path = FOLDER, fresh: bool = False) -> None:
        self.name, self.seed, self.tree = name, seed, _tree()
        self.path = folder / f"{name}.jsonl"
        self.batches: dict[tuple[str, int], Batch] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            self.path.unlink(missing_ok=True)
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            row = json.loads(line)
        except ValueError:  # the last line of a run that was killed
            return
        if (row.pop("seed"), row.pop("tree")) != (self.seed, self.tree):
            return
        row["counts"] = Counter(row["counts"])
        row["findings"] = [Finding(**finding) for finding in row["findings"]]
        batch = Batch(**row)
        self.batches[batch.part, batch.index] = batch

    def add(self, batch: Batch) -> None:
        self.batches[batch.part, batch.index] = batch
        with self.path.open("a", encoding="utf-8") as file:
            row = {**vars(batch), "findings": [vars(finding) for finding in batch.findings]}
            file.write(json.dumps({"seed": self.seed, "tree": self.tree, **row}) + "\n")
        done = sum(batch.done for batch in self.batches.values())
        print(f"{self.name}: {batch.part} {batch.index}, {done:,} in all", file=sys.stderr, flush=True)

    def left(self, part: str, batches: int) -> list[int]:
        """The batches of a part that are not done yet."""
        return [index for index in range(batches) if (part, index) not in self.batches]

    def finish(self, unit: str, wanted: int, *, complete: bool) -> int:
        """Print what was found, and a line that sums up. The exit code: 0 if all is done and nothing was found."""
        findings: dict[str, list[Finding]] = {}
        counts: Counter[str] = Counter()
        for batch in self.batches.values():
            for name, count in batch.counts.items():
                counts[name] = max(counts[name], count) if name.startswith("max ") else counts[name] + count
            for finding in batch.findings:
                findings.setdefault(finding.kind, []).append(finding)
        for kind, found in sorted(findings.items()):
            for finding in found[:MAX_SHOWN]:
                print(f"{kind}: {finding.detail}\n    {finding.input[:400]}")
        done = sum(batch.done for batch in self.batches.values())
        print(
            f"{self.name}: {done:,} of {wanted:,} {unit}, seed {self.seed}, commit {self.tree},"
            f" {sum(batch.seconds for batch in self.batches.values()):.0f} process seconds;"
            f" findings: {({kind: len(found) for kind, found in sorted(findings.items())}) or 0};"
            f" {', '.join(f'{name}: {count:,}' for name, count in sorted(counts.items()))}"
            + ("" if complete else "; NOT FINISHED: the same command goes on from here")
        )
        return 0 if complete and not findings else 1


def run_batches(
    record: Record,
    tasks: Iterable[tuple[Callable[..., Batch], tuple[Any, ...]]],
    *,
    processes: int,
    time_limit_s: float,
) -> None:
    """Run tasks in processes of their own until all are done or the time is up. Tasks and arguments are pickled."""
    deadline = time.monotonic() + time_limit_s
    waiting = iter(tasks)
    running: set[Future[Batch]] = set()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        while True:
            while len(running) < processes and time.monotonic() < deadline:
                task = next(waiting, None)
                if task is None:
                    break
                running.add(pool.submit(task[0], *task[1]))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                record.add(future.result())


def _tree() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
