"""Mixed requests for each row of the family matrix, what they gave, and the table in docs/families.md.

``python -m tests.families.matrix > docs/families.md`` writes the table.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import msgspec
import torch

from pipelines.models.loader import LoadedModel, quiet_libraries
from pipelines.plan import Drawing
from pipelines.spec import Control
from tests.families import tiny
from tests.families.drive import check, draw, drawing, half_mask, picture

Requests = Callable[[LoadedModel], list[Drawing]]

SHORT = "a red apple"
LONG = "two dogs on a wide beach, in the evening, seen from far above"
OTHER = "an old map of the sea"


@dataclass(frozen=True)
class Row:
    """``bound`` is the most forwards the requests may take together, as a share of what they take alone;
    ``tolerance`` the largest difference between a pixel (0..1) alone and together; ``waits`` how often the host waits
    for a CUDA device in a step of the first request (tests/device/matrix.py)."""

    name: str
    what: str
    requests: Requests
    bound: float = 0.5
    tolerance: float = 5e-6
    waits: float = 0.0


@dataclass(frozen=True)
class Result:
    row: Row
    shared: bool
    reason: str
    drawings: int
    pictures: int
    forwards_alone: int
    forwards_together: int
    difference: float  # the largest between a picture's pixels alone and together, 0..1
    prompt_matters: float  # the same between the first request and one that only has another prompt
    fallbacks: int
    kept: int  # layers that see the prompt alone, and are not called again
    kept_difference: float  # the largest between a picture that is drawn alone with them kept, and without


def run(row: Row) -> Result:
    """Check the model as a worker does when it loads it, then draw the row's requests alone and together."""
    model = tiny.build(row.name)
    check(model)
    drawings = row.requests(model)
    alone = [draw(model, [one]) for one in drawings]
    together = draw(model, drawings)
    kept = sum(shared.prompt_work.layers for shared in model.shared_modules.values() if shared.prompt_work is not None)
    drawn = [(one.pictures[j.job_id], together.pictures[j.job_id]) for j, one in zip(drawings, alone, strict=True)]
    return Result(
        row,
        model.shares,
        model.reason,
        len(drawings),
        sum(len(j.seeds) for j in drawings),
        sum(one.forwards for one in alone),
        together.forwards,
        max(float((a - b).abs().max()) for a, b in drawn),
        _prompt_matters(model, drawings[0], alone[0].pictures[drawings[0].job_id]),
        together.fallbacks,
        kept,
        _kept_difference(model, drawings[0], alone[0].pictures[drawings[0].job_id]),
    )


def _kept_difference(model: LoadedModel, first: Drawing, before: torch.Tensor) -> float:
    with contextlib.ExitStack() as stack:
        for shared in model.shared_modules.values():
            stack.enter_context(mock.patch.object(shared, "prompt_work", None))
        return float((draw(model, [first]).pictures[first.job_id] - before).abs().max())


def _prompt_matters(model: LoadedModel, first: Drawing, before: torch.Tensor) -> float:
    other = msgspec.structs.replace(first, spec=msgspec.structs.replace(first.spec, prompt=OTHER + " and land"))
    return float((draw(model, [other]).pictures[first.job_id] - before).abs().max())


# These random UNets make pixels far beyond 0..1, which are cut; and with them the rounding.
_ROUGH = 1e-5
_FOUR = ("ddim", "euler", "dpmpp_2m", "unipc")
_FLOW = (None, "flow_unipc", "flow_dpmpp_2m")

# The requests


def text_requests(guidances: Sequence[float] = (4.0, 2.5, 6.0), schedulers: Sequence[str | None] = (None,)) -> Requests:
    """Different prompts, lengths, seeds, steps, guidance and schedulers, a negative prompt, and two pictures of one."""
    low, middle, high = guidances

    def requests(model: LoadedModel) -> list[Drawing]:
        names = [schedulers[i % len(schedulers)] for i in range(4)]
        return [
            drawing(model, 10, SHORT, steps=4, guidance=low, scheduler=names[0]),
            drawing(model, 20, LONG, steps=6, guidance=middle, scheduler=names[1]),
            drawing(model, 30, OTHER, steps=5, guidance=high, negative_prompt="blurry", scheduler=names[2]),
            drawing(model, 40, SHORT + " and a pear", steps=3, guidance=low, n=2, scheduler=names[3]),
        ]

    return requests


def with_source(
    text: Requests, *, inpaint: bool = True, schedulers: tuple[str | None, str | None] = (None, None)
) -> Requests:
    """The text requests, one drawn anew from a picture, and one repainted in half a picture."""
    anew, repainted = schedulers

    def requests(model: LoadedModel) -> list[Drawing]:
        side = model.plan.native_width
        source = picture(side, side)
        drawings = [
            *text(model)[:3],
            drawing(model, 50, OTHER, steps=6, strength=0.7, sources=(source,), scheduler=anew),
        ]
        if inpaint:
            masked: dict[str, Any] = {"sources": (source,), "mask": half_mask(side, side)}
            drawings.append(drawing(model, 60, SHORT, steps=4, strength=0.9, scheduler=repainted, **masked))
        return [*drawings, text(model)[3]]

    return requests


def with_controls(requests: Requests) -> Requests:
    """The same requests: one without a control, others with one or the other, for all steps or some, one with both."""

    def controlled(model: LoadedModel) -> list[Drawing]:
        side = model.plan.native_width
        a, b = Control("a", picture(side, side, 8)), Control("b", picture(side, side, 9), 0.7, 0.0, 0.5)
        chosen: list[tuple[Control, ...]] = [(a,), (), (b,), (a, b), (b,), (a,)]
        return [
            msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, controls=controls))
            for one, controls in zip(requests(model), chosen, strict=True)
        ]

    return controlled


def inpaint_requests(model: LoadedModel) -> list[Drawing]:
    side = model.plan.native_width
    masked: dict[str, Any] = {"mask": half_mask(side, side)}
    return [
        drawing(model, 10, SHORT, steps=4, strength=1.0, sources=(picture(side, side),), **masked),
        drawing(model, 20, LONG, steps=6, strength=0.8, guidance=3.0, sources=(picture(side, side, 1),), **masked),
        drawing(
            model, 30, OTHER, steps=5, strength=1.0, sources=(picture(side, side, 2),), negative_prompt="dim", **masked
        ),
        drawing(
            model, 40, SHORT, steps=4, strength=1.0, n=2, scheduler="euler", sources=(picture(side, side),), **masked
        ),
    ]


def edit_requests(*, text: bool, references: int = 1) -> Requests:
    """Edits of pictures of one size, one of another size, and with ``text`` two drawn from nothing; 3 samplers."""

    def requests(model: LoadedModel) -> list[Drawing]:
        side = model.plan.native_width
        guidance = model.family.guidance
        drawings = [
            drawing(model, 10, SHORT, steps=4, sources=(picture(side, side),)),
            drawing(
                model, 20, LONG, steps=6, guidance=guidance + 1, sources=(picture(side, side, 1),), scheduler=_FLOW[1]
            ),
            drawing(model, 30, OTHER, steps=5, n=2, sources=(picture(side, side, 2),), scheduler=_FLOW[2]),
            drawing(model, 40, SHORT, steps=3, sources=(picture(side * 2, side, 3),)),
        ]
        if references > 1:
            two = (picture(side, side, 4), picture(side, side, 5))
            drawings += [
                drawing(model, 50, OTHER, steps=3, sources=two),
                drawing(model, 60, LONG, steps=4, sources=two),
            ]
        if text:
            drawings += [drawing(model, 70, OTHER, steps=4), drawing(model, 80, LONG, steps=5)]
        return drawings

    return requests


def _flow_with_source(guidances: Sequence[float] = (4.0, 2.5, 6.0)) -> Requests:
    return with_source(text_requests(guidances, _FLOW), schedulers=("flow_unipc", "flow_dpmpp_2m"))


MATRIX: tuple[Row, ...] = (
    Row(
        "SD 1.x",
        "t2i, i2i, inpaint; 4 schedulers",
        with_source(text_requests(schedulers=_FOUR)),
        tolerance=_ROUGH,
    ),
    Row(
        "SD 2.x",
        "t2i, i2i, inpaint; v-prediction, 2 schedulers",
        with_source(text_requests(schedulers=(None, "euler_a"))),
        tolerance=_ROUGH,
    ),
    Row("SD inpainting", "inpaint, 9 channels", inpaint_requests, tolerance=_ROUGH),
    Row("SDXL", "t2i, i2i, inpaint; 2 schedulers", with_source(text_requests(schedulers=(None, "dpmpp_2m")))),
    Row("LCM", "t2i, i2i", with_source(text_requests((8.5, 4.0, 1.5)), inpaint=False), waits=0.8),
    Row(
        "SD turbo",
        "t2i, i2i, inpaint; no guidance",
        with_source(text_requests((0.0, 0.0, 0.0))),
        tolerance=_ROUGH,
        waits=1.0,
    ),
    Row("SD ControlNet", "t2i, another control each", text_requests(schedulers=(None, "euler"))),
    Row(
        "SD 1.x, ControlNets",
        "t2i, i2i, inpaint; none, one or two of 2 ControlNets; 4 schedulers",
        with_controls(with_source(text_requests(schedulers=_FOUR))),
        tolerance=_ROUGH,
    ),
    Row(
        "SDXL, ControlNets",
        "t2i, i2i, inpaint; none, one or two of 2 ControlNets; 2 schedulers",
        with_controls(with_source(text_requests(schedulers=(None, "dpmpp_2m")))),
        tolerance=_ROUGH,
    ),
    Row("SD3", "t2i, i2i, inpaint; 3 schedulers", _flow_with_source()),
    Row("FLUX.1", "t2i, i2i, inpaint; 3 schedulers", _flow_with_source((3.5, 1.0, 7.0))),
    Row("FLUX.1 Kontext", "t2i, edits of 2 sizes; 3 schedulers", edit_requests(text=True), 0.7),
    Row(
        "FLUX.2 Klein",
        "t2i, edits with 1 and 2 references; 3 schedulers",
        edit_requests(text=True, references=2),
        0.7,
    ),
    Row("Qwen-Image", "t2i, i2i, inpaint; ragged prompts, 3 schedulers", _flow_with_source()),
    Row("Qwen-Image-Edit", "edits of 2 sizes; ragged prompts, 3 schedulers", edit_requests(text=False), 0.7),
    Row(
        "Qwen-Image-Edit-Plus",
        "edits with 1 and 2 references; 3 schedulers",
        edit_requests(text=False, references=2),
        0.7,
    ),
    Row("Z-Image", "t2i, i2i, inpaint; ragged prompts, 3 schedulers", _flow_with_source((0.0, 3.0, 5.0))),
    Row("Sana", "t2i; 3 schedulers", text_requests(schedulers=_FLOW)),
    Row("PixArt-Sigma", "t2i; 2 schedulers", text_requests(schedulers=(None, "euler")), waits=1.0),
    Row("Lumina 2", "t2i; 3 schedulers", text_requests(schedulers=_FLOW), waits=8.0),
    Row("AuraFlow", "t2i; 3 schedulers", text_requests(schedulers=_FLOW), waits=2.0),
    Row("Chroma", "t2i; 3 schedulers", text_requests(schedulers=_FLOW), waits=2.0),
)


# The document

_HEAD = """# The family matrix

Written by `python -m tests.families.matrix > docs/families.md`; tests/families/test_matrix.py fails when it is out
of date.

Each row is a tiny random-weight pipeline of one family (tests/families/tiny.py), run unmodified in the engine. Its
requests differ in prompt, prompt length, seed, steps, guidance and negative prompt, one asks for two pictures, and
where the family allows it they differ in task and scheduler too. They are drawn one at a time, then all at once, with
room for 16 rows a step. A forward is one call of the denoiser (of ControlNets as well, in their rows); the difference
is the largest between the pixels (0 to 1) of a picture drawn alone and the same picture drawn together, in float32,
rounded up to a power of ten because its digits differ from one machine to another. All of them pass the check at load.

A wait is one of the host for a CUDA device, counted on the fake device of tests/device, where the same requests draw
the CPU's pictures (`python -m tests.device.matrix`): those of the first request from one step to the next, by its
scheduler, which is the model's own. Counted last at commit f0f7bf7. Schedulers by name are in [gpu.md](gpu.md).

Layers kept are those whose only input is the prompt: what they make of it is computed once a run
([engine.md](engine.md#what-comes-from-the-prompt-alone)). Pictures drawn alone are the same bytes without.

| family | requests | n | forwards alone → together | waits a step | layers kept | difference |
|---|---|---|---|---|---|---|"""


def line(result: Result) -> str:
    """The row of the table, without the measured difference."""
    row, forwards = result.row, f"{result.forwards_alone} → {result.forwards_together}"
    return f"| {row.name} | {row.what} | {result.drawings} | {forwards} | {row.waits:g} | {result.kept} |"


def without_difference(text: str) -> str:
    return text.rstrip("|").rpartition("|")[0] + "|"


def _document() -> Iterator[str]:
    yield _HEAD
    for row in MATRIX:
        result = run(row)
        assert result.shared, (row.name, result.reason)
        off = f"≤ 1e{math.ceil(math.log10(result.difference))}" if result.difference else "0"
        yield f"{line(result)} {off} |"
    yield ""
    yield NOTES


NOTES = """Not in the table, because not shared:

- references of different sizes (FLUX.1 Kontext, FLUX.2, Qwen-Image-Edit): their rows have different lengths, and those
  models take no mask for the picture's part; such edits run beside each other, each size in its own step
- prompts of different lengths, for a model that takes them unpadded with no mask and is not listed in
  pipelines/engine/ragged.py
- a model with a step cache (FirstBlockCache and the like), perturbed-attention guidance, or any layer that mixes rows:
  the check at load finds it, and it draws one run at a time (tests/families/test_faults.py)"""


if __name__ == "__main__":
    torch.set_num_threads(1)
    quiet_libraries()
    for text in _document():
        print(text, flush=True)
