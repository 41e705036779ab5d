"""The process that draws for ``darkroom models compare``: the front has no torch.

Reads one JSON object from standard input, ``{"device": SETTING, "device_memory": SETTING, "comparison": COMPARISON}``.
Writes a line of JSON for each part that begins, ``{"part": NAME, "steps": N}`` (null: it draws none), now and then for
the steps that are done, ``{"done": N}``, and for what else is to be told, ``{"note": TEXT}``; and one at the end:
``{"found": FOUND}``, ``{"refused": TEXT}`` where the model cannot be loaded or shares nothing, or ``{"failed": TEXT}``
where a picture cannot be drawn. Knows neither models.yaml nor HTTP; fetches nothing.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from pipelines.facts.comparison import Comparison
from server.worker.child.answers import main, say

if __name__ == "__main__":
    from pipelines.models import allocator

    os.environ.update(allocator.settings(version("torch"), os.environ))  # as the worker does, before torch is imported

if TYPE_CHECKING:
    import torch

    from pipelines.models.device import Choice
    from pipelines.models.loader import LoadedModel

_REPORT_S = 0.1  # between two lines for steps that are done


def answer(asked: dict[str, Any], out: TextIO) -> None:
    """Load, check, draw and compare, and say what was found or what is wrong."""
    try:
        from pipelines import comparison as drawing
        from pipelines.errors import DrawError
        from pipelines.models import device, loader
    except ImportError as error:
        say(out, refused=f"needs torch and diffusers: {error}")
        return
    loader.quiet_libraries()
    comparison = msgspec.convert(asked["comparison"], Comparison)
    try:
        choice = device.choose(asked["device"])
        if choice.problem:
            say(out, note=f"drawing on the CPU, as the device cannot be used: {choice.problem}")
        model, dtype = _load(comparison, choice.device, asked["device_memory"], out)
    except (DrawError, device.DeviceRefused) as refusal:
        say(out, refused=str(refusal))
        return
    if not model.shares:
        say(out, refused=f"it shares no steps, so that there is nothing to compare: {model.reason}")
        return
    try:
        found = drawing.compare(model, comparison, _Told(out), device=_name(choice), dtype=dtype)
    except DrawError as error:
        say(out, failed=f"{type(error).__name__}: {error}")
    else:
        say(out, found=msgspec.to_builtins(found))


def _load(comparison: Comparison, device: torch.device, device_memory: str, out: TextIO) -> tuple[LoadedModel, str]:
    """The model, checked, and the dtype of its weights. Raises DrawError where it cannot be loaded or cannot draw."""
    from pipelines.errors import LoadRefused, is_out_of_memory
    from pipelines.models import loader, selfcheck
    from server.worker.child import inspection

    plan = comparison.plan
    sizes = inspection.sizes(plan, device, inspection.budget_of(device, device_memory))
    if sizes.problem is not None:
        raise LoadRefused(sizes.problem)
    if sizes.room_bytes is not None and sizes.as_it_is > sizes.room_bytes:
        raise LoadRefused(
            f"its weights take {sizes.as_it_is >> 20} MiB, and the device has {sizes.room_bytes >> 20} MiB for them"
            " now: `darkroom doctor` says what would make it fit; a server that runs here may have the rest"
        )

    def load_and_check() -> LoadedModel:
        say(out, part="load", steps=None)
        model = loader.load(plan, device, host_encoders=sizes.encoders_on_host)
        say(out, part="check", steps=None)
        selfcheck.check(model)
        return model

    try:
        # On a thread that ends with it, as in the worker: OpenMP keeps helpers for each that has computed.
        with ThreadPoolExecutor(max_workers=1) as once:
            return once.submit(load_and_check).result(), sizes.dtype
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise LoadRefused("the device has no room for it: a server that runs here may have it") from error


def _name(choice: Choice) -> str:
    import torch

    return f"CPU, {torch.get_num_threads()} threads" if choice.device.type == "cpu" else choice.name


class _Told:
    """Says what it is told of the progress, but not every step."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._done = 0
        self._said = 0.0  # monotonic

    def begun(self, name: str, steps: int) -> None:
        self._flush()
        say(self._out, part=name, steps=steps)

    def stepped(self) -> None:
        self._done += 1
        if time.monotonic() - self._said > _REPORT_S:
            self._flush()

    def _flush(self) -> None:
        if self._done:
            say(self._out, done=self._done)
            self._done, self._said = 0, time.monotonic()


if __name__ == "__main__":
    main(answer)
    os._exit(0)  # Python takes seconds to unload torch
