"""The files of a component that loading reads, told from the names in its folder.

Knows which names diffusers and transformers look for, and in which order; opens nothing itself. Whoever checks,
fetches, sizes or loads a model asks here, so that all of them speak of the same files. What loading never opens is not
named: variants (fp16) beside plain weights, pickled twins, weights of other frameworks, what systems leave (``._*``),
cards and pictures.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipelines.errors import LoadRefused

INDEX = "model_index.json"
TEMPLATES = "additional_chat_templates"  # the one folder inside a component that is read
LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion"})

_CLASS_NAME = re.compile(r"[A-Z][A-Za-z0-9_]*", re.ASCII)
# Loaded as a component, these load further folders, unjudged and with defaults that unpickle, or are none at all.
_NO_COMPONENT = re.compile(r".*Pipeline(Legacy|Output)?|Auto[A-Z].*|Modular.*|Onnx.*|Flax.*|FlashPack.*|Multi.*Adapter")
# As the class of a pipeline: these fetch, or load, what their configuration or README names.
_NO_PIPELINE = re.compile(r".*Modular.*|.*CombinedPipeline|Onnx.*|Flax.*|AutoPipeline.*|DiffusionPipeline")


class Kind(enum.Enum):
    """What a component is, which decides the files that loading looks for."""

    SCHEDULER = enum.auto()
    GUIDER = enum.auto()
    TOKENIZER = enum.auto()
    PICTURES = enum.auto()  # an image processor or feature extractor
    PROCESSOR = enum.auto()  # a tokenizer and an image processor in one folder
    MODEL = enum.auto()


_KINDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    (Kind.SCHEDULER, re.compile(r".*Scheduler")),
    (Kind.GUIDER, re.compile(r".*(Guider|Guidance)")),
    (Kind.TOKENIZER, re.compile(r".*Tokenizer(Fast|Base)?|.*Backend")),
    (Kind.PICTURES, re.compile(r".*(ImageProcessor|VideoProcessor|FeatureExtractor)(Fast|Pil)?")),
    (Kind.PROCESSOR, re.compile(r".*Processor")),
)
_CONFIGS: dict[Kind, tuple[str, ...]] = {
    Kind.SCHEDULER: ("scheduler_config.json",),
    Kind.GUIDER: ("guider_config.json",),
    Kind.TOKENIZER: ("tokenizer_config.json", "special_tokens_map.json", "config.json"),
    Kind.PICTURES: ("preprocessor_config.json", "processor_config.json"),
    Kind.PROCESSOR: (
        "processor_config.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "audio_tokenizer_config.json",
        "chat_template.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "config.json",
    ),
    Kind.MODEL: ("config.json", "generation_config.json", "adapter_config.json"),
}
_TOKENS = re.compile(
    r"(?!\.)((?P<fast>tokenizer(\.[0-9.]+)?\.json)|[\w.-]*vocab[\w.-]*\.(json|txt)|[\w.-]+\.(model|spm)"
    r"|tokenizer\.model\.\w+|merges\.txt|added_tokens\.json|tekken\.json|bpe\.codes|dict\.txt|chat_template\.jinja)"
)
_NO_VOCABULARY = frozenset({"added_tokens.json", "chat_template.jinja", "merges.txt"})
_BYTES_ARE_TOKENS = frozenset({"ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer"})
# The name of a library's weights, and whether it looks for their index first.
_WEIGHTS = {"diffusers": ("diffusion_pytorch_model", True)}
_TRANSFORMERS_WEIGHTS = ("model", False)
_VARIANTS = ("fp16", "bf16")  # of weights, in their files' names; the smaller download, and often the only one


@dataclass(frozen=True)
class Component:
    """A component as model_index.json names it."""

    name: str  # of its folder
    library: str
    class_name: str

    @property
    def kind(self) -> Kind:
        """What its class is, told from the class's name."""
        return next((kind for kind, pattern in _KINDS if pattern.fullmatch(self.class_name)), Kind.MODEL)

    @property
    def loads_weights(self) -> bool:
        """Is it a model, with weights?"""
        return self.kind is Kind.MODEL


@dataclass(frozen=True)
class Files:
    """The files of a component that loading reads, as paths inside its folder."""

    configs: tuple[str, ...]  # JSON in which keys can name classes, code and paths
    tokens: tuple[str, ...]  # vocabularies, merges, templates
    index: str | None  # of shards
    weights: tuple[str, ...]
    variant: str | None = None  # of the weights, as loading must be told it

    def __iter__(self) -> Iterator[str]:
        yield from (*self.configs, *self.tokens, *(() if self.index is None else (self.index,)), *self.weights)


def components(index: Mapping[str, Any]) -> tuple[Component, ...]:
    """The components that a model_index.json names. Raises LoadRefused for a class that is no component's."""
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or not _CLASS_NAME.fullmatch(pipeline) or _NO_PIPELINE.fullmatch(pipeline):
        raise LoadRefused(f"{INDEX}: _class_name must be the name of one of diffusers' pipelines")
    found = []
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list) or len(value) != 2 or not _is_pair(value):
            continue
        library, class_name = value
        if library is None:
            continue
        if library not in LIBRARIES:
            raise LoadRefused(f"{INDEX}: component {name} comes from {library!r}, not diffusers or transformers")
        if class_name is None:
            raise LoadRefused(f"{INDEX}: component {name} names no class")
        if not _CLASS_NAME.fullmatch(class_name) or _NO_COMPONENT.fullmatch(class_name):
            raise LoadRefused(f"{INDEX}: component {name}: {class_name!r} is not the class of a component")
        found.append(Component(name, library, class_name))
    if not found:
        raise LoadRefused(f"{INDEX} names no components")
    return tuple(found)


def _is_pair(value: list[Any]) -> bool:
    """Is it [library, class], and not two numbers that the pipeline takes?"""
    return all(part is None or isinstance(part, str) for part in value)


def files_read(
    part: Component,
    names: Collection[str],
    read_index: Callable[[str], Mapping[str, Any]],
    variant: str | None = None,
    *,
    bare: bool = False,
) -> Files:
    """The files that loading reads, of those in a component's folder. Raises LoadRefused where it would not load.

    ``names`` are paths inside that folder, with ``/``. ``read_index`` gives the JSON of one of them. ``variant`` is
    what another component of the model has its weights in: where this one has it too, loading takes it. Of a folder
    that is ``bare`` only configurations are asked for: its weights or its vocabulary come from elsewhere.
    """
    seen = set(names)
    wanted = _CONFIGS[part.kind]
    if part.kind is Kind.MODEL and "config.json" not in seen:
        # A class whose name says nothing, and a folder that says what it is.
        wanted = (*wanted, *(name for kind in (Kind.SCHEDULER, Kind.PROCESSOR) for name in _CONFIGS[kind]))
    configs = tuple(sorted({name for name in wanted if name in seen}))
    if bare:
        return Files(configs, (), None, ())
    tokens = _tokens(part, seen)
    if not part.loads_weights:
        return Files(configs, tokens, None, ())
    for wanted_variant in dict.fromkeys((variant, None, *_VARIANTS)):
        found = _named_weights(part, seen, read_index, wanted_variant)
        if found is not None:
            return Files(configs, tokens, *found, wanted_variant)
    return Files(configs, tokens, *_other_weights(part, seen, configs, read_index))


def one_variant(found: Mapping[str, Files]) -> str | None:
    """The variant that some components have alone, and so loading is told of; None where all have plain weights.

    Raises LoadRefused for two of them: loading takes one.
    """
    variants = {files.variant: name for name, files in found.items() if files.variant is not None}
    if len(variants) > 1:
        (one, first), (other, second), *_ = variants.items()
        raise LoadRefused(f"{first}/ has its weights as {one} alone, {second}/ as {other}: take one of the two for all")
    return next(iter(variants), None)


def files_of_model(names: Collection[str], read: Callable[[str], Mapping[str, Any]]) -> tuple[str, ...]:
    """The files of a whole model that loading reads: ``names`` are paths inside it, ``read`` gives a file's JSON."""
    if INDEX not in names:
        raise LoadRefused(f"{INDEX} is missing: this is no model in diffusers' format")
    parts = components(read(INDEX))
    found = {part.name: _files_inside(part, names, read, None) for part in parts}
    variant = one_variant(found)
    if variant is not None:
        found = {part.name: _files_inside(part, names, read, variant) for part in parts}
    return (INDEX, *(f"{component}/{name}" for component, files in found.items() for name in files))


def _files_inside(
    part: Component, names: Collection[str], read: Callable[[str], Mapping[str, Any]], variant: str | None
) -> Files:
    prefix = f"{part.name}/"
    inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    if not inside:
        raise LoadRefused(f"component folder {prefix} is missing")
    return files_read(part, inside, _inside(prefix, read), variant)


def _inside(prefix: str, read: Callable[[str], Mapping[str, Any]]) -> Callable[[str], Mapping[str, Any]]:
    return lambda name: read(prefix + name)


def _tokens(part: Component, names: Collection[str]) -> tuple[str, ...]:
    if part.kind not in (Kind.TOKENIZER, Kind.PROCESSOR):
        return ()
    found = sorted(name for name in names if _TOKENS.fullmatch(name) or _is_template(name))
    if part.kind is Kind.TOKENIZER and part.class_name not in _BYTES_ARE_TOKENS:
        vocabulary = [name for name in found if name not in _NO_VOCABULARY and not _is_template(name)]
        if not vocabulary:
            raise LoadRefused(f"{part.name}/ has no vocabulary: no tokenizer.json, and no slow tokenizer's files")
    return tuple(found)


def _is_template(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix == ".jinja" and str(path.parent) == TEMPLATES


def _named_weights(
    part: Component,
    names: Collection[str],
    read_index: Callable[[str], Mapping[str, Any]],
    variant: str | None,
) -> tuple[str | None, tuple[str, ...]] | None:
    """The index and the files of weights under the names that its library looks for; None where there are none."""
    stem, index_first = _WEIGHTS.get(part.library, _TRANSFORMERS_WEIGHTS)
    dotted = "" if variant is None else f".{variant}"
    single, index = f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json"
    for name in (index, single) if index_first else (single, index):
        if name in names:
            return (name, _shards(part, names, name, read_index)) if name == index else (None, (name,))
    return None


def _other_weights(
    part: Component, names: Collection[str], configs: Collection[str], read_index: Callable[[str], Mapping[str, Any]]
) -> tuple[str | None, tuple[str, ...]]:
    if "config.json" not in configs and set(configs) - set(_CONFIGS[Kind.MODEL]):
        return None, ()  # its class says nothing, and its files say that it is no model
    visible = sorted(name for name in names if not name.startswith(".") and "/" not in name)
    loose = [name for name in visible if name.endswith(".safetensors")]
    plain = [name for name in loose if name.count(".") == 1] or loose  # variants only where there is nothing else
    others = [name for name in visible if re.fullmatch(r"[^.]+\.safetensors\.index\.json", name)]
    if others:
        sharded = {shard for name in others for shard in _shards(part, names, name, read_index)}
        return others[0], tuple(sorted({*plain, *sharded}))
    if not plain:
        raise LoadRefused(f"{part.name}/ has no .safetensors weights; .bin and .ckpt files are not loaded")
    return None, tuple(plain)


def _shards(
    part: Component, names: Collection[str], index: str, read_index: Callable[[str], Mapping[str, Any]]
) -> tuple[str, ...]:
    """The files that an index names. Raises LoadRefused unless each lies beside it."""
    shards = read_index(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise LoadRefused(f"{part.name}/{index} has no weight_map")
    found = set()
    for shard in shards.values():
        if not isinstance(shard, str) or PurePosixPath(shard).name != shard or not shard.endswith(".safetensors"):
            raise LoadRefused(f"{part.name}/{index} names a shard that is not a safetensors file beside it")
        if shard not in names:
            raise LoadRefused(f"{part.name}/{shard} is missing")
        found.add(shard)
    return tuple(sorted(found))


def has_vocabulary(names: Collection[str]) -> bool:
    """Is there a file of tokens among the names in a tokenizer's folder?"""
    return any(_TOKENS.fullmatch(name) and name not in _NO_VOCABULARY for name in names)


def has_fast_tokenizer(files: Files) -> bool:
    """Is there a tokenizer.json, of any version, so that no slow tokenizer is converted?"""
    return any(match and match["fast"] for match in map(_TOKENS.fullmatch, files.tokens))
