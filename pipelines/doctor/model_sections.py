"""The sections that draw: the check at load, rows, the engine, full memory, a load beside, and leaving the device.

Knows a loaded model and the engine; knows neither who chose the model nor who reads the figures. Each asks for what it
needs and leaves the model as it was.
"""

from __future__ import annotations

import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipelines.doctor.drawing import denoiser_call, draw, drawing
from pipelines.doctor.probe import MIB, Probe
from pipelines.doctor.record import Record, Verdict
from pipelines.engine import collate
from pipelines.engine.call import Call
from pipelines.errors import is_out_of_memory
from pipelines.models import selfcheck
from pipelines.models.loader import LoadedModel

_COPIES = (1, 2, 3, 4, 6, 8, 12, 16)  # of one call's rows
_ROWS_BUDGET_S = 45.0
_RUNS = 16
_STEPS = 8
_ROOM_BYTES = 3 << 30  # beside the weights, where memory is to be short
_BESIDE_TENSORS, _BESIDE_ELEMENTS = 400, 4 * MIB  # 3.1 GiB of bfloat16 in as many tensors as a model has
_MAX_DIFFERENCE = 0.02  # of a row, between any two sizes of a batch, in half precision
_MAX_CHECK_S = 30.0
_MAX_WAITS = 4.0  # of the host for the device, a forward of the denoiser: set-up and decoding included


def check(probe: Probe, record: Record, model: LoadedModel) -> None:
    """The check at load: how long, how much memory, does it say that runs share steps?"""
    probe.tidy()
    seconds = probe.once(lambda: selfcheck.check(model))
    record.figures(
        seconds=seconds,
        shares=model.shares,
        reason=model.reason,
        costs={each.name: str(each.cost) for each in model.shared_modules.values()},
        peak_mib=probe.peak_allocated() / MIB,
    )
    record.judge(model.shares, f"runs share steps{': ' if model.reason else ''}{model.reason}")
    says = f"the check at load takes {seconds:.0f} s (less than {_MAX_CHECK_S:.0f})"
    record.judge(seconds < _MAX_CHECK_S, says, otherwise=Verdict.LOOK)


def rows(probe: Probe, record: Record, model: LoadedModel) -> None:
    """What a step costs, takes and rounds by its rows: the engine's own call, merged from copies of one run's."""
    call = denoiser_call(probe, model)
    deadline = time.monotonic() + _ROWS_BUDGET_S
    table: list[dict[str, Any]] = []
    alone: torch.Tensor | None = None
    for copies in _COPIES:
        if time.monotonic() > deadline:
            break
        probe.tidy()
        try:
            line, sample = _measure(probe, call, copies)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            record.figures(no_room_for_rows=call.rows * copies)
            break
        alone = sample if alone is None else alone
        line["difference"] = float((sample - alone).abs().mean() / alone.abs().mean().clamp(min=1e-9))
        table.append(line)
        record.figures(rows=table)
    worst = max(line["difference"] for line in table)
    says = f"a row's output differs by {worst:.2g} of itself with the batch's size (less than {_MAX_DIFFERENCE})"
    record.judge(worst < _MAX_DIFFERENCE, says)
    if len(table) > 1:
        slow = max(line["first_s"] / line["step_s"] for line in table[1:])
        says = f"the first step of a new number of rows takes the time of {slow:.1f} (less than 5)"
        record.judge(slow < 5, says, otherwise=Verdict.LOOK)


def _measure(probe: Probe, call: Call, copies: int) -> tuple[dict[str, Any], torch.Tensor]:
    shared, counts = call.shared, [call.rows] * copies
    before = probe.allocated()
    arguments = collate.merge([call.arguments] * copies, counts, shared.parts)
    outputs: list[Any] = []

    def step() -> None:
        outputs[:] = []
        with torch.no_grad():
            outputs.append(shared.function(**arguments))

    first = probe.once(step)
    sample = _first_tensor(collate.split(outputs[0], counts, shared.output_parts)[0]).float()
    line = {
        "rows": sum(counts),
        "first_s": first,
        "step_s": probe.seconds(step),
        "peak_mib": (probe.peak_allocated() - before) / MIB,
        "reserved_mib": probe.peak_reserved() / MIB,
    }
    return line, sample


def _first_tensor(value: Any) -> torch.Tensor:
    while not isinstance(value, torch.Tensor):
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    return value


def engine(probe: Probe, record: Record, model: LoadedModel) -> None:
    """One run and sixteen: pictures a second, waits of the host, the share of the time in which kernels run."""
    draw(probe, model, [drawing(model, 1, 2)])
    one = draw(probe, model, [drawing(model, 1, _STEPS)])
    many = draw(probe, model, [drawing(model, number, _STEPS) for number in range(_RUNS)])
    record.figures(
        one_s=one.seconds,
        sixteen_s=many.seconds,
        pictures_a_second=_RUNS / many.seconds,
        gain=_RUNS * one.seconds / many.seconds,
        counts=many.counts,
    )
    failed = [repr(error) for error in many.errors.values()]
    record.judge(not failed, ": ".join([f"{len(failed)} of {_RUNS} runs failed", *failed[:1]]))
    says = f"{_RUNS} at once take {many.seconds / one.seconds:.1f} times one (no more than {_RUNS})"
    record.judge(many.seconds <= _RUNS * one.seconds * 1.05, says, otherwise=Verdict.LOOK)
    if not probe.is_cuda:
        return
    with _counted_waits() as waits:
        made = draw(probe, model, [drawing(model, number, _STEPS) for number in range(_RUNS)])
    each = waits.total() / made.forwards
    record.figures(waits=waits.total(), waits_a_forward=each, waits_by_line=waits.most_common(12))
    says = f"the host waits {each:.1f} times a forward for the device (less than {_MAX_WAITS:.0f})"
    record.judge(each < _MAX_WAITS, says, otherwise=Verdict.LOOK)
    _busy_share(probe, record, model)


@contextmanager
def _counted_waits() -> Iterator[Counter[str]]:
    """By line of the libraries and of ours, as torch itself warns of them."""
    found: Counter[str] = Counter()

    def count(message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
        for frame in reversed(traceback.extract_stack()):
            place = frame.filename.rpartition("site-packages/")[2]
            if ("diffusers/" in place or "pipelines/" in place) and "pipelines/doctor/" not in place:
                found[f"{place}:{frame.lineno}"] += 1
                return

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = count  # type: ignore[assignment]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _busy_share(probe: Probe, record: Record, model: LoadedModel) -> None:
    from torch.profiler import ProfilerActivity, profile, supported_activities

    if ProfilerActivity.CUDA not in supported_activities():  # type: ignore[no-untyped-call]
        record.say(Verdict.LOOK, "in what share of the time kernels run cannot be told: this torch counts no kernels")
        return
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        made = draw(probe, model, [drawing(model, number, _STEPS // 2) for number in range(_RUNS)])
    busy = sum(event.self_device_time_total for event in found.key_averages()) / 1e6 / made.seconds
    record.figures(device_busy_share=busy)
    record.judge(busy > 0.8, f"kernels run {busy:.0%} of the time (more than 80 %)", otherwise=Verdict.LOOK)


def out_of_memory(probe: Probe, record: Record, model: LoadedModel) -> None:
    """Bound what this process may have so that a shared step may not fit, and see the engine get through."""
    if not probe.is_cuda:
        record.say(Verdict.LOOK, "memory is not bounded: the device is no CUDA device")
        return
    probe.tidy()
    used = probe.allocated()
    learned = {shared: dict(shared.learned_rows) for shared in model.shared_modules.values()}
    with probe.at_most(used + _ROOM_BYTES):
        made = draw(probe, model, [drawing(model, number, 3) for number in range(_RUNS // 2)])
    for shared, before in learned.items():
        shared.learned_rows.clear()
        shared.learned_rows.update(before)
    full = made.counts.get("out_of_memory", 0)
    record.figures(counts=made.counts, errors=[repr(error) for error in made.errors.values()][:3])
    says = f"with {_ROOM_BYTES >> 30} GiB to work in: {full} times full, {len(made.errors)} of {_RUNS // 2} runs failed"
    record.judge(not made.errors, says)
    del made
    probe.tidy()
    left = probe.allocated() - used
    record.judge(left < 64 * MIB, f"afterwards {left / MIB:.0f} MiB more are in use than before (less than 64)")


def beside(probe: Probe, record: Record, model: LoadedModel) -> None:
    """Weights that are copied while the engine draws, and while it does not."""
    elements = _BESIDE_ELEMENTS if probe.is_cuda else 1024
    host = [torch.zeros(elements, dtype=torch.bfloat16) for _ in range(_BESIDE_TENSORS)]

    def copy() -> None:
        stream = torch.cuda.Stream(probe.device) if probe.is_cuda else None  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            kept = [tensor.to(probe.device, copy=True) for tensor in host]
        if stream is not None:
            stream.synchronize()
        kept.clear()

    idle = probe.once(copy)
    found: list[float] = []

    def timed() -> None:
        started.wait()
        begun = time.perf_counter()
        copy()
        found.append(time.perf_counter() - begun)

    started = threading.Event()
    thread = threading.Thread(target=timed, daemon=True)
    thread.start()
    made = draw(
        probe, model, [drawing(model, number, _STEPS) for number in range(_RUNS // 2)], lambda call: started.set()
    )
    started.set()
    thread.join()
    record.figures(idle_s=idle, beside_s=found[0], drawing_s=made.seconds)
    record.judge(not made.errors, f"{len(made.errors)} of {_RUNS // 2} runs failed meanwhile")
    times = found[0] / max(idle, 1e-6)
    says = f"copying weights takes {times:.1f} times as long while the engine draws (less than 5)"
    record.judge(times < 5, says, otherwise=Verdict.LOOK)


def residency(probe: Probe, record: Record, model: LoadedModel) -> None:
    """To host memory and back: how long, is it pinned, is the picture the same?"""
    before = draw(probe, model, [drawing(model, 1, 2)])
    place = model.device
    away = probe.once(lambda: model.move(torch.device("cpu")))
    left = probe.allocated()
    parameters = [p for shared in model.shared_modules.values() for p in shared.module.parameters() if p.numel() > 1000]
    pinned = probe.is_cuda and all(parameter.is_pinned() for parameter in parameters)
    said = model.host_bytes()
    taken = torch.cuda.host_memory_stats()["allocated_bytes.current"] if probe.is_cuda else 0
    back = probe.once(lambda: model.move(place))
    after = draw(probe, model, [drawing(model, 1, 2)])
    record.figures(
        away_s=away,
        back_s=back,
        pinned=pinned,
        left_on_device_mib=left / MIB,
        host_counted_mib=said / MIB,
        host_taken_mib=taken / MIB,
    )
    same = before.pictures.keys() == after.pictures.keys() and all(
        torch.equal(before.pictures[job], after.pictures[job]) for job in before.pictures
    )
    record.judge(bool(before.pictures) and same, "the picture is the same, bit for bit, after the way there and back")
    if probe.is_cuda:
        record.judge(pinned or model.plan.quantise is not None, "the copy in host memory is pinned")
        says = f"leaving takes {away:.1f} s (less than 10), coming back {back:.1f} s"
        record.judge(away < 10, says, otherwise=Verdict.LOOK)
