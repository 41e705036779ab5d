"""``darkroom check``: is the configuration sound?

Knows the settings, models.yaml and model folders; runs the code that start-up runs, and serves nothing. What needs
torch is done in a process of its own (server/worker/child/check.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pipelines.facts import requirements
from server.commands.byte_progress import bars
from server.commands.models.sealing import problems_of_sealed

if TYPE_CHECKING:
    from pipelines.plan import ModelPlan
    from server.catalog.catalog import Catalog
    from server.settings import Settings

_OFFLINE = {
    **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"), "1"),
    "PYTHONWARNINGS": "ignore",
}


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
    problems = _problems(catalog, compiles=settings.device_kind != "cpu" and machine.has_cuda_device())
    whole = {key: plan for key, plan in catalog.plans.items() if key not in problems}
    problems |= _problems_inside(catalog, whole, deep=deep)
    if deep:
        problems |= problems_of_sealed(
            settings, {key: plan.folder for key, plan in whole.items() if key not in problems}
        )
    for key, problem in problems.items():
        print(f"{catalog.path}: models.{key}: {catalog.plans[key].source}: {problem}", file=sys.stderr)
    adapters = _adapter_problems(catalog)
    for where, problem in adapters.items():
        print(f"{catalog.path}: {where}: {problem}", file=sys.stderr)
    for name, problem in catalog.refused_checkpoints.items():
        print(f"{catalog.path}: checkpoints: {name}: {problem}", file=sys.stderr)
    print(
        f"{catalog.path}: {len(catalog.models)} models, {len(problems)} of {len(catalog.plans)} folders with problems"
    )
    return 1 if problems or adapters or catalog.refused_checkpoints else 0


def _problems(catalog: Catalog, *, compiles: bool) -> dict[str, str]:
    """Folders that cannot be served: the key of the model that owns one, and what is wrong. ``compiles`` is whether
    ``compile`` has an effect on this machine: elsewhere nobody needs a compiler."""
    owners = {key: catalog.models[key] for key in catalog.plans}
    found = {key: model.problem() for key, model in owners.items()}
    if compiles and (lacking := requirements.missing_for_compile()) is not None:
        found |= {key: lacking for key, plan in catalog.plans.items() if plan.compile and found[key] is None}
    return {key: problem for key, problem in found.items() if problem is not None}


def _problems_inside(catalog: Catalog, plans: Mapping[str, ModelPlan], *, deep: bool) -> dict[str, str]:
    """The problems of plans whose files look whole: what their classes, tensors and tokenizers tell."""
    if not deep:
        return _ask_child(plans, deep=False, report=lambda key, read: None)
    with bars() as progress:
        tasks = {key: progress.add_task(key, total=catalog.models[key].weight_bytes) for key in plans}
        return _ask_child(plans, deep=True, report=lambda key, read: progress.advance(tasks[key], read))


def _ask_child(plans: Mapping[str, ModelPlan], *, deep: bool, report: Callable[[str, int], None]) -> dict[str, str]:
    """The problems that the child finds. Where one ends it, that is the problem, and the rest is asked of another."""
    found: dict[str, str] = {}
    rest = {key: msgspec.to_builtins(plan) for key, plan in plans.items()}
    while rest:
        with _start_child() as child:
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                json.dump({"plans": rest, "deep": deep}, child.stdin)
                child.stdin.close()
            for line in child.stdout:
                said = json.loads(line)
                if "missing" in said:
                    print(f"weights are not compared with their configurations: {said['missing']}", file=sys.stderr)
                    return found
                if "read" in said:
                    report(said["key"], said["read"])
                    continue
                del rest[said["key"]]
                if said["problem"] is not None:
                    found[said["key"]] = said["problem"]
        if rest:
            key = next(iter(rest))
            found[key] = f"checking it ended the process (exit code {child.returncode})"
            del rest[key]
    return found


def _start_child() -> subprocess.Popen[str]:
    from server import interpreter

    return subprocess.Popen(  # noqa: S603, a module of ours
        interpreter.python("server.worker.child.check"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**interpreter.environment(os.environ), **_OFFLINE},
    )


def _adapter_problems(catalog: Catalog) -> dict[str, str]:
    """LoRA files that cannot be used: the place in models.yaml, and what is wrong."""
    owners = {key: catalog.models[key] for key in catalog.plans}
    return {
        f"models.{key}.loras.{name}": problem
        for key, model in owners.items()
        for name, problem in model.lora_problems().items()
    }
