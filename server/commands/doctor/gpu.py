"""``darkroom doctor --gpu``: runs the sections in a process of their own, and keeps to the time.

Knows names, limits and the file that figures go to; imports no torch. A section that takes too long, or takes its
process with it, is a FAIL, and the rest is run by another process.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from pipelines.plan import ModelPlan
from server import interpreter
from server.commands.doctor import inquiry
from server.commands.failure import CommandFailed
from server.errors import ConfigError
from server.settings import ENV_PREFIX
from server.storage import atomic
from server.worker.child.examination import Assignment, Step

if TYPE_CHECKING:
    from server.catalog.catalog import Catalog
    from server.settings import Settings

RANDOM = ("sdxl", "klein-4b")  # of pipelines/doctor/random_weights.py
_START_S = 60.0  # to import torch
_LOAD_S = 90.0  # to make a model, or to read it from a disk
# What each section may take, beside the time above; a section's own bounds are narrower.
LIMITS_S = {
    "environment": 20.0,
    "device": 40.0,
    "check": 90.0,
    "rows": 90.0,
    "graphs": 90.0,
    "engine": 90.0,
    "memory": 45.0,
    "beside": 45.0,
    "residency": 60.0,
    "lost": 60.0,
}


def steps_of(models: Iterable[str]) -> tuple[Step, ...]:
    """All sections in the order in which they are run: of the device, of each model, and last what breaks things."""
    drawn = [Step(name, model) for model in models for name in list(LIMITS_S)[2:-1]]
    return (Step("environment"), Step("device"), *drawn, Step("lost"))


def measure(catalog: Catalog, settings: Settings, arguments: Namespace) -> int:
    """Run the sections. 0 where none failed, else 1; ConfigError for a model that there is not."""
    for name in arguments.model:
        if name not in catalog.models:
            raise ConfigError(
                f"--model {name}: no such ID in {catalog.path}; it has {', '.join(sorted(catalog.models))}"
            )
    plans = {catalog.models[name].plan.key: catalog.models[name].plan for name in arguments.model}
    device = _device(catalog, settings, rehearsal=bool(plans))
    examination = Examination(device, tuple(plans.values()), arguments.out, 60 * arguments.minutes)
    return examination.run(steps_of(plans or RANDOM))


def _device(catalog: Catalog, settings: Settings, *, rehearsal: bool) -> str:
    """cuda; cpu where that is set and a model is named, to rehearse. Raises CommandFailed where there is no GPU."""
    if settings.device_kind == "cpu":
        if not rehearsal:
            raise CommandFailed("--gpu measures a GPU, and device is cpu; with --model NAME it rehearses there")
        return "cpu"
    said = inquiry.ask(catalog, settings)
    if not said.device.startswith("cuda"):
        raise CommandFailed(f"no GPU to measure: {said.device_problem or 'this machine shows no CUDA device'}")
    return "cuda"


class Examination:
    """One run of the sections: what came of each, in a file that is whole after every event."""

    def __init__(self, device: str, plans: tuple[ModelPlan, ...], out: Path, seconds: float) -> None:
        self._device = device
        self._plans = plans
        self._out = out
        self._deadline = time.monotonic() + seconds
        self._found: dict[str, dict[str, Any]] = {}
        self._verdicts: list[tuple[str, str, str]] = []

    def run(self, steps: tuple[Step, ...], command: list[str] | None = None) -> int:
        """Run all steps, in as many processes as it takes, and print the verdicts once more at the end."""
        command = command or interpreter.python("server.worker.child.examination")
        left = list(steps)
        while left and time.monotonic() < self._deadline:
            done = self._run_process(command, left)
            left = left[max(1, done) :]  # the one that took the process with it is not tried again
        for step in left:
            self._judge(step.title, "LOOK", "left out: the time was over")
        print()
        for verdict, title, says in self._verdicts:
            print(f"{verdict:4} {title:20} {says}")
        failed = sum(verdict == "FAIL" for verdict, _, _ in self._verdicts)
        print(f"\n{failed} failed of {len(self._verdicts)}; the figures are in {self._out}")
        return 1 if failed else 0

    def _run_process(self, command: list[str], steps: list[Step]) -> int:
        """Run steps in one process until it ends or is ended; how many it has begun and is done with."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        process = subprocess.Popen(  # noqa: S603, our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=interpreter.environment(kept)
        )
        assert process.stdin is not None
        assert process.stdout is not None
        events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        reader = threading.Thread(target=_read, args=(process.stdout, events.put), daemon=True)
        reader.start()
        try:
            with process.stdin as asked:
                asked.write(msgspec.json.encode(Assignment(self._device, tuple(steps), self._plans)))
        except BrokenPipeError:
            pass  # it has ended already; below it is told how
        try:
            return self._follow(process, events, steps)
        finally:
            process.kill()
            process.wait()
            reader.join(timeout=5.0)  # for ever, where a process that the section started still holds the pipe

    def _follow(
        self, process: subprocess.Popen[bytes], events: queue.SimpleQueue[dict[str, Any] | None], steps: list[Step]
    ) -> int:
        begun, limit_s = 0, _START_S
        until = time.monotonic() + limit_s
        while True:
            try:
                event = events.get(timeout=max(0.0, min(until, self._deadline) - time.monotonic()))
            except queue.Empty:
                title = steps[max(0, begun - 1)].title
                if time.monotonic() >= self._deadline:
                    self._judge(title, "LOOK", "cut off: the time was over")
                else:
                    self._judge(title, "FAIL", f"no end within {limit_s:.0f} s; its process was ended")
                return begun
            if event is None:
                title = steps[max(0, begun - 1)].title
                self._judge(title, "FAIL", f"its process ended with exit code {process.wait()}")
                return begun
            if "ended" in event:
                return len(steps)
            if "section" in event:
                step = steps[begun]
                first = begun == 0 or steps[begun - 1].model != step.model
                limit_s = LIMITS_S[step.section] + (_LOAD_S if step.model and first else 0.0)
                until = time.monotonic() + limit_s
                begun += 1
                print(f"== {step.title}", flush=True)
            self._take(steps[max(0, begun - 1)].title, event)

    def _take(self, title: str, event: dict[str, Any]) -> None:
        if "figures" in event:
            self._found.setdefault(title, {}).update(event["figures"])
            shown = {name: value for name, value in event["figures"].items() if not isinstance(value, list | dict)}
            if shown:
                print("   " + ", ".join(f"{name}={value}" for name, value in shown.items()), flush=True)
            self._write()
        elif "verdict" in event:
            self._judge(title, event["verdict"], event["says"])

    def _judge(self, title: str, verdict: str, says: str) -> None:
        self._verdicts.append((verdict, title, says))
        print(f"   {verdict}: {says}", flush=True)
        self._write()

    def _write(self) -> None:
        document = {"device": self._device, "figures": self._found, "verdicts": self._verdicts}
        atomic.write(self._out, json.dumps(document, indent=1).encode())


def _read(pipe: IO[bytes], tell: Callable[[dict[str, Any] | None], None]) -> None:
    """Each line that is an event; libraries print others. None at the end."""
    with pipe:
        for line in pipe:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                tell(event)
    tell(None)
