"""Models' names as AUTOMATIC1111's clients spell them → our models, and the list that they choose from.

Knows names; knows no files. A client chooses a row of ``sd-models`` and sends back whichever of its texts it keeps:
``title``, ``model_name``, ``filename`` or a part of them, in any case. Rows are of weights: IDs that share them stand
for one checkpoint there, under the ID of the entry that names the weights, and may be named all the same. A key that
may use some models alone has these weights by the IDs that it may use: ``ids``, None for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, Final

from server.api.allowed import names, refusal
from server.catalog.catalog import MAX_NAME, Catalog, Model
from server.errors import ModelNotFound

# What stands for the current model, in any case: options and overrides that nobody has set.
CURRENT: Final = frozenset({"", "automatic", "none"})

_HASH = re.compile(r" *\[[0-9A-Za-z]*\]$", re.ASCII)  # "name.safetensors [6ce0161689]"
_SUFFIXES = (".safetensors", ".ckpt", ".gguf")


def current(catalog: Catalog, chosen: str | None, ids: frozenset[str] | None = None) -> Model:
    """The model of requests that name none: the one of the ID ``chosen``, or the default where that is None or gone;
    for a key that may use neither, the first that it may. Raises ModelForbidden where there is none."""
    default = catalog.models[catalog.default]
    for wanted in (catalog.models.get(chosen or ""), default):
        if wanted is not None and (found := _usable(catalog, wanted, ids)) is not None:
            return found
    assert ids is not None
    first = next((model for model in catalog if model.id in ids), None)
    if first is None:
        raise refusal(catalog, ids, default)
    return first


def find(catalog: Catalog, name: object, chosen: str | None, ids: frozenset[str] | None = None) -> Model:
    """The model that a client means by ``name``: None, a number or a text. ``chosen``: the ID that its key has set.
    Raises ModelNotFound, which names the models, and ModelForbidden."""
    text = text_of(name)
    if text.lower() in CURRENT:
        return current(catalog, chosen, ids)
    try:
        found = catalog.resolve(text)
    except ModelNotFound:
        spelled = _spelled(catalog, text) if len(text) <= 2 * MAX_NAME else None
        if spelled is None and ids is not None:
            raise ModelNotFound(f"No such model. This key may use: {names(catalog, ids)}.", param="model") from None
        if spelled is None:
            raise
        found = spelled
    usable = _usable(catalog, found, ids)
    if usable is None:
        assert ids is not None
        raise refusal(catalog, ids, found)
    return usable


def text_of(name: object) -> str:
    """A name as it was sent; of a list or an object, what names nothing."""
    if not name:
        return ""
    return str(name).strip() if isinstance(name, str | int | float) else "?"


def title(model: Model) -> str:
    """What stands for the model's weights in lists and options."""
    return model.plan.key


def rows(catalog: Catalog, ids: frozenset[str] | None = None) -> list[dict[str, Any]]:
    """The items of ``GET /sdapi/v1/sd-models``: each set of weights once, in the order of models.yaml."""
    listed = {model.plan.key for model in catalog if ids is None or model.id in ids}
    return [
        {
            "title": plan.key,
            "model_name": plan.key,
            "hash": None,  # of gigabytes, which nobody has read for it
            "sha256": None,
            "filename": PurePath(plan.source).name,  # where it lies on the server is nobody's business
            "config": None,
        }
        for plan in catalog.plans.values()
        if plan.key in listed
    ]


def _usable(catalog: Catalog, model: Model, ids: frozenset[str] | None) -> Model | None:
    """The model, or another ID of its weights that the key may use; None: it may use none."""
    if ids is None or model.id in ids:
        return model
    return next((other for other in catalog if other.id in ids and other.plan.key == model.plan.key), None)


def _spelled(catalog: Catalog, text: str) -> Model | None:
    """The model of an ID, alias or file, whatever its case, its suffix and the folders before it. Of two, the first."""
    plain = _HASH.sub("", text)
    wanted = [plain, plain.replace("\\", "/").rpartition("/")[2]]
    wanted += [_stem(each) for each in wanted]
    known: dict[str, str] = {}
    for name, model_id in _names(catalog):
        known.setdefault(name.casefold(), model_id)
    found = (known.get(each.casefold()) for each in wanted if each)
    return next((catalog.models[model_id] for model_id in found if model_id is not None), None)


def _names(catalog: Catalog) -> Iterator[tuple[str, str]]:
    """Every name and the ID that it stands for; those of models.yaml before those of files."""
    yield from catalog.names.items()
    for plan in catalog.plans.values():
        file = PurePath(plan.source).name
        yield from ((file, plan.key), (_stem(file), plan.key))


def _stem(file: str) -> str:
    """Without the suffix of a checkpoint; names of ours have dots too."""
    suffix = next((each for each in _SUFFIXES if file.lower().endswith(each)), "")
    return file[: len(file) - len(suffix)]
