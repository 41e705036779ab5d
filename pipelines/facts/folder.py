"""Is a model folder complete, and safe to load? Told from names, JSON and safetensors headers alone.

Knows files; loads nothing, imports no torch. What is judged is what loading reads (component.py), and nothing else.
Sources of the rules: pickle weights (CVE-2025-32434), code named by a config (configs.py), paths that leave the folder
(CVE-2026-27905), headers that lie about their length (headers.py), marks that the libraries drop (marks.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.errors import LoadRefused
from pipelines.facts import component, configs, headers, marks, requirements, seal
from pipelines.facts.checkpoint import WeightFile
from pipelines.facts.component import INDEX, TEMPLATES, Component, Files, Kind
from pipelines.facts.headers import Header, Stored
from pipelines.facts.marks import Scale

_MAX_JSON_BYTES = 64 * 1024 * 1024
_CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
T5_TOKENIZERS = ("T5Tokenizer", "T5TokenizerFast")


@dataclass(frozen=True)
class Part:
    """A component of a folder, and its files that loading reads."""

    component: Component
    folder: Path  # the component's own
    files: Files
    source: WeightFile | None = None  # of its weights, in place of files in its folder
    lends_vocabulary: bool = False  # a CLIP tokenizer without words of its own: it gets ours
    vocabulary: Path | None = None  # the file of a T5 tokenizer's words, in place of its folder's

    @property
    def where(self) -> str:
        """What its weights are called in a message."""
        return f"{self.component.name}/" if self.source is None else f"{self.source.path.name} ({self.component.name})"

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files of its weights."""
        return tuple(self.folder / name for name in self.files.weights) if self.source is None else (self.source.path,)

    @property
    def is_quantised(self) -> bool:
        """Are its weights stored in a form of one of the libraries' quantisers?"""
        if self.source is not None:
            return self.source.is_gguf
        if "config.json" not in self.files.configs:
            return False
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return isinstance(config.get("quantization_config"), dict)

    def tensors(self) -> dict[str, Stored]:
        """What its weights are by name, of all its files. Raises LoadRefused for a file that is none."""
        if self.source is not None:
            return self.source.tensors()
        found: dict[str, Stored] = {}
        owners: dict[str, str] = {}
        for path in self.weights:
            tensors = headers.read(path).tensors
            twice = min(found.keys() & tensors.keys(), default=None)
            if twice is not None:
                one = f"{self.component.name}/: {twice[:120]} is in {owners[twice]} and in {path.name}"
                raise LoadRefused(f"{one}: one of them is stale; fetch the model again")
            found |= tensors
            owners |= dict.fromkeys(tensors, path.name)
        return found

    def stays_as_stored(self, tensor: Stored) -> bool:
        """Does loading leave a tensor of its weights as it is? What is no float, and what a library has quantised."""
        if self.source is not None and self.source.is_gguf:
            return tensor.dtype not in ("F32", "F16")
        return tensor.dtype.startswith(("I", "U", "BOOL")) or (tensor.is_float8 and self.is_quantised)

    def scales(self) -> tuple[Scale, ...]:
        """Its weights that are stored in fp8 beside a scale. Raises LoadRefused for a scale that cannot be undone."""
        return () if self.is_quantised else marks.scales(self.tensors(), self.where)


@dataclass(frozen=True)
class Given:
    """What comes from elsewhere than a model's folder."""

    weights: Mapping[str, WeightFile] = field(default_factory=dict)  # by the component's name
    is_all: bool = False  # the folder has configurations alone, and its tokenizers may lack their words
    words: Path | None = None  # T5's
    left_out: Collection[str] = ()  # components that the model does without


def parts(folder: Path, given: Given | None = None) -> tuple[Part, ...]:
    """The components of a model folder, with the files that loading reads. Raises LoadRefused."""
    given = given or Given()
    if folder.is_file():
        raise LoadRefused("it is a file, not a folder; path names the folder that holds model_index.json")
    if not folder.is_dir():
        raise LoadRefused("the folder does not exist; put the model there or run `darkroom models pull`")
    index = _read_json(folder / INDEX, folder)
    configs.judge(index, INDEX)
    found = [each for each in component.components(index) if each.name not in given.left_out]
    _refuse_code(folder, "None.py")  # diffusers takes it for the pipeline, where none is asked for by name
    parts = tuple(_part(folder, each, None, given) for each in found)
    variant = variant_of(parts)
    return parts if variant is None else tuple(_part(folder, each, variant, given) for each in found)


def variant_of(parts: Iterable[Part]) -> str | None:
    """The variant of weights that loading must be told, or None. Raises LoadRefused where there are two."""
    return component.one_variant({part.component.name: part.files for part in parts})


def inspect(folder: Path, found: Iterable[Part] | None = None, *, with_seal: bool = True) -> int:
    """Check a diffusers model folder, of these parts, and return the bytes of its weights. With ``with_seal``, a folder
    that has a seal must be as it was sealed.

    Raises LoadRefused, saying which file is wrong and what to do.
    """
    found = parts(folder) if found is None else tuple(found)
    size = sum(inspect_part(part, folder) for part in found)
    _inspect_marks(found, folder)
    if with_seal:
        seal.compare(folder, names_compared(folder, found))
    return size


def files_read(folder: Path) -> tuple[str, ...]:
    """All files of a model folder that loading reads, as paths in it. Raises LoadRefused."""
    return names_of(parts(folder))


def names_of(found: Iterable[Part]) -> tuple[str, ...]:
    """The files of these parts of a model folder that loading reads, as paths in it."""
    return (INDEX, *(f"{part.component.name}/{name}" for part in found for name in part.files))


def names_compared(folder: Path, found: Collection[Part]) -> frozenset[str]:
    """The files of a model folder that are compared with its seal at loading, of these parts. Raises LoadRefused."""
    return frozenset((*names_of(found), *_passed_by(folder, found)))


def _passed_by(folder: Path, found: Iterable[Part]) -> tuple[str, ...]:
    """What was sealed of components whose weights or words come from single files, or that the model does without: it
    is still part of the folder. An index that names other components than the sealed one is told by itself."""
    read = {part.component.name for part in found if part.source is None and part.vocabulary is None}
    sealed = seal.read(folder)
    names = () if sealed is None else tuple(sealed.files)
    return tuple(name for name in names if "/" in name and name.partition("/")[0] not in read)


def problem(folder: Path) -> str | None:
    """Why a folder cannot be loaded, as far as its files tell; None if it looks whole and safe."""
    try:
        found = parts(folder)
        inspect(folder, found)
        refuse_unscheduled(found)
    except LoadRefused as refusal:
        return str(refusal)
    except OSError as error:
        return f"the folder cannot be read: {error.strerror}"
    return None


def refuse_unscheduled(found: Iterable[Part]) -> None:
    """Raise LoadRefused for a scheduler without its configuration."""
    for part in found:
        if part.component.kind is Kind.SCHEDULER and not part.files.configs:
            raise LoadRefused(f"{part.component.name}/scheduler_config.json is missing")


def _part(folder: Path, each: Component, variant: str | None, given: Given) -> Part:
    source = given.weights.get(each.name)
    part = folder / each.name
    if part.is_file():
        raise LoadRefused(f"{each.name} is a file, not a component folder; fetch the model again")
    if not _stays_inside(part, folder) or not part.is_dir() or part.parent != folder or part.name != each.name:
        raise LoadRefused(f"component folder {each.name}/ is missing")
    for library in component.LIBRARIES:
        _refuse_code(part, f"{library}.py")
    names = [path.name for path in part.iterdir() if not path.is_dir()]
    templates = part / TEMPLATES
    if templates.is_dir():
        names += [f"{TEMPLATES}/{path.name}" for path in templates.iterdir()]
    lacks_words = given.is_all and each.kind is Kind.TOKENIZER and not component.has_vocabulary(names)
    lends = lacks_words and each.class_name in _CLIP_TOKENIZERS
    words = given.words if each.class_name in T5_TOKENIZERS else None  # named: they come before the folder's own
    is_bare = lends or words is not None or source is not None
    files = component.files_read(each, names, lambda name: _read_json(part / name, folder), variant, bare=is_bare)
    return Part(each, part, files, source, lends, words)


def lone_part(folder: Path, each: Component) -> Part:
    """A component that lies in a folder of its own, no model's, and its files that loading reads. Raises
    LoadRefused."""
    for library in component.LIBRARIES:
        _refuse_code(folder, f"{library}.py")
    names = [path.name for path in folder.iterdir() if not path.is_dir()]
    return Part(each, folder, component.files_read(each, names, lambda name: _read_json(folder / name, folder)))


def _refuse_code(folder: Path, name: str) -> None:
    if (folder / name).exists():
        raise LoadRefused(f"{folder.name}/{name} would be taken for code of the model; take it away")


def inspect_part(part: Part, folder: Path) -> int:
    """Check a component, whose files may not lead out of ``folder``, and return the bytes of its weights. Raises
    LoadRefused."""
    name, files = part.component.name, part.files
    if part.weights and "config.json" not in files.configs:
        raise LoadRefused(f"{name}/config.json is missing, so diffusers could not load it")
    read: dict[str, Any] = {}
    for config in files.configs:
        read[config] = _read_json(part.folder / config, folder)
        configs.judge(read[config], f"{name}/{config}")
    if "adapter_config.json" in files.configs:
        # With peft installed, transformers would load the base model that this file names, from wherever that is.
        raise LoadRefused(f"{name}/ is an adapter of another model; list its .safetensors under loras in models.yaml")
    for token_file in files.tokens:
        _inspect_tokens(part.folder / token_file, folder)
    if part.vocabulary is not None:
        _inspect_words(part.vocabulary)
        files = replace(files, tokens=(part.vocabulary.name,))
    lacking = requirements.missing(part.component, files, read)
    if lacking is not None:
        raise LoadRefused(lacking)
    if part.source is not None:
        if part.source.is_gguf and (lacking := requirements.missing_for_gguf(part.source.path.name)) is not None:
            raise LoadRefused(lacking)
        return sum(tensor.size for tensor in part.tensors().values())
    return sum(_inspect_weights(path, folder).file_size for path in part.weights)


def _inspect_marks(found: Iterable[Part], folder: Path) -> None:
    """Refuse what tensors beside the weights say, where loading would not heed it."""
    by_name = {part.component.name: part for part in found}
    for part in by_name.values():
        part.scales()
    denoiser, scheduler = by_name.get("unet"), by_name.get("scheduler")
    if denoiser is not None and scheduler is not None and scheduler.files.configs:
        config = _read_json(scheduler.folder / scheduler.files.configs[0], folder)
        marks.refuse_other_prediction(denoiser.tensors(), "unet", config)


def inspect_adapter(path: Path, *, with_seal: bool = True) -> int:
    """Check the file of a LoRA and return its bytes. With ``with_seal``, one that has a seal must be as it was sealed.
    Raises LoadRefused.

    The name as it is written counts: in a hub's cache it is a link to a file that is named by its hash.
    """
    if path.suffix != ".safetensors" and not path.is_dir():
        raise LoadRefused(f"{path.name} is not a .safetensors file; .bin, .pt and .ckpt files are not loaded")
    if path.is_dir():
        raise LoadRefused(f"{path.name} is a folder, not a file; path names the .safetensors file in it")
    if not path.is_file():
        raise LoadRefused(f"{path.name} {'is a link to nothing' if path.is_symlink() else 'does not exist'}")
    size = headers.read(path).file_size
    if with_seal:
        seal.compare(path.parent, (path.name,), seal.name_for(path.name))
    return size


def adapter_problem(path: Path, *, with_seal: bool = True) -> str | None:
    """Why a file cannot be a LoRA; None if it looks whole."""
    try:
        inspect_adapter(path, with_seal=with_seal)
    except LoadRefused as refusal:
        return str(refusal)
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    return None


def _inspect_weights(path: Path, folder: Path) -> Header:
    _check_place(path, folder)
    return headers.read(path)


def _inspect_tokens(path: Path, folder: Path) -> None:
    """A tokenizer's file is there, and is what its name says as far as its first bytes tell."""
    where = _check_place(path, folder)
    headers.refuse_pointer(path, where)
    if path.stat().st_size == 0:
        raise LoadRefused(f"{where} is empty")
    if path.suffix == ".json":
        _read_json(path, folder)
    elif path.suffix in (".jinja", ".txt"):
        try:
            path.read_text(encoding="utf-8")
        except ValueError as error:
            raise LoadRefused(f"{where} is not text in UTF-8") from error


def _inspect_words(path: Path) -> None:
    """As a tokenizer's file, but wherever it lies: it is the owner who names it, and in a hub's cache it is a link."""
    headers.refuse_pointer(path, path.name)
    size = path.stat().st_size
    if not 0 < size <= _MAX_JSON_BYTES:
        raise LoadRefused(f"tokenizer: {path.name} is {'too large' if size else 'empty'}")
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise LoadRefused(f"tokenizer: {path.name} is not valid JSON") from error


def _check_place(path: Path, folder: Path) -> str:
    """The path inside the folder, for a message. Raises LoadRefused for a file that is not there."""
    where = path.relative_to(folder).as_posix()
    if not path.is_file():
        raise LoadRefused(f"{where} is {'a link to nothing: it is missing' if path.is_symlink() else 'missing'}")
    if not _stays_inside(path, folder):
        raise LoadRefused(f"{where} points outside the model folder")
    return where


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    where = _check_place(path, folder)
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise LoadRefused(f"{where} is too large")
    headers.refuse_pointer(path, where)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise LoadRefused(f"{where} is not valid JSON") from error
    if not isinstance(value, dict):
        raise LoadRefused(f"{where} is not a JSON object")
    return value


def _stays_inside(path: Path, folder: Path) -> bool:
    """Does the path, links followed, end in the folder, or among the files of the hub cache that the folder is of?

    There, ``snapshots/REVISION/…`` are links to ``blobs/…`` of the same repository.
    """
    # As the system follows them: pathlib raises at a link that leads to itself.
    target, whole = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if target.is_relative_to(whole):
        return True
    repository = whole.parent.parent
    in_cache = whole.parent.name == "snapshots" and repository.name.startswith("models--")
    return in_cache and path.is_symlink() and target.parent == repository / "blobs"
