"""The part of the check at load that ControlNets have: do runs that have them give together what they give alone?

Knows the engine from outside. One step is drawn with all ControlNets of the model, alone and beside one without; of a
large model too, for it takes one forward of the denoiser and one of each ControlNet, each twice.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from pipelines.engine.call import Call
from pipelines.engine.shared import Stage
from pipelines.errors import DrawError
from pipelines.models.loader import LoadedModel
from pipelines.models.trial import PROMPT_A, Trial, allowed, distance, first_step
from pipelines.plan import Drawing
from pipelines.spec import Control, Pixels

log = logging.getLogger("darkroom.selfcheck")

_SQUARE = 8  # pixels a side: what a ControlNet reads has edges


def prove(trial: Trial, one: Sequence[Call], other: Sequence[Call]) -> None:
    """Decide whether runs with ControlNets share steps, and leave it with the model. ``one`` and ``other`` are the
    calls of the check's two drawings, each as it was alone."""
    model = trial.model
    if not model.controls or not model.shares:
        return
    plain = trial.drawing(PROMPT_A, 1)
    try:
        reason = _problem(trial, plain, _controlled(plain, model.controls), first_step(one), first_step(other))
    except DrawError as error:
        reason = str(error)
    if reason is not None:
        log.warning("ControlNets do not share steps", extra={"model": model.plan.key, "reason": reason})
        set_apart(model)


def set_apart(model: LoadedModel) -> None:
    """Have ControlNets called one by one, and no denoiser's call with what they add meet one without."""
    for shared in model.shared_modules.values():
        shared.fills = False
        shared.apart = shared.apart or shared.stage is Stage.CONTROL


def _problem(trial: Trial, plain: Drawing, controlled: Drawing, base: Call, other: Call) -> str | None:
    alone = first_step(trial.begin(controlled, forwards=1))
    pair = trial.begin_together(plain, controlled, 0)
    if pair is None:
        return None  # they never meet
    off = max(distance(base.output, pair[0].output), distance(alone.output, pair[1].output))
    bound = allowed(trial.model) * distance(base.output, other.output)
    # Not a number proves nothing either. A ControlNet of no effect does: it is no worse together.
    return None if off <= bound else f"together differs from alone by {off:.2g}, of {bound:.2g} that is allowed"


def _controlled(drawing: Drawing, names: tuple[str, ...]) -> Drawing:
    spec = drawing.spec
    image = _squares(spec.draw_width, spec.draw_height)
    spec = msgspec.structs.replace(spec, controls=tuple(Control(name, image) for name in names))
    return msgspec.structs.replace(drawing, job_id="check-controls", spec=spec)


def _squares(width: int, height: int) -> Pixels:
    """Black and white ones."""
    rows = [
        b"".join(bytes([255 * ((x // _SQUARE + y // _SQUARE) % 2)]) * 3 for x in range(width)) for y in range(height)
    ]
    return Pixels(width, height, "RGB", b"".join(rows))
