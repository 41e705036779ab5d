"""The files of a plan: a folder, one with files in the place of some of its weights, or a checkpoint.

Knows where each part of a model comes from; reads names, JSON and headers alone, no torch. Whoever checks, sizes or
loads a plan asks here, so that all of them speak of the same files. A checkpoint has no configurations: they are those
of its base (``architectures/``), or of a folder that models.yaml names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import LoadRefused
from pipelines.facts import checkpoint, component, textual_inversion
from pipelines.facts import folder as model_folder
from pipelines.facts.checkpoint import ARCHITECTURES, BASES, Told, WeightFile
from pipelines.facts.component import INDEX, Component, Kind
from pipelines.facts.folder import Part
from pipelines.plan import ModelPlan

_NAMES = {"unet": "UNet", "vae": "VAE", "text_encoder": "text encoder", "text_encoder_2": "second text encoder"}
_ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
_WITHOUT_ZERO_SNR = "PNDMScheduler"
_WITH_ZERO_SNR = "EulerDiscreteScheduler"


def architecture(base: str) -> Path:
    """The folder of our configurations for a base."""
    return ARCHITECTURES / base


def parts(plan: ModelPlan) -> tuple[Part, ...]:
    """The components of a plan's model, with the files that loading reads. Raises LoadRefused."""
    return _read(plan)[1]


def inspect(plan: ModelPlan) -> int:
    """Check a plan's files and return the bytes of its weights. Raises LoadRefused, saying which is wrong."""
    told, found = _read(plan)
    size = model_folder.inspect(Path(plan.folder), found)
    if told is not None:
        _scheduler(plan, told)
    textual_inversion.inspect(plan)
    return size


def problem(plan: ModelPlan) -> str | None:
    """Why a plan cannot be loaded, as far as its files tell; None if they look whole and safe."""
    try:
        told, found = _read(plan)
        model_folder.inspect(Path(plan.folder), found)
        model_folder.refuse_unscheduled(found)
        if told is not None:
            _scheduler(plan, told)
        textual_inversion.inspect(plan)
    except LoadRefused as refusal:
        return str(refusal)
    except OSError as error:
        return f"{'the folder' if plan.checkpoint is None else 'it'} cannot be read: {error.strerror}"
    return None


def scheduler(plan: ModelPlan) -> tuple[str, dict[str, Any]] | None:
    """The class and the configuration of a checkpoint's scheduler, as its weights were trained; None where that is
    what its folder says.

    Raises LoadRefused where models.yaml says otherwise than the file.
    """
    if plan.checkpoint is None:
        return None
    return _scheduler(plan, checkpoint.checkpoint(Path(plan.checkpoint)))


def _read(plan: ModelPlan) -> tuple[Told | None, tuple[Part, ...]]:
    """What a plan's checkpoint is, if it has one, and its components."""
    folder = Path(plan.folder)
    given: dict[str, WeightFile] = {}
    told = None
    if plan.checkpoint is not None:
        told = checkpoint.checkpoint(Path(plan.checkpoint))
        _refuse_another_base(plan, told)
        if not folder.is_dir():
            raise LoadRefused(f"config: {folder.name} does not exist, or is no folder")
        given |= told.parts
    if plan.vae is not None:
        given["vae"] = checkpoint.vae(Path(plan.vae))
    if plan.transformer is not None:
        given["transformer"] = checkpoint.transformer(Path(plan.transformer))
    if not given:
        return None, model_folder.parts(folder)
    if folder.is_dir():
        _refuse_other_parts(plan, _components(folder), given)
    return told, model_folder.parts(folder, given, lends_vocabulary=plan.checkpoint is not None)


def _scheduler(plan: ModelPlan, told: Told) -> tuple[str, dict[str, Any]] | None:
    if told.is_marked and plan.prediction not in (None, told.prediction):
        raise LoadRefused(
            f"{told.path.name} is marked as trained for prediction {told.prediction}; models.yaml says"
            f" {plan.prediction}: take prediction out"
        )
    prediction = plan.prediction or told.prediction
    if prediction is None and not told.zero_snr:
        return None
    config = _json(Path(plan.folder) / "scheduler" / "scheduler_config.json")
    name = str(config.get("_class_name", ""))
    changed = dict(config)
    if prediction is not None:
        changed["prediction_type"] = "v_prediction" if prediction == "v" else prediction
    if told.zero_snr:
        changed |= _ZERO_SNR
        name = _WITH_ZERO_SNR if name == _WITHOUT_ZERO_SNR else name
    return (name, changed) if changed != config else None


def _refuse_another_base(plan: ModelPlan, told: Told) -> None:
    """Raise LoadRefused where our own configurations are of another base than the file says."""
    folder = Path(plan.folder)
    ours = folder.name if folder.parent == ARCHITECTURES and folder.name in BASES else None
    if told.base is not None and ours is not None and told.base != ours:
        raise LoadRefused(f"{told.path.name} is {told.base}, not {ours}: take base out of models.yaml")
    if folder == ARCHITECTURES:
        raise LoadRefused(
            f"{told.path.name} is a checkpoint, but of no base that is known ({', '.join(BASES)}): name a folder with"
            " its configurations under config"
        )


def _components(folder: Path) -> dict[str, Component]:
    index = _json(folder / INDEX)
    return {each.name: each for each in component.components(index)}


def _refuse_other_parts(plan: ModelPlan, components: Mapping[str, Component], given: Mapping[str, WeightFile]) -> None:
    """Raise LoadRefused where files lack parts that the model has, or are for parts that it has not."""
    for key, path in (("vae", plan.vae), ("transformer", plan.transformer)):
        if path is not None and key not in components:
            raise LoadRefused(f"{key}: its {INDEX} names no {key} that {Path(path).name} could be the weights of")
    if plan.checkpoint is None:
        return
    for name, each in components.items():
        if each.kind is Kind.MODEL and name not in given:
            instead = "name one under vae in models.yaml" if name == "vae" else "take a complete checkpoint"
            raise LoadRefused(f"{Path(plan.checkpoint).name} has no {_NAMES.get(name, name)}: {instead}")


def _json(path: Path) -> dict[str, Any]:
    where = f"{path.parent.name}/{path.name}"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadRefused(f"{where} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise LoadRefused(f"{where} is not valid JSON") from error
    if not isinstance(value, dict):
        raise LoadRefused(f"{where} is not a JSON object")
    return value
