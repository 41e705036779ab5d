"""What does the engine itself cost, per step that 16 runs share?

    python -m bench.overhead            # 20 s on two quiet cores; writes bench/out/overhead.md

The denoiser returns at once, so that nothing but bookkeeping is left. First with a pipeline that does nothing else
than call it: all that is left is the engine's own (keys, choosing, merging, taking turns). Then with real ones,
through the engine and plainly, one after another: what guidance and schedulers cost, and what they lose by taking
turns. Text encoding and decoding drop out because each figure is the difference between long runs and short ones.
"""

from __future__ import annotations

import argparse
import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from bench import tables, tiny
from pipelines.engine import call, collate, engine, policy, run, thread_state, view
from pipelines.engine.arguments import call_arguments
from pipelines.engine.engine import Engine
from pipelines.engine.sink import Sink
from pipelines.errors import DrawError
from pipelines.models.loader import LoadedModel
from pipelines.plan import Drawing
from tests.fixed_rows import FixedRows

LATENTS = 8
SHORT, LONG = 10, 60  # steps
BARE = "the engine's own: callers of the denoiser"


class Instant(UNet2DConditionModel):  # type: ignore[misc]
    """A denoiser that finds nothing to do."""

    @functools.wraps(UNet2DConditionModel.forward)
    def forward(self, sample: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
        return (sample,)


class Caller(StableDiffusionPipeline):  # type: ignore[misc]
    """A pipeline that does nothing but call its denoiser."""

    def __call__(self, num_inference_steps: int, **_: Any) -> Any:
        latents = torch.zeros(2, 4, LATENTS, LATENTS), torch.ones(2, 4, LATENTS, LATENTS)
        prompt = torch.zeros(2, 32, 64)
        times = torch.arange(num_inference_steps).flip(0).unbind()
        for step, time_ in enumerate(times):  # tensors that are new to the engine at every step
            self.unet(latents[step % 2], time_, encoder_hidden_states=prompt, added_cond_kwargs=None, return_dict=False)
        return SimpleNamespace(images=latents[0])


class Complaining(Sink):
    """A sink that keeps nothing, and says what failed."""

    def failed(self, drawing: Drawing, error: DrawError) -> None:
        print("failed:", error)


def instant_model(kind: type[StableDiffusionPipeline] = StableDiffusionPipeline) -> LoadedModel:
    unet = Instant(
        sample_size=LATENTS, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
    )
    model = tiny.model(LATENTS, unet)
    if kind is not StableDiffusionPipeline:
        made = kind(**tiny.pipeline(unet).components, requires_safety_checker=False)
        model = LoadedModel(model.plan, made, model.family, model.device)
    for shared in model.shared_modules.values():
        if shared.is_denoiser:
            shared.costs = FixedRows(1024)  # all runs share every step
    return model


def drawings(model: LoadedModel, runs: int, steps: int) -> list[Drawing]:
    return [tiny.drawing(model, number, steps=steps, guidance=5.0) for number in range(runs)]


def through_engine(model: LoadedModel, batch: list[Drawing]) -> Engine:
    made = Engine(Complaining())
    ended = threading.Semaphore(0)
    made.submit(model, *batch, done=ended.release)
    for _ in batch:
        ended.acquire()
    made.close()
    return made


def plainly(model: LoadedModel, batch: list[Drawing]) -> None:
    """As the engine's runs, but on one thread: a view whose modules are called where they stand."""
    with torch.no_grad():
        for drawing in batch:
            pipeline = view.bind(model.pipeline(drawing.spec.task), AtOnce(), modules=model.shared_modules)
            pipeline(**call_arguments(pipeline, model.family, drawing.spec, drawing.seeds))


class AtOnce:
    """A rendezvous that makes every call there and then."""

    def share(
        self, shared: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: Callable[[], Any] | None = None
    ) -> Any:
        return shared.function(*args, **kwargs)

    def alone(self, work: Callable[[], Any], module: torch.nn.Module | None = None) -> Any:
        return work()

    def adapters(self, module: torch.nn.Module) -> tuple[()]:
        return ()

    width = height = 0

    def wants_preview(self, done: int, of: int) -> bool:
        return False

    def stepped(self, done: int, of: int) -> None: ...
    def previewed(self, done: int, of: int, picture: torch.Tensor) -> None: ...


def per_step(draw: Callable[[list[Drawing]], object], short: list[Drawing], long: list[Drawing]) -> tuple[float, float]:
    """Milliseconds per step of all runs: on the clock, and of CPU."""
    figures = []
    for batch in (short, long):
        wall, cpu = time.perf_counter(), time.process_time()
        draw(batch)
        figures.append((time.perf_counter() - wall, time.process_time() - cpu))
    (wall_short, cpu_short), (wall_long, cpu_long) = figures
    return (wall_long - wall_short) / (LONG - SHORT) * 1e3, (cpu_long - cpu_short) / (LONG - SHORT) * 1e3


# The profile. Runs take turns in the midst of their calls, so a profiler that keeps one call stack cannot follow; the
# parts of a step are few enough to be timed each by itself.

PARTS: tuple[tuple[object, str, str], ...] = (
    (run, "Call", "looking at a call: all of it"),
    (call.LastCall, "alike", "— is it like the run's last?"),
    (call, "group_key", "— if not: the key that says who may share"),
    (thread_state, "current", "what torch remembers per thread"),
    (policy, "choose", "choosing who goes"),
    (collate.Merger, "merge", "merging arguments"),
    (collate, "split", "splitting the output"),
    (engine.Engine, "_wake", "leaving results"),
)


@contextmanager
def timed_parts(spent: dict[str, list[float]]) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, title in PARTS:
            stack.enter_context(mock.patch.object(owner, name, _timed(getattr(owner, name), spent[title])))
        yield


def _timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    @functools.wraps(function, updated=())
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent.append(time.perf_counter() - started)

    return timed


def profile(model: LoadedModel, runs: int) -> str:
    spent: dict[str, list[float]] = defaultdict(list)
    with timed_parts(spent):
        made = through_engine(model, drawings(model, runs, LONG))
    steps = made.counts["unet_forwards"]
    rows = [
        (title, f"{len(c) / steps:.1f}", f"{tables.median(c) * 1e6:.1f}", f"{_trimmed(c) / steps * 1e3:.3f}")
        for title, c in ((title, spent[title]) for _, _, title in PARTS)
    ]
    return tables.table(("part", "calls a step", "median µs a call", "ms a step"), rows)


def _trimmed(calls: list[float]) -> float:
    """Their sum, without what a busy machine put in between: no call counts for more than ten times the median."""
    limit = 10 * tables.median(calls)
    return sum(min(seconds, limit) for seconds in calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=16, help="how many share each step (default: 16)")
    parser.add_argument("--rounds", type=int, default=7, help="the median of so many is printed (default: 7)")
    arguments = parser.parse_args()
    bare, model = instant_model(Caller), instant_model()
    ways: dict[str, Callable[[list[Drawing]], object]] = {
        BARE: lambda batch: through_engine(bare, batch),
        "real pipelines through the engine": lambda batch: through_engine(model, batch),
        "the same plainly, one after another": lambda batch: plainly(model, batch),
    }
    short, long = (drawings(model, arguments.runs, steps) for steps in (SHORT, LONG))
    figures: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number in range(arguments.rounds + 1):
        print(f"round {number} of {arguments.rounds}", flush=True)
        for name, draw in ways.items():
            figure = per_step(draw, short, long)
            if number:  # the first warms up
                figures[name].append(figure)
    rows = [(name, *(f"{tables.median(values):.3f}" for values in zip(*figures[name], strict=True))) for name in ways]
    tables.publish(
        "overhead",
        f"## Engine cost per step with {arguments.runs} runs",
        f"Milliseconds a step of all {arguments.runs} runs, the denoiser returning at once; median of "
        f"{arguments.rounds}. The bar: the engine's own ≤ 0.5 ms with 16 runs.",
        tables.table(("", "clock", "CPU"), rows),
        "Where the engine's own goes (the timers cost about 0.5 µs a call; switches between runs are not in it):",
        profile(bare, arguments.runs),
    )


if __name__ == "__main__":
    main()
