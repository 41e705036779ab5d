"""Does a model that was loaded on a busy machine serve like one that was loaded on a quiet one?

    python -m bench.learning             # five minutes on two quiet cores; writes bench/out/learning.md

What steps cost is learnt from steps. Three starts of the same model, each with the check at load, and then so many
clients who send one request after another: on a quiet machine; beside busy processes, which end a minute later, while
the clients draw; and the same with clients who come when the processes have gone. The bar: pictures a second within 1.3
of the quiet start's. Last, a second model is loaded beside the first, as a worker does it, and what the check and the
first steps say that its steps cost is compared with what they take: within 1.3, too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from bench import tables, tiny
from pipelines.engine.engine import Engine
from pipelines.engine.learning import StepCosts
from pipelines.engine.shared import SharedModule, Stage
from pipelines.engine.sink import Sink
from pipelines.models import selfcheck
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing
from server.worker.devices import WorkerDevice
from server.worker.launch import environment

CLIENTS, STEPS, GUIDANCE = 16, 20, 5.0
BAR = 1.3
SPIN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # without the worker's, a busy minute takes ten


class _Clients(Sink):
    """So many who each send the next request when the last is drawn."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.drawn_count = 0
        self._number = 0
        self._left = threading.Semaphore(0)
        self._until_s = 0.0
        self.engine = Engine(self)

    def serve(self, seconds: float) -> float:
        """Pictures a second."""
        self._until_s = time.monotonic() + seconds
        before, began_s = self.drawn_count, time.monotonic()
        for _ in range(CLIENTS):
            self._send()
        for _ in range(CLIENTS):
            self._left.acquire()
        return (self.drawn_count - before) / (time.monotonic() - began_s)

    def _send(self) -> None:
        self._number += 1
        drawing = tiny.drawing(self.model, self._number, steps=STEPS, guidance=GUIDANCE)
        self.engine.submit(self.model, drawing, done=self._next)

    def _next(self) -> None:
        self.drawn_count += 1
        if time.monotonic() < self._until_s:
            self._send()
        else:
            self._left.release()


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that compute without end."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        time.sleep(1.0)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def load(latents: int) -> LoadedModel:
    """The model, checked as a worker checks it: on a thread that ends with it."""
    model = tiny.model(latents)
    with ThreadPoolExecutor(max_workers=1) as once:
        once.submit(selfcheck.check, model).result()
    return model


def denoiser(model: LoadedModel) -> SharedModule:
    return next(shared for shared in model.shared_modules.values() if shared.stage is Stage.DENOISE)


def step_ms(costs: StepCosts, rows: int) -> float:
    cost = costs.cost()
    return 0.0 if cost is None else 1000 * (cost.fixed_s + cost.row_s * rows)


def said(clients: _Clients) -> tuple[str, str]:
    """The bound, and the cost of a step of 16 rows."""
    costs = denoiser(clients.model).costs
    cost = costs.cost()
    return str(costs.most_rows(cost.area) if cost else "-"), f"{step_ms(costs, 16):.1f}"


def starts(latents: int, seconds: float, minute: float, processes: int) -> str:
    """Pictures a second after a quiet start, after a busy one that served, and after one that did not."""
    rows = []
    quiet = _Clients(load(latents))
    at_load = said(quiet)
    quiet.serve(seconds)
    base = quiet.serve(seconds)
    rows.append(("quiet", *at_load, *said(quiet), f"{base:.1f}", ""))
    quiet.engine.close()
    for name, serves in (("busy, served meanwhile", True), ("busy, then idle", False)):
        with busy(processes):
            clients = _Clients(load(latents))
            at_load = said(clients)
            if serves:
                clients.serve(minute)
        if not serves:
            time.sleep(min(minute, 5.0))
        rate = clients.serve(seconds)
        rows.append((name, *at_load, *said(clients), f"{rate:.1f}", f"{base / rate:.2f}"))
        clients.engine.close()
    head = (
        "start",
        "rows at load",
        "16 rows at load, ms",
        "rows then",
        "16 rows then, ms",
        "pictures/s",
        "quiet ÷ this",
    )
    return tables.table(head, rows)


def second_model(latents: int, seconds: float) -> str:
    """A model that is loaded while another's engine lives: its cost by the check, by its first steps, by many."""
    first = _Clients(load(latents))
    first.serve(seconds / 2)
    second = load(latents)
    costs = denoiser(second).costs
    by_check = step_ms(costs, 2)
    first.model = second
    drawn = threading.Event()
    drawing: Drawing = tiny.drawing(second, 0, steps=4, guidance=GUIDANCE)
    first.engine.submit(second, drawing, done=drawn.set)
    drawn.wait()
    by_four = step_ms(costs, 2)
    for number in range(8):
        drawn.clear()
        drawing = tiny.drawing(second, number, steps=STEPS, guidance=GUIDANCE)
        first.engine.submit(second, drawing, done=drawn.set)
        drawn.wait()
    by_many = step_ms(costs, 2)
    first.engine.close()
    figures = (f"{by_check:.2f}", f"{by_four:.2f}", f"{by_many:.2f}", f"{by_check / by_many:.2f}")
    head = ("by the check, ms", "after four steps, ms", "after many, ms", "check ÷ many", "four ÷ many")
    return tables.table(head, [(*figures, f"{by_four / by_many:.2f}")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=16, help="each way, of a picture (default: 16)")
    parser.add_argument("--seconds", type=float, default=20.0, help="that pictures are counted in (default: 20)")
    parser.add_argument("--minute", type=float, default=60.0, help="seconds beside busy processes (default: 60)")
    parser.add_argument("--processes", type=int, default=10, help="busy ones (default: 10)")
    arguments = parser.parse_args()
    workers = environment(WorkerDevice())
    if any(os.environ.get(name) != workers.get(name) for name in SPIN):  # libgomp reads it as it starts
        os.execve(sys.executable, [sys.executable, "-m", "bench.learning", *sys.argv[1:]], {**os.environ, **workers})
    tables.publish(
        "learning",
        f"## A start beside {arguments.processes} busy processes",
        f"{CLIENTS} clients, {STEPS} steps, {arguments.latents}×{arguments.latents} latents, {arguments.seconds:g} s "
        f"each; load average before: {os.getloadavg()[0]:.1f}. The bar: quiet ÷ this ≤ {BAR}.",
        starts(arguments.latents, arguments.seconds, arguments.minute, arguments.processes),
        "## A second model's cost, of a step of two rows",
        f"The bar: between {1 / BAR:.2f} and {BAR} after its first steps.",
        second_model(arguments.latents, arguments.seconds),
    )


if __name__ == "__main__":
    main()
