"""The process that runs the sections of ``darkroom doctor --gpu``.

Reads an Assignment in JSON from standard input and writes an event in JSON a line: a section that begins, its figures
and verdicts as they come. It bounds nothing: who started it ends it where a section takes too long.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from importlib.metadata import version
from typing import Any

import msgspec

from pipelines.models import allocator
from pipelines.plan import ModelPlan

if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", DIFFUSERS_VERBOSITY="error")
    os.environ.update(allocator.settings(version("torch"), os.environ))  # as the worker does, before torch is imported


class Step(msgspec.Struct, frozen=True):
    """One section, of one model or of none."""

    section: str
    model: str = ""  # a key of plans, or a name of random_weights

    @property
    def title(self) -> str:
        return f"{self.model}/{self.section}" if self.model else self.section


class Assignment(msgspec.Struct, frozen=True):
    """What to run, in this order."""

    device: str  # cuda, or cpu for a rehearsal
    steps: tuple[Step, ...]
    plans: tuple[ModelPlan, ...] = ()


def _emit(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def carry_out(assignment: Assignment) -> None:
    """Run the steps; a model is made, or loaded, when its first section begins, and let go after its last."""
    import torch

    from pipelines.doctor import random_weights, sections
    from pipelines.doctor.probe import Probe
    from pipelines.doctor.record import Record, Verdict
    from pipelines.errors import DrawError, is_out_of_memory
    from pipelines.models import loader

    loader.quiet_libraries()
    torch.set_grad_enabled(False)
    device = torch.device(assignment.device)
    probe, record = Probe(device), Record(_emit)
    plans = {plan.key: plan for plan in assignment.plans}
    held, model = "", None
    unusable = set()
    for step in assignment.steps:
        _emit({"section": step.title})
        if step.model != held:
            model, held = None, ""
            gc.collect()
            probe.tidy()
        if step.model in unusable:
            record.say(Verdict.LOOK, "left out: there is no model to run it on")
            continue
        if step.model and model is None:
            try:
                plan = plans.get(step.model)
                model = loader.load(plan, device) if plan is not None else random_weights.make(step.model, device)
                held = step.model
                record.figures(weights_mib=model.weight_bytes() >> 20)
            except (DrawError, RuntimeError, MemoryError) as error:
                if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                    raise
                unusable.add(step.model)
                record.say(Verdict.FAIL, f"the device has no room for {step.model}, or it cannot be loaded: {error}")
                continue
        sections.run(step.section, probe, record, model)
    _emit({"ended": True})


if __name__ == "__main__":
    carry_out(msgspec.json.decode(sys.stdin.buffer.read(), type=Assignment))
    sys.stdout.flush()
    os._exit(0)  # Python takes seconds to unload torch
