"""Which models a key may use: all, or those that its limits name.

Knows keys' limits and the catalog; a name that models.yaml does not have now is passed over. A key that may use a model
may use it by every name that it has.
"""

from __future__ import annotations

import contextlib

from server.catalog.catalog import Catalog, Model
from server.catalog.upscalers import Upscaler
from server.errors import ModelForbidden, ModelNotFound
from server.jobs.limits import Limits


def allowed(catalog: Catalog, limits: Limits) -> frozenset[str] | None:
    """The IDs of the models that may be used; None: all."""
    if limits.models is None:
        return None
    found = set()
    for name in limits.models:
        try:
            found.add(catalog.resolve(name).id)
        except ModelNotFound:
            continue
    return frozenset(found)


def require_allowed(catalog: Catalog, limits: Limits, model: Model) -> None:
    """Raise ModelForbidden for a model that may not be used; it names those that may."""
    ids = allowed(catalog, limits)
    if ids is not None and model.id not in ids:
        raise refusal(catalog, ids, model)


def refusal(catalog: Catalog, ids: frozenset[str], model: Model) -> ModelForbidden:
    """What is told of a model to whoever may only use those of these IDs."""
    return ModelForbidden(f"This key may not use {model.id}. It may use: {names(catalog, ids)}.", param="model")


def names(catalog: Catalog, ids: frozenset[str]) -> str:
    """Those of these IDs that there are, for a message."""
    return ", ".join(known for known in catalog.models if known in ids) or "none that this server has"


def require_upscaler_allowed(catalog: Catalog, limits: Limits, upscaler: Upscaler) -> None:
    """Raise ModelForbidden for an upscaler that may not be used: by a key that may use some models alone, those are its
    models' own, and those that its limits name beside them."""
    models = allowed(catalog, limits)
    if models is None or upscaler.name in (limits.models or ()):
        return
    if not any(catalog.models[model_id].upscaler == upscaler.file for model_id in models):
        raise ModelForbidden(f"This key may not use {upscaler.name}.", param="model")


def allowed_upscalers(catalog: Catalog, limits: Limits) -> dict[str, Upscaler]:
    """Those that may be used, by name."""
    found = {}
    for name, upscaler in catalog.upscalers.items():
        with contextlib.suppress(ModelForbidden):
            require_upscaler_allowed(catalog, limits, upscaler)
            found[name] = upscaler
    return found
