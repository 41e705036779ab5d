"""The files of a plan: a folder, one with files in the place of some of its weights, or files alone.

Knows where each part of a model comes from; reads names, JSON and headers alone, no torch. Whoever checks, sizes or
loads a plan asks here, so that all of them speak of the same files. Files have no configurations: they are those of
their base (``architectures/``), or of a folder that models.yaml names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import LoadRefused
from pipelines.facts import checkpoint, component, controls, seal, text_encoders, textual_inversion, transformer_bases
from pipelines.facts import folder as model_folder
from pipelines.facts.checkpoint import ARCHITECTURES, BASES, TRANSFORMER_BASES, Told, WeightFile
from pipelines.facts.component import INDEX, Component, Kind
from pipelines.facts.folder import T5_TOKENIZERS, Given, Part
from pipelines.plan import ModelPlan

WORDS = ("tokenizer.json", "spiece.model")  # of T5, the first that a folder has
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


def inspect(plan: ModelPlan, *, with_seal: bool = True) -> int:
    """Check a plan's files and return the bytes of its weights, ControlNets apart. With ``with_seal``, what has a seal
    must be as it was sealed. Raises LoadRefused, saying which is wrong."""
    told, found = _read(plan)
    size = model_folder.inspect(Path(plan.folder), found, with_seal=with_seal)
    if with_seal:
        _compare_with_seals(plan, found)
    if told is not None:
        _scheduler(plan, told)
    textual_inversion.inspect(plan)
    controls.inspect(plan, with_seal=with_seal)
    return size


def _compare_with_seals(plan: ModelPlan, found: Iterable[Part]) -> None:
    """Compare the single files of a model with their seals, where they have one. Raises LoadRefused."""
    files = {part.source.path for part in found if part.source is not None}
    files |= {part.vocabulary for part in found if part.vocabulary is not None}
    files |= {Path(embedding.path) for embedding in plan.embeddings}
    for file in sorted(files):
        seal.compare(file.parent, (file.name,), seal.name_for(file.name))


def problem(plan: ModelPlan) -> str | None:
    """Why a plan cannot be loaded, as far as its files tell; None if they look whole and safe."""
    try:
        told, found = _read(plan)
        model_folder.inspect(Path(plan.folder), found)
        _compare_with_seals(plan, found)
        model_folder.refuse_unscheduled(found)
        if told is not None:
            _scheduler(plan, told)
        textual_inversion.inspect(plan)
        controls.inspect(plan)
    except LoadRefused as refusal:
        return str(refusal)
    except OSError as error:
        return f"{'it' if plan.is_of_files else 'the folder'} cannot be read: {error.strerror}"
    return None


def scheduler(plan: ModelPlan) -> tuple[str, dict[str, Any]] | None:
    """The class and the configuration of a checkpoint's scheduler, as its weights were trained; None where that is
    what its folder says.

    Raises LoadRefused where models.yaml says otherwise than the file.
    """
    if plan.checkpoint is None:
        return None
    return _scheduler(plan, checkpoint.checkpoint(Path(plan.checkpoint), has_config=True))


def own_scheduler(plan: ModelPlan) -> tuple[str, Mapping[str, Any]] | None:
    """The class and the configuration of the scheduler that a plan's model has; None where its files do not tell."""
    try:
        changed = scheduler(plan)
        if changed is not None:
            return changed
        named = _json(Path(plan.folder) / INDEX).get("scheduler")
        config = _json(Path(plan.folder) / "scheduler" / "scheduler_config.json")
    except (LoadRefused, OSError):
        return None
    return (str(named[1]), config) if isinstance(named, list) and len(named) == 2 else None


def left_out(plan: ModelPlan) -> tuple[str, ...]:
    """The text encoders and tokenizers that a plan's model does without: diffusers must be told so, of a folder that
    says it too. Raises LoadRefused."""
    index = _json(Path(plan.folder) / INDEX)
    there = {part.component.name for part in _read(plan)[1]}
    pairs = {name for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    return tuple(sorted(name for name in pairs - there if name.startswith(("text_encoder", "tokenizer"))))


def _read(plan: ModelPlan) -> tuple[Told | None, tuple[Part, ...]]:
    """What a plan's checkpoint is, if it has one, and its components."""
    folder = Path(plan.folder)
    given: dict[str, WeightFile] = {}
    texts: list[WeightFile] = []
    told = None
    if plan.checkpoint is not None:
        told = checkpoint.checkpoint(Path(plan.checkpoint), has_config=not _is_ours(folder))
        given |= told.parts
        texts += told.texts
    if plan.vae is not None:
        given["vae"] = checkpoint.vae(Path(plan.vae))
    if plan.transformer is not None:
        given["transformer"] = checkpoint.transformer(Path(plan.transformer))
    encoders = [text_encoders.read(Path(path)) for path in plan.text_encoders]
    if plan.is_of_files:
        source = Path(plan.source)
        _refuse_another_base(folder, source, told.base if told else _base(given["transformer"], source), told)
        if not folder.is_dir():
            raise LoadRefused(f"config: {folder.name} does not exist, or is no folder")
    elif not given and not encoders:
        return None, model_folder.parts(folder)
    if not folder.is_dir():
        return told, model_folder.parts(folder)  # which says so
    components = _components(folder)
    named = text_encoders.assign(encoders, components.values(), folder)
    own = [encoder for file in texts if (encoder := text_encoders.of(file.path, file.names, file.stored)) is not None]
    free = [each for each in components.values() if each.name not in named]
    given |= text_encoders.assign(own, free, folder, passes_by=True) | named
    missing = _missing_parts(plan, components, given, folder)
    words = _words(plan, [each for each in components.values() if each.name not in missing])
    return told, model_folder.parts(folder, Given(given, plan.is_of_files, words, missing))


def _base(transformer: WeightFile, source: Path) -> str | None:
    """The base of a transformer alone. Raises LoadRefused for one that no pipeline here draws with."""
    base, why = transformer_bases.tell(transformer.tensors())
    if why is not None:
        raise LoadRefused(f"{source.name} is {checkpoint.Kind.TRANSFORMER}: {why}")
    return base


def _words(plan: ModelPlan, components: Iterable[Component]) -> Path | None:
    """The file of T5's words that models.yaml names. Raises LoadRefused where it is missing, or nobody asks for it."""
    takers = [each for each in components if each.class_name in T5_TOKENIZERS] if plan.is_of_files else []
    if plan.tokenizer is None:
        lacking = [each for each in takers if not _has_words(Path(plan.folder) / each.name)]
        if lacking:
            raise LoadRefused(
                f"T5 is without its words, which do not ship with Darkroom: name its {' or '.join(WORDS)} under"
                f" tokenizer in models.yaml (diffusers folders of such models have it in {lacking[0].name}/)"
            )
        return None
    if not takers:
        raise LoadRefused("tokenizer: this model has no T5 text encoder that would ask for it; take it out")
    path = Path(plan.tokenizer)
    if path.is_dir():
        found = next((path / name for name in WORDS if (path / name).is_file()), None)
        if found is None:
            raise LoadRefused(f"tokenizer: {path.name}/ has neither {' nor '.join(WORDS)}")
        return found
    if not path.is_file():
        raise LoadRefused(f"tokenizer: {path.name} does not exist")
    if path.name not in WORDS:
        raise LoadRefused(f"tokenizer: {path.name} is no {' or '.join(WORDS)}, which T5's words come in")
    return path


def _has_words(folder: Path) -> bool:
    try:
        return component.has_vocabulary([path.name for path in folder.iterdir()])
    except OSError:
        return False


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


def _is_ours(folder: Path) -> bool:
    return ARCHITECTURES in (folder, folder.parent)


def _refuse_another_base(folder: Path, source: Path, base: str | None, told: Told | None) -> None:
    """Raise LoadRefused where our own configurations are of another base than the file says."""
    ours = folder.name if folder.parent == ARCHITECTURES else None
    if base is not None and ours is not None and base not in (ours, transformer_bases.SAME_SHAPES.get(ours)):
        raise LoadRefused(f"{source.name} is {base}, not {ours}: take base out of models.yaml")
    if folder == ARCHITECTURES:
        is_unet = told is not None and "unet" in told.parts
        known = ", ".join(BASES if is_unet else TRANSFORMER_BASES)
        what, others = ("checkpoint", "") if told else ("transformer", ", or its diffusers folder under path")
        raise LoadRefused(
            f"{source.name} is a {what}, but of no base that is known ({known}): name a folder with its configurations"
            f" under config{others}"
        )


def _components(folder: Path) -> dict[str, Component]:
    index = _json(folder / INDEX)
    return {each.name: each for each in component.components(index)}


def _missing_parts(
    plan: ModelPlan, components: Mapping[str, Component], given: Mapping[str, WeightFile], folder: Path
) -> tuple[str, ...]:
    """The components that a model of files does without. Raises LoadRefused where files lack parts that it needs, or
    are for parts that it has not."""
    for key, path in (("vae", plan.vae), ("transformer", plan.transformer)):
        if path is not None and key not in components:
            raise LoadRefused(f"{key}: its {INDEX} names no {key} that {Path(path).name} could be the weights of")
    if not plan.is_of_files:
        return ()
    source = Path(plan.source)
    missing = [each for each in components.values() if each.kind is Kind.MODEL and each.name not in given]
    # Stable Diffusion 3 is made to draw without its T5.
    is_sd3 = _json(folder / INDEX).get("_class_name", "").startswith("StableDiffusion3")
    spare = [each.name for each in missing if is_sd3 and each.name == "text_encoder_3"]
    missing = [each for each in missing if each.name not in spare]
    if "transformer" in components and missing:
        raise LoadRefused(f"{source.name} has {_lacks(missing, folder)}")
    for each in missing:
        what = _NAMES.get(each.name, each.name)
        if each.name == "vae":
            instead = "name one under vae in models.yaml"
        elif text_encoders.is_one(each):
            instead = f"take a complete checkpoint, or name {text_encoders.described(each, folder)} under text_encoders"
        else:
            instead = "take a complete checkpoint"
        raise LoadRefused(f"{source.name} has no {what}: {instead}")
    return (*spare, *(name.replace("text_encoder", "tokenizer") for name in spare))


def _lacks(missing: Iterable[Component], folder: Path) -> str:
    """What else a transformer needs, all of it, with the keys of models.yaml."""
    texts = [text_encoders.described(each, folder) for each in missing if text_encoders.is_one(each)]
    others = [each.name for each in missing if not text_encoders.is_one(each)]
    lacking = [*(_NAMES.get(each, each) for each in others), *(f"text encoder {text}" for text in texts)]
    keys = " and ".join([*others, *(["text_encoders"] if texts else [])])
    return f"no {', no '.join(lacking)}: name {'it' if len(lacking) == 1 else 'them'} under {keys} in models.yaml"


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
