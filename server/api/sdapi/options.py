"""The options, GET and POST /sdapi/v1/options: which model a key draws with where its requests name none.

Knows the few options that mean something here; every other is taken and named in ``x-ignored-fields``. What GET
answers POST accepts: programs read the object, change the model in it and send all of it back.
"""

from __future__ import annotations

from typing import Any, Final

from server.api.sdapi import models
from server.api.sdapi.choices import ModelChoices
from server.catalog.catalog import Catalog, Model
from server.errors import ModelForbidden, ModelNotFound

MODEL: Final = "sd_model_checkpoint"

# As they always are here. ``forge_preset`` would make programs take the server for another one.
_FIXED: Final[dict[str, Any]] = {
    "sd_checkpoint_hash": "",
    "samples_format": "png",
    "CLIP_stop_at_last_layers": 1,
    "sd_vae": "Automatic",
    "live_previews_enable": True,
    "show_progress_every_n_steps": 5,
}


def shown(model: Model) -> dict[str, Any]:
    """The options of a key whose current model is ``model``."""
    return {MODEL: models.title(model), **_FIXED}


def set_options(
    catalog: Catalog,
    choices: ModelChoices,
    principal_id: str,
    sent: dict[str, Any],
    ids: frozenset[str] | None = None,
) -> tuple[str, ...]:
    """Set the options that were sent. Returns the names of those that have no effect. Raises ModelNotFound, and
    ModelForbidden for a model that is none of ``ids``."""
    chosen = choices.of(principal_id)
    current = models.current(catalog, chosen, ids)
    name = sent.get(MODEL)
    # What came from ``shown`` keeps the ID that was chosen: it may be another one of the same weights.
    if name != models.title(current):
        try:
            model = models.find(catalog, name, chosen, ids)
        except (ModelNotFound, ModelForbidden) as error:
            raise type(error)(error.message, param=MODEL) from None
        if model is not current:
            choices.choose(principal_id, model.id)
    return tuple(key for key, value in sent.items() if key != MODEL and value != _FIXED.get(key, ...))
