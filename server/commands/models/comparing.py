"""``darkroom models compare``: what sharing steps and leaving steps out cost, on the owner's model and device.

Knows which requests are compared, how the progress is shown, and exit codes; what is found, comparison_report.py puts
into words. A process of its own (server/worker/child/comparison.py) draws, as it needs torch.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from pipelines.facts import comparison as facts
from pipelines.facts import step_cache
from pipelines.facts.comparison import Comparison, Found
from pipelines.facts.presets import QUALITIES, Quality
from pipelines.spec import Adapter, ImageSpec
from server.commands import child
from server.commands.failure import CommandFailed
from server.commands.models import comparison_report
from server.commands.models.comparison_report import Basis
from server.errors import ConfigError, DarkroomError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from server.catalog.catalog import Model
    from server.settings import Settings
    from server.worker.devices import WorkerDevice

PROMPTS = 8  # unless somebody says otherwise


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The arguments of the action."""
    most, least = facts.MAX_PROMPTS, facts.MIN_PROMPTS
    parser.add_argument("id", metavar="ID")
    parser.add_argument(
        "--prompts",
        metavar="N",
        type=_prompts,
        default=PROMPTS,
        help=f"to draw, {least} to {most} (default: {PROMPTS})",
    )
    parser.add_argument(
        "--tolerance",
        metavar="X",
        type=_tolerance,
        help=(
            "levels of 255 by which pictures alone and in company may differ"
            f" (default: {facts.tolerance('float32'):g}, in half precision {facts.tolerance('bfloat16'):g})"
        ),
    )


def _prompts(text: str) -> int:
    allowed = range(facts.MIN_PROMPTS, facts.MAX_PROMPTS + 1)
    if not (text.isascii() and text.isdecimal() and int(text) in allowed):
        raise argparse.ArgumentTypeError(f"{text}: must be an integer from {allowed[0]} to {allowed[-1]}")
    return int(text)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a number of levels, 0 or more")
    return value


def compare_model(settings: Settings, name: str, *, prompts: int, tolerance: float | None) -> int:
    """Draw, compare and say what was found. 0 where what was drawn in company is within the tolerance, else 1.

    Raises ConfigError for a model that there is not, that cannot be loaded or that shares no steps; CommandFailed where
    a picture cannot be drawn.
    """
    model, device = _find(settings, name)
    specs, basis = _requests(model, prompts)
    loras = tuple(Adapter(key, lora.weight) for key, lora in model.entry.loras.items() if lora.weight)
    asked = Comparison(model.plan, specs, loras, step_cache=step_cache.DEFAULT if basis.obstacle is None else 0.0)
    found = _have_drawn(settings, device, model.id, asked)
    bound = facts.tolerance(found.dtype) if tolerance is None else tolerance
    comparison_report.show(model.id, asked, found, basis, bound)
    return 0 if found.within(bound) else 1


def _find(settings: Settings, name: str) -> tuple[Model, WorkerDevice]:
    """The model, and the first of the devices that it may be on. Raises ConfigError."""
    from server.catalog.load import find_models_file, load_catalog
    from server.worker import devices

    found = devices.find(settings)
    catalog = load_catalog(find_models_file(settings.models), found)
    try:
        model = catalog.resolve(name)
    except DarkroomError as error:
        raise ConfigError(f"{name}: {error.message}") from None
    problem = model.problem()
    if problem is not None:
        raise ConfigError(f"{model.id}: {model.plan.source}: {problem}")
    bound = model.plan.devices
    return model, next(each for each in found if not bound or any(each.answers_to(word) for word in bound))


def _requests(model: Model, prompts: int) -> tuple[tuple[ImageSpec, ...], Basis]:
    """Requests of the first quality in which the step cache can leave out steps; where there is none, of standard.

    Raises ConfigError for a quality that cannot be drawn.
    """
    first, *rest = facts.prompts(prompts)
    of_one = {quality: _spec(model, quality, first) for quality in QUALITIES}
    samplers = {quality: _sampler(model, quality) for quality in QUALITIES}
    obstacles = {
        quality: None if sampler is None else step_cache.obstacle(*sampler, of_one[quality].steps)
        for quality, sampler in samplers.items()
    }
    quality = next((each for each, obstacle in obstacles.items() if obstacle is None), QUALITIES[0])
    longest = max(QUALITIES, key=lambda each: of_one[each].steps)
    sampler = samplers[quality]
    name = of_one[quality].scheduler or ("its own sampler" if sampler is None else sampler[0])
    obstacle = None if obstacles[quality] is None else obstacles[longest]
    specs = (of_one[quality], *(_spec(model, quality, prompt) for prompt in rest))
    return specs, Basis(quality, name, obstacle)


def _spec(model: Model, quality: Quality, prompt: str) -> ImageSpec:
    """What a request for a picture of the native size stands for, without a step cache. Raises ConfigError."""
    from server.api import specs
    from server.api.wire import ImageFields

    fields = ImageFields(prompt=prompt, quality=quality, step_cache=0.0)
    try:
        return specs.make_spec(fields, model, (model.area.native_width, model.area.native_height), specs.Sources())
    except DarkroomError as error:
        raise ConfigError(f"{model.id}: quality {quality} cannot be drawn: {error.message}") from None


def _sampler(model: Model, quality: Quality) -> tuple[str, Mapping[str, Any]] | None:
    """The class and the configuration of its scheduler; None where that cannot be told."""
    from server.api import specs
    from server.api.wire import ImageFields

    fields = ImageFields(prompt="x", quality=quality)
    return specs.drawn_with(fields, model, model.preset(fields.quality, fields.style))


def _have_drawn(settings: Settings, device: WorkerDevice, name: str, asked: Comparison) -> Found:
    """What the process finds. Raises ConfigError where it refuses the model, CommandFailed where it fails."""
    from server.worker import launch

    question = {
        "device": device.setting,
        "device_memory": settings.device_memory or "",
        "comparison": msgspec.to_builtins(asked),
    }
    drawing = child.start("server.worker.child.comparison", launch.environment(device))
    with drawing, _shown(name) as show:
        for said in drawing.answers(question):
            if "refused" in said:
                raise ConfigError(f"{name}: {said['refused']}")
            if "failed" in said:
                raise CommandFailed(f"{name}: a picture could not be drawn: {said['failed']}")
            if "found" in said:
                return msgspec.convert(said["found"], Found)
            show.take(said)
        words = drawing.last_words()
        raise CommandFailed(
            f"{name}: the process that drew ended (exit code {drawing.returncode})"
            + (f", and it said last:\n{words}" if words else "")
        )


class _Shown:
    """The progress on standard error: bars in a terminal, elsewhere a line for each part."""

    def __init__(self, name: str, progress: Any) -> None:
        self._name = name
        self._progress = progress
        self._task: TaskID | None = None

    def take(self, said: dict[str, Any]) -> None:
        """Show what the process said."""
        if "note" in said:
            self._progress.console.print(f"{self._name}: {said['note']}", markup=False, highlight=False)
        elif "part" in said:
            self._end()
            self._task = self._progress.add_task(said["part"], total=said["steps"])
            if not self._progress.console.is_terminal:
                steps = "" if said["steps"] is None else f", {said['steps']} steps"
                print(f"{self._name}: {said['part']}{steps}", file=sys.stderr, flush=True)
        elif self._task is not None:
            self._progress.advance(self._task, said["done"])

    def _end(self) -> None:
        """Loads have no steps: their bar would pulse for ever."""
        if self._task is not None and self._progress.tasks[self._task].total is None:
            self._progress.update(self._task, total=1, completed=1)


@contextmanager
def _shown(name: str) -> Iterator[_Shown]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield _Shown(name, progress)
