"""The ten sections, in order of worth: their names, what they need and how long each may take.

Knows which there are; what each does is in device_sections and model_sections.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines.doctor import device_sections, graph_section, model_sections
from pipelines.doctor.probe import Probe
from pipelines.doctor.record import Record, Verdict
from pipelines.models import selfcheck
from pipelines.models.loader import LoadedModel

ALONE: dict[str, Callable[[Probe, Record], None]] = {
    "environment": device_sections.environment,
    "device": device_sections.bare_device,
    "lost": device_sections.lost,
}
WITH_MODEL: dict[str, Callable[[Probe, Record, LoadedModel], None]] = {
    "check": model_sections.check,
    "rows": model_sections.rows,
    "graphs": graph_section.graphs,
    "engine": model_sections.engine,
    "memory": model_sections.out_of_memory,
    "beside": model_sections.beside,
    "residency": model_sections.residency,
}


def run(name: str, probe: Probe, record: Record, model: LoadedModel | None = None) -> None:
    """Run one section. Whatever fails in it is a verdict, and the others go on."""
    started = time.monotonic()
    try:
        if model is None:
            ALONE[name](probe, record)
        else:
            if name != "check" and not any(shared.parts for shared in model.shared_modules.values()):
                selfcheck.check(model)  # in a process that did not run that section: it tells rows from the rest
            WITH_MODEL[name](probe, record, model)
    except Exception as error:
        record.say(Verdict.FAIL, f"{type(error).__name__}: {str(error)[:300]}")
    record.figures(section_s=time.monotonic() - started)
