"""What the doctor finds: the sections of its report, and how bad each line is.

Knows the machine, what torch says of it, the catalog and the settings; asks nothing itself, so that a test describes
any machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from pipelines.facts import requirements
from server.catalog.catalog import Catalog, Model
from server.commands.doctor import cards
from server.commands.doctor.machine import GIB, Host
from server.settings import Settings
from server.worker.child.inspection import Answer, Sizes
from server.worker.devices import WorkerDevice

_MIN_DISK_BYTES = GIB
_MIN_MEMORY_BYTES = 4 * GIB  # the front, torch and the embedded model
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_DEVICE_ONLY = ("compile", "offload", "fuse_qkv")


class Level(StrEnum):
    """How bad a line is."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


class Finding(msgspec.Struct, frozen=True):
    """One line of the report."""

    section: str  # machine, the ID of a model, libraries or settings
    level: Level
    text: str


def examine(
    host: Host,
    said: Answer,
    catalog: Catalog,
    settings: Settings,
    environ: Mapping[str, str] = os.environ,
    devices: Sequence[WorkerDevice] | str = (),
) -> list[Finding]:
    """Everything that can be said, section by section. ``devices`` are those that the setting stands for, or what is
    wrong with it."""
    found = [Finding("machine", level, text) for level, text in _machine(host, said)]
    for key in catalog.plans:
        model = catalog.models[key]
        found += [Finding(f"model {key}", level, text) for level, text in _model(model, said)]
    found += [Finding("libraries", level, text) for level, text in _libraries(said, catalog)]
    found += [Finding("settings", level, text) for level, text in _settings(settings, said, catalog, environ)]
    found += [Finding("settings", level, text) for level, text in _devices(devices, said)]
    return found


def _machine(host: Host, said: Answer) -> Iterator[tuple[Level, str]]:
    yield Level.OK, f"{host.system}, {host.processor}, {host.processors}"
    if host.memory_bytes:
        limit = host.memory_limit_bytes
        usable = min(host.memory_bytes, limit or host.memory_bytes)
        of = "" if limit is None or limit >= host.memory_bytes else f"; this container may use {_gib(limit)}"
        little = usable < _MIN_MEMORY_BYTES
        yield (
            Level.NOTE if little else Level.OK,
            f"{_gib(host.memory_bytes)} of memory{of}{': little for a server with torch' if little else ''}",
        )
    low = host.disk_free_bytes < _MIN_DISK_BYTES
    yield (
        Level.NOTE if low else Level.OK,
        f"{host.data_dir}: {_gib(host.disk_free_bytes)} free for pictures{': little' if low else ''}",
    )
    if host.data_dir_problem is not None:
        yield Level.PROBLEM, f"{host.data_dir_problem}; keys and pictures are kept there"
    versions = ", ".join(f"{name} {version}" for name, version in said.versions.items())
    yield Level.OK, f"Python {host.python}, {versions}"
    for card in said.cards:
        major, minor = card.capability
        about = (
            f"{card.name}: {_gib(card.total_bytes)}, {_gib(card.free_bytes)} free, compute capability {major}.{minor}"
        )
        yield Level.OK, about + (f", driver {host.driver}" if host.driver else "")
        if not card.has_kernels:
            yield (
                Level.PROBLEM,
                (
                    f"{card.name}: torch {said.versions.get('torch', '')} has no kernels for it, only for"
                    f" {', '.join(said.architectures)}: install a build that has them"
                ),
            )
        elif not card.has_bfloat16:
            yield Level.NOTE, f"{card.name} has no bfloat16: dtype: auto is float16 there"
    if said.device_problem:
        yield Level.PROBLEM, f"the device cannot be used: {said.device_problem}"
    elif not said.cards and said.device == "cpu":
        driver = f" The driver {host.driver} is there." if host.driver else ""
        yield Level.NOTE, f"no CUDA device: pictures are drawn on the CPU, in minutes for large models.{driver}"
    yield Level.OK, f"models are drawn on {said.device} ({said.device_name}): {_gib(said.room_bytes)} for their weights"


def _model(model: Model, said: Answer) -> Iterator[tuple[Level, str]]:
    plan, sizes = model.plan, said.models.get(model.plan.key, Sizes(problem="its size is not known"))
    problem = model.problem() or sizes.problem
    if problem is not None:
        yield Level.PROBLEM, f"{plan.source}: {problem}"
        return
    yield Level.OK, f"{plan.source} is whole"
    if said.device.startswith("cuda") and plan.compile and (lacking := requirements.missing_for_compile()) is not None:
        yield Level.PROBLEM, lacking
    level, text = room(model, said)
    yield level, text
    if level is Level.OK:
        yield from _speed(model, sizes, said)
    for name, reason in model.lora_problems().items():
        yield Level.PROBLEM, f"loras.{name}: {reason}"


def room(model: Model, said: Answer) -> tuple[Level, str]:
    """How much of the device a model's weights take, whether they fit, and what would make them fit."""
    plan, sizes = model.plan, said.models[model.plan.key]
    most = said.room_bytes if sizes.room_bytes is None else sizes.room_bytes
    words = (
        f"quantise: {plan.quantise}" if plan.quantise else "",
        "offload" * plan.offload,
        "text encoders in host memory" * sizes.encoders_on_host,
    )
    how = [word for word in words if word]
    takes = f"its weights take {_gib(sizes.as_it_is)} of the device as {' with '.join([sizes.dtype, *how])}"
    fits = [f"{word} ({_gib(size)})" for word, size in sizes.otherwise.items() if size <= most]
    others = ", ".join(f"{word} {_gib(size)}" for word, size in sizes.otherwise.items())
    if sizes.as_it_is <= most:
        return Level.OK, f"{takes}: it fits" + (f"; otherwise: {others}" if others else "")
    if fits:
        return Level.PROBLEM, f"{takes}, of {_gib(most)}: it does not fit. It would with {' or '.join(fits)}"
    return Level.PROBLEM, f"{takes}, of {_gib(most)}: it does not fit" + (
        f", nor otherwise: {others}" if others else "; a machine with more memory is needed"
    )


def _speed(model: Model, sizes: Sizes, said: Answer) -> Iterator[tuple[Level, str]]:
    card = cards.find(said.device_name) if said.device.startswith("cuda") else None
    if card is None:
        return
    pixels = model.area.native_width * model.area.native_height
    span = cards.seconds_a_step(card, model.family, sizes.denoiser_elements, pixels)
    if span is not None:
        yield (
            Level.OK,
            (
                f"an estimate, not measured: {span[0]:.2g} to {span[1]:.2g} s a step of one picture of"
                f" {model.area.native_width}x{model.area.native_height} ({card.source})"
            ),
        )


def _libraries(said: Answer, catalog: Catalog) -> Iterator[tuple[Level, str]]:
    """What is optional and missing. What a model lacks is said with the model; here is what another would."""
    plans = catalog.plans.values()
    missing = [name for name in ("bitsandbytes", "torchao") if name not in said.versions]
    if missing:
        yield Level.NOTE, f"{', '.join(missing)} missing, for `quantise`: pip install 'darkroom[quantise]'"
    if "torchvision" not in said.versions:
        yield Level.NOTE, "torchvision missing, for FLUX.2-dev and video processors: pip install 'darkroom[vision]'"
    lacking = requirements.missing_for_compile()
    if lacking is not None and not any(plan.compile for plan in plans):
        yield Level.NOTE, lacking.replace("compile: true needs", "missing, for `compile: true`:", 1)
    if not missing and "torchvision" in said.versions and lacking is None:
        yield Level.OK, "every optional library and a C compiler are there"


def _settings(
    settings: Settings, said: Answer, catalog: Catalog, environ: Mapping[str, str]
) -> Iterator[tuple[Level, str]]:
    before = said.room_bytes
    on_cuda = said.device.startswith("cuda")
    for key, plan in catalog.plans.items():
        idle = [word for word in _DEVICE_ONLY if getattr(plan, word)]
        if idle and not on_cuda:
            yield Level.NOTE, f"models.{key}: {', '.join(idle)} has no effect on {said.device}"
        if plan.dtype == "bfloat16" and any(not card.has_bfloat16 for card in said.cards):
            yield Level.NOTE, f"models.{key}: dtype: bfloat16 is emulated on this card, slowly; float16 is not"
        if plan.dtype == "float16" and said.device == "cpu":
            yield Level.NOTE, f"models.{key}: dtype: float16 is slow on the CPU; auto is float32 there"
    kept = [key for key, plan in catalog.plans.items() if plan.keep]
    size = sum(said.models[key].as_it_is for key in kept if key in said.models)
    if size > before:
        yield Level.PROBLEM, f"models with keep ({', '.join(kept)}) take {_gib(size)} together, of {_gib(before)}"
    preloaded = {model.plan.key for model in catalog if model.entry.preload}
    size = sum(said.models[key].as_it_is for key in preloaded if key in said.models)
    if size > before and len(preloaded) > 1:
        yield (
            Level.NOTE,
            (
                f"models with preload ({', '.join(sorted(preloaded))}) take {_gib(size)} together, of {_gib(before)}:"
                " the first make room for the last"
            ),
        )
    if settings.queue_size < settings.running_jobs:
        yield (
            Level.NOTE,
            (f"queue_size {settings.queue_size} is less than running_jobs {settings.running_jobs}: never reached"),
        )
    for name in _ALLOCATOR:
        if name in environ and on_cuda and "expandable_segments" not in environ[name]:
            yield Level.NOTE, f"{name} is set, and does not name expandable_segments: memory may be left in pieces"
    yield Level.OK, f"{catalog.path}: {len(catalog.models)} models, {len(catalog.plans)} folders of weights"


def _devices(found: Sequence[WorkerDevice] | str, said: Answer) -> Iterator[tuple[Level, str]]:
    """One worker a device: which devices the setting stands for, where it stands for several."""
    if isinstance(found, str):
        yield Level.PROBLEM, found
        return
    if len(found) > 1:
        shown = ", ".join(device.name for device in found)
        yield Level.OK, f"{len(found)} workers, one for each of {shown}: every one loads models of its own"
    threads = next((device.threads for device in found if device.threads is not None), None)
    if threads is not None and (said.device == "cpu" or any(device.kind == "cpu" for device in found)):
        yield Level.OK, f"threads of {'each' if len(found) > 1 else 'the'} worker on the CPU: {threads}"
    totals = {card.total_bytes for card in said.cards}
    if len(found) > 1 and len(totals) > 1:
        yield (
            Level.NOTE,
            (
                f"the cards differ in memory, and what fits is said of {said.device} alone: `devices` of models.yaml"
                " binds a model to those that have room for it"
            ),
        )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB // 10 else f"{size / (1 << 20):.0f} MiB"
