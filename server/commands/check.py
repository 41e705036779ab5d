"""``darkroom check``: is the configuration sound?

Knows the settings, models.yaml and model folders; runs the code that start-up runs, and serves nothing. What needs
torch is done in a process of its own (server/worker/child/check.py).
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pipelines.facts import requirements
from server.commands import child
from server.commands.byte_progress import bars
from server.commands.failure import CommandFailed
from server.commands.models.sealing import problems_of_sealed
from server.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from pipelines.plan import ModelPlan
    from server.catalog.catalog import Catalog
    from server.settings import Settings


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("check", help="check settings, models.yaml and model folders without serving")
    parser.set_defaults(run=run)
    parser.add_argument("--models", type=Path, help="models.yaml to check")
    parser.add_argument("--deep", action="store_true", help="read every byte of the weights too")


def run(arguments: Namespace) -> int:
    from server.settings import read_settings

    # A flag that was not typed must not hide its variable in the environment.
    given = {} if arguments.models is None else {"models": arguments.models}
    return check(read_settings(**given), deep=arguments.deep)


def check(settings: Settings, *, deep: bool = False) -> int:
    """Say what is wrong with models.yaml and the folders it names. 0 when everything can be served, else 1."""
    from server.catalog.load import find_models_file, load_catalog
    from server.commands.doctor import machine

    catalog = load_catalog(find_models_file(settings.models))
    of_devices = _device_problem(catalog, settings)
    if of_devices is not None:
        print(of_devices, file=sys.stderr)
    of_certificates = [
        problem for problem in (_certificate_problem(settings), _credentials_problem(settings)) if problem
    ]
    for problem in of_certificates:
        print(problem, file=sys.stderr)
    problems = _problems(catalog, compiles=settings.device_kind != "cpu" and machine.has_cuda_device())
    whole = {key: plan for key, plan in catalog.plans.items() if key not in problems}
    problems |= _problems_inside(catalog, whole, deep=deep)
    if deep:
        problems |= problems_of_sealed(settings, {key: plan for key, plan in whole.items() if key not in problems})
    for key, problem in problems.items():
        print(f"{catalog.path}: models.{key}: {catalog.plans[key].source}: {problem}", file=sys.stderr)
    whole_ones = catalog.plans.keys() - problems
    if whole_ones and settings.device_kind != "cpu" and (settings.device_kind != "auto" or machine.has_cuda_device()):
        _say_room(catalog, settings, whole_ones)
    adapters = _adapter_problems(catalog)
    for where, problem in adapters.items():
        print(f"{catalog.path}: {where}: {problem}", file=sys.stderr)
    upscalers = catalog.upscaler_problems()
    for where, problem in upscalers.items():
        print(f"{catalog.path}: {where}: {problem}", file=sys.stderr)
    for name, problem in catalog.refused_checkpoints.items():
        print(f"{catalog.path}: checkpoints: {name}: {problem}", file=sys.stderr)
    print(
        f"{catalog.path}: {len(catalog.models)} models, {len(problems)} of {len(catalog.plans)} folders with problems"
    )
    return 1 if of_devices or of_certificates or problems or adapters or upscalers or catalog.refused_checkpoints else 0


def _device_problem(catalog: Catalog, settings: Settings) -> str | None:
    """Why a server would not start with the devices that the settings and models.yaml name, in its own words; None if
    it would. What devices a cluster has is known when it is there."""
    from server.catalog.load import load_catalog
    from server.worker.devices import find

    if settings.cluster is not None:
        return None
    try:
        load_catalog(catalog.path, find(settings))
    except ConfigError as error:
        return str(error)
    return None


def _certificate_problem(settings: Settings) -> str | None:
    """Why a server would not start with its certificate; None if it would. What clients or the owner should not like
    is said, and is no problem of the start."""
    from server.edge import certificate

    if settings.tls_cert is None or settings.tls_key is None:
        return None
    try:
        pair = certificate.read_pair(settings.tls_cert, settings.tls_key)
    except ConfigError as error:
        return str(error)
    for warning in (*pair.warnings, *certificate.soon(pair.expires)):
        print(f"{certificate.CERTIFICATE_NAME} = {settings.tls_cert}: {warning}", file=sys.stderr)
    if pair.expires is not None:
        until = time.strftime("%Y-%m-%d", time.gmtime(pair.expires))
        print(f"{settings.tls_cert}: a certificate until {until}, with its key")
    return None


def _credentials_problem(settings: Settings) -> str | None:
    """Why a server would not start with what it is to sign pictures with; None if it would."""
    if settings.c2pa_cert is None:
        return None
    from server.api.credentials import open_credentials

    try:
        open_credentials(settings)
    except ConfigError as error:
        return str(error)
    return None


def _problems(catalog: Catalog, *, compiles: bool) -> dict[str, str]:
    """Folders that cannot be served: the key of the model that owns one, and what is wrong. ``compiles`` is whether
    ``compile`` has an effect on this machine: elsewhere nobody needs a compiler."""
    owners = {key: catalog.models[key] for key in catalog.plans}
    found = {key: model.problem() for key, model in owners.items()}
    if compiles and (lacking := requirements.missing_for_compile()) is not None:
        found |= {key: lacking for key, plan in catalog.plans.items() if plan.compile and found[key] is None}
    return {key: problem for key, problem in found.items() if problem is not None}


def _say_room(catalog: Catalog, settings: Settings, whole: Collection[str]) -> None:
    """Say how much of the device each whole model takes, and whether it has room now. No problem of the configuration:
    a server that is running may have the device's memory, and another machine may serve this file."""
    from server.commands.doctor import findings, inquiry

    try:
        said = inquiry.ask(catalog, settings)
    except CommandFailed as failure:
        print(f"the device was not asked for its memory: {failure}", file=sys.stderr)
        return
    if said.device_problem:
        print(f"the device cannot be used here: {said.device_problem}", file=sys.stderr)
    if said.device == "cpu":
        return
    for key in sorted(whole):
        sizes = said.models.get(catalog.models[key].plan.key)
        if sizes is not None and sizes.problem is None:
            _, text = findings.room(catalog.models[key], said)
            print(f"{catalog.path}: models.{key}: {text} ({said.device_name})")


def _problems_inside(catalog: Catalog, plans: Mapping[str, ModelPlan], *, deep: bool) -> dict[str, str]:
    """The problems of plans whose files look whole: what their classes, tensors and tokenizers tell."""
    if not deep:
        return _ask_child(plans, deep=False, report=lambda key, read: None, done=lambda key: None)
    with bars() as progress:
        tasks: dict[str, TaskID] = {}

        def report(key: str, read: int) -> None:
            if key not in tasks:
                tasks[key] = progress.add_task(key, total=catalog.models[key].weight_bytes)
            progress.advance(tasks[key], read)

        def done(key: str) -> None:
            """One that was refused before all of it was read: its bar would stand there as if it were still read."""
            if key in tasks:
                progress.remove_task(tasks.pop(key))

        return _ask_child(plans, deep=True, report=report, done=done)


def _ask_child(
    plans: Mapping[str, ModelPlan], *, deep: bool, report: Callable[[str, int], None], done: Callable[[str], None]
) -> dict[str, str]:
    """The problems that the child finds. Where one ends it, that is the problem, and the rest is asked of another."""
    found: dict[str, str] = {}
    rest = {key: msgspec.to_builtins(plan) for key, plan in plans.items()}
    while rest:
        with child.start("server.worker.child.check") as asked:
            for said in asked.answers({"plans": rest, "deep": deep}):
                if "missing" in said:
                    print(f"weights are not compared with their configurations: {said['missing']}", file=sys.stderr)
                    return found
                if "read" in said:
                    report(said["key"], said["read"])
                    continue
                del rest[said["key"]]
                if said["problem"] is not None:
                    found[said["key"]] = said["problem"]
                    done(said["key"])
            if rest:
                key = next(iter(rest))
                words = asked.last_words()
                last = f", and it said last:\n{words}" if words else ""
                found[key] = f"checking it ended the process (exit code {asked.returncode}){last}"
                done(key)
                del rest[key]
    return found


def _adapter_problems(catalog: Catalog) -> dict[str, str]:
    """LoRA files that cannot be used, of each ID that has them: the place in models.yaml, and what is wrong. What an ID
    has from the one that it is like is told there."""
    owners = {key: catalog.models[key] for key in catalog.plans}
    found: dict[str, str] = {}
    told: set[tuple[str, str]] = set()  # of which weights, and which file or folder
    for model in (*owners.values(), *(model for model in catalog if model.id not in owners)):
        folder = model.lora_folder
        files = {file.name: file.path for file in model.plan.adapters}
        for name, problem in model.lora_problems().items():
            is_refused = folder is not None and name in folder.refused
            if not is_refused and name not in model.entry.loras:
                continue  # another ID's, with which it shares its weights
            what = f"{folder.path if folder is not None and is_refused else ''}:{files.get(name, name)}"
            if (model.plan.key, what) not in told:
                told.add((model.plan.key, what))
                found[f"models.{model.id}.loras.{name}"] = problem
    return found
