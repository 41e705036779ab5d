"""Which text encoders may encode the prompts of several runs in one forward: those that were seen to give the same.

Knows the calls of runs that were drawn alone and together; draws nothing itself. An encoder that was not seen to meet,
as its prompts were of different lengths, encodes them one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipelines.engine.call import Call
from pipelines.engine.shared import SharedModule, Stage
from pipelines.models.loader import LoadedModel
from pipelines.models.trial import allowed, distance, told

log = logging.getLogger("darkroom.selfcheck")


def set_apart(model: LoadedModel) -> bool:
    """Have the model's text encoders encode prompts one by one. Was there one that did not?"""
    meeting = [shared for shared in encoders(model) if not shared.apart]
    for shared in meeting:
        shared.apart = True
    return bool(meeting)


def prove(model: LoadedModel, one: Sequence[Call], other: Sequence[Call], together: Sequence[Call]) -> bool:
    """Decide by the calls of two runs, each drawn alone, then ``together``: which encoders had both runs' prompts in
    one forward, and was the denoiser told what it is told alone? False where it was not, and what was drawn together
    proves nothing."""
    met = {call.shared for call in together if call.shared.stage is Stage.ENCODE and call.company > 1}
    for shared in encoders(model):
        shared.apart = shared not in met
    if not met:
        return True
    pairs = [(_first_step(each), _first_step(together, each)) for each in (one, other)]
    apart = distance(told(pairs[0][0]), told(pairs[1][0]))
    off = max(distance(told(alone), told(beside)) for alone, beside in pairs)
    if off <= allowed(model) * apart:
        return True
    set_apart(model)
    log.warning(
        "text encoders do not share forwards",
        extra={"model": model.plan.key, "reason": f"together differs from alone by {off:.2g}, of {apart:.2g}"},
    )
    return False


def encoders(model: LoadedModel) -> list[SharedModule]:
    """The model's text encoders."""
    return [shared for shared in model.shared_modules.values() if shared.stage is Stage.ENCODE]


def _first_step(calls: Sequence[Call], like: Sequence[Call] | None = None) -> Call:
    """The first call of the denoiser, by the run that made ``like`` where there are several."""
    job = (calls if like is None else like)[0].drawing.job_id
    return next(call for call in calls if call.shared.stage is Stage.DENOISE and call.drawing.job_id == job)
