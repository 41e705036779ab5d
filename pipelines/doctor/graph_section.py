"""A step launched kernel by kernel against the same step replayed as a CUDA graph, by its rows.

Knows the engine's graphs and one call of a denoiser; knows neither runs nor who reads the figures.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from pipelines.doctor.drawing import denoiser_call
from pipelines.doctor.probe import MIB, Probe
from pipelines.doctor.record import Record, Verdict
from pipelines.engine import collate
from pipelines.engine.call import Call
from pipelines.engine.graph_pool import GraphPool
from pipelines.engine.graphs import MAX_SHARE, SAMPLES, StepGraphs
from pipelines.errors import is_out_of_memory
from pipelines.models.loader import LoadedModel

_ROWS = (1, 2, 4, 8)
_BUDGET_S = 45.0


def graphs(probe: Probe, record: Record, model: LoadedModel) -> None:
    """What a step takes each way. The first replay is compared with the step, bit for bit, as in service."""
    call = denoiser_call(probe, model)
    reason = "the device is no CUDA device" if not probe.is_cuda else ""
    if call.shared.graphs is not None:
        reason = call.shared.graphs.tally.reason
    pool = GraphPool(probe.device)
    replays = None if reason else StepGraphs(call.shared.module, pool, max_share=math.inf)
    deadline = time.monotonic() + _BUDGET_S
    table: list[dict[str, Any]] = []
    for rows in _ROWS:
        if time.monotonic() > deadline:
            break
        probe.tidy()
        try:
            table.append(_measure(probe, call, rows, replays))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            record.figures(no_room_for_rows=rows)
            break
        record.figures(graphs=table, pool_mib=pool.bytes / MIB)
    if replays is None:
        record.say(Verdict.LOOK, f"no graphs are captured: {reason}")
        return
    refused = dict(replays.tally.refused)
    replays.drop("measured")
    differs = [why for why in refused if "differs" in why or "captured" in why]
    record.judge(not differs, f"a replay equals its step, bit for bit{': ' if differs else ''}{', '.join(differs)}")
    replayed = [line for line in table if "replay_s" in line]
    if not replayed:
        record.say(Verdict.LOOK, f"no step was captured: {', '.join(refused)}")
        return
    shares = {line["rows"]: line["replay_s"] / line["eager_s"] for line in replayed}
    said = ", ".join(f"{share:.2f} of a step's time at {rows} rows" for rows, share in shares.items())
    worth = any(share < MAX_SHARE for share in shares.values())
    record.judge(worth, f"a replay takes {said} (less than {MAX_SHARE} at few)", otherwise=Verdict.LOOK)


def _measure(probe: Probe, call: Call, rows: int, replays: StepGraphs | None) -> dict[str, Any]:
    """Seconds of the engine's own call, made of so many copies of one row."""
    shared = call.shared
    row = collate.take_rows(call.arguments, 0, 1, call.rows, shared.parts)
    arguments = collate.merge([row] * rows, [1] * rows, shared.parts)

    def eager() -> object:
        with torch.no_grad():
            return shared.function(**arguments)

    line: dict[str, Any] = {"rows": rows, "eager_s": probe.seconds(eager)}
    if replays is None:
        return line
    form = replays.form(((), arguments), rows, call.area, shared.parts, fills=False)
    if form is None:
        return line
    for _ in range(SAMPLES):
        form.took(line["eager_s"])
    form.patience = 0

    def replay() -> object:
        with torch.no_grad():
            return replays.draw(form, ((), arguments), rows, shared.function, (shared.parts, shared.output_parts))

    line["capture_s"] = probe.once(replay)
    if form.graph is not None:
        line["replay_s"] = probe.seconds(replay)
    return line
