"""models.yaml → Model entries: what each ID is called, where its weights lie, what it may be asked.

Knows the file's keys and their bounds, sizes, presets and aliases; knows neither HTTP nor torch. A typing
error stops here, naming file, line, key, value and what is allowed; a folder that is missing or broken does
not: it leaves its own model unavailable and the others serving.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.errors import LoadRefused
from pipelines.facts import folder as model_folder
from pipelines.facts import schedulers
from pipelines.facts.families import Family, FamilyTable
from pipelines.facts.presets import DrawingArea, Preset, overlay
from pipelines.plan import ModelPlan
from server.catalog import lines, loras
from server.catalog.loras import LoraEntry, LoraName
from server.catalog.shipped import shipped_models_file
from server.errors import BadRequest, ConfigError, ModelNotFound

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}", re.ASCII)
# What a quality is where models.yaml has no preset of its name; any other is then standard.
_QUALITY_FALLBACK = {"high": "hd", "xhigh": "high", "max": "xhigh"}

# Keys of an entry with a path alone: how weights are loaded, which they are once for all IDs that share them.
_OF_WEIGHTS = ("family", "dtype", "quantise", "offload", "compile", "fuse_qkv")

QUALITIES = ("standard", "hd", "low", "medium", "high", "xhigh", "max", "auto")


def parse_size(text: str) -> tuple[int, int]:
    """ "1024x1024" → (1024, 1024), in pixels. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("must look like 1024x1024")
    return int(match[1]), int(match[2])


def _check_size(text: str) -> str:
    parse_size(text)
    return text


def _check_scheduler(name: str) -> str:
    known = (*schedulers.DISCRETE, *schedulers.FLOW)
    if name not in known:
        raise ValueError(f"must be one of {', '.join(known)}")
    return name


Size = Annotated[str, AfterValidator(_check_size)]
SchedulerName = Annotated[str, AfterValidator(_check_scheduler)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PresetEntry(_Entry):
    steps: int | None = Field(None, ge=1, le=500)
    guidance: float | None = Field(None, ge=0, le=50)
    scheduler: SchedulerName | None = None
    prompt_suffix: str | None = None
    negative_prompt: str | None = None


class ModelEntry(_Entry):
    """One ID of models.yaml, as written. docs/models.md explains every key."""

    path: str | None = Field(None, description="model folder, relative to models.yaml")
    like: str | None = Field(None, description="another ID whose weights and keys this one takes over")
    hub: str | None = Field(None, description="the hub name that `darkroom models pull` fetches into path")
    aliases: list[str] = Field(default_factory=list, description="further names of this ID")
    owned_by: str = Field("darkroom", description="shown in /v1/models")
    family: str = Field("auto", description="auto reads it from the folder's model_index.json")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="of the weights")
    quantise: Literal["int8", "nf4", "float8"] | None = Field(
        None, description="smaller weights of the denoiser: int8 and nf4 need bitsandbytes, float8 needs torchao"
    )
    offload: bool = Field(False, description="CUDA: keep weights in host memory, bring layers over as they run")
    compile: bool = Field(False, description="CUDA: compile the denoiser at load (minutes), then faster steps")
    fuse_qkv: bool = Field(False, description="CUDA: one matrix product for query, key and value")
    keep: bool = Field(False, description="never make room for another model by unloading this one")
    preload: bool = Field(False, description="load at start, and be ready only then")
    native_size: Size | None = Field(None, description="what the weights draw best; default: the family's")
    multiple: int | None = Field(
        None, ge=1, le=256, description="drawn sides are divisible by this; default: the family's"
    )
    min_drawn_pixels: int | None = Field(
        None, ge=64, description="smaller ones are drawn near native_size and resampled; default: a quarter of it"
    )
    max_drawn_pixels: int | None = Field(
        None, ge=64, description="larger ones are drawn near native_size and resampled; default: 1.25 × native"
    )
    sizes: list[Size] | Literal["any"] = Field("any", description="sizes that a client may ask for")
    max_side: int = Field(2048, ge=16, le=8192, description="where sizes is any: longest side, pixels")
    default_size: Size = Field("1024x1024", description="when a client names none, or auto")
    default_response: Literal["url", "b64_json", "both"] = Field(
        "url", description="what answers carry where the request has no response_format"
    )
    max_prompt: int = Field(4000, ge=1, le=100_000, description="longest prompt, characters")
    max_steps: int = Field(150, ge=1, le=500, description="most steps a client may ask for")
    quality: dict[Literal["standard", "hd", "low", "medium", "high", "xhigh", "max", "auto"], PresetEntry] = Field(
        default_factory=dict, description="what each quality stands for"
    )
    style: dict[Literal["vivid", "natural"], PresetEntry] = Field(
        default_factory=dict, description="what each style adds"
    )
    loras: dict[LoraName, LoraEntry] = Field(
        default_factory=dict, description="adapters that a request may name, beside its prompt"
    )
    alpha_mask: bool = Field(
        False, description="repaint what is transparent in a single source that comes without a mask, as dall-e-2 does"
    )
    matting: Literal["flat-ground"] | None = Field(
        None, description="what cuts the object out where background is transparent"
    )
    matting_prompt: str = Field("", description="added to the prompt then: a ground that can be told from objects")

    @model_validator(mode="after")
    def _has_weights(self) -> ModelEntry:
        if (self.path is None) == (self.like is None):
            raise ValueError("needs either path (a model folder) or like (another ID)")
        if self.default_size and self.sizes != "any" and self.default_size not in self.sizes:
            raise ValueError("default_size is not one of sizes")
        if self.family != "auto" and self.family not in FamilyTable().by_name:
            raise ValueError(f"family must be auto or one of {', '.join(FamilyTable().by_name)}")
        return self


class ModelsFile(_Entry):
    """The whole file."""

    providers: list[str] = Field(default_factory=list, description="prefixes that are cut off an ID: openai/dall-e-3")
    default: str = Field(description="the ID for requests that name none")
    models: dict[str, ModelEntry] = Field(min_length=1)


@dataclass(frozen=True)
class Model:
    """One ID that clients may name, with everything decided."""

    id: str
    entry: ModelEntry  # keys of ``like`` already taken over
    plan: ModelPlan
    family: Family
    area: DrawingArea

    @property
    def sizes(self) -> str:
        """The allowed sizes, for a message."""
        if self.entry.sizes == "any":
            return f"auto, or WIDTHxHEIGHT with sides from 16 to {self.entry.max_side}"
        return ", ".join(["auto", *self.entry.sizes])

    def size(self, text: str) -> tuple[int, int]:
        """The pixels of a ``size`` other than auto. Raises BadRequest for one that the model does not make."""
        try:
            width, height = parse_size(text)
        except ValueError:
            width = height = 0
        if self.entry.sizes == "any":
            allowed = min(width, height) >= 16 and max(width, height) <= self.entry.max_side
        else:
            allowed = text in self.entry.sizes
        if not allowed:
            raise BadRequest(f"size is not one that {self.id} makes. Allowed: {self.sizes}.", param="size")
        return width, height

    def preset(self, quality: str, style: str) -> Preset:
        """Steps, guidance and the rest for a quality and a style; the family's figures where models.yaml has none."""
        entries = self.entry.quality
        named = quality
        while named not in entries and named in _QUALITY_FALLBACK:
            named = _QUALITY_FALLBACK[named]
        return overlay(
            Preset(steps=self.family.steps, guidance=self.family.guidance),
            _preset(entries.get("standard")),
            _preset(entries.get(named)),  # type: ignore[call-overload]
            _preset(self.entry.style.get(style)),  # type: ignore[call-overload]
        )

    @property
    def backgrounds(self) -> tuple[str, ...]:
        """What ``background`` may be."""
        return ("auto", "opaque") if self.entry.matting is None else ("auto", "opaque", "transparent")

    @property
    def scheduler_names(self) -> tuple[str, ...]:
        return self.family.scheduler_names

    @cached_property
    def weight_bytes(self) -> int | None:
        """Bytes of the weights on disk; None for a folder that cannot be served."""
        try:
            return model_folder.inspect(Path(self.plan.folder))
        except (LoadRefused, OSError):
            return None

    def problem(self) -> str | None:
        """Why the weights cannot be served, told from the folder alone; None if they look whole."""
        try:
            model_folder.inspect(Path(self.plan.folder))
        except LoadRefused as refusal:
            return str(refusal)
        except OSError as error:
            return f"the folder cannot be read: {error.strerror}"
        return None

    def lora_problems(self) -> dict[str, str]:
        """Which adapters cannot be used, told from their files alone, and why. The model serves without them."""
        found = {file.name: model_folder.adapter_problem(Path(file.path)) for file in self.plan.adapters}
        return {name: problem for name, problem in found.items() if problem is not None}


def _preset(entry: PresetEntry | None) -> Preset:
    return Preset() if entry is None else Preset(**entry.model_dump())


@dataclass(frozen=True)
class Catalog:
    """All models of one models.yaml, and how names resolve to them."""

    path: Path
    models: dict[str, Model]
    default: str
    providers: frozenset[str]
    names: dict[str, str] = field(default_factory=dict)  # alias or ID → ID

    def resolve(self, name: str) -> Model:
        """The model that an ID, an alias, or either behind provider prefixes, stands for. Raises ModelNotFound."""
        rest = name
        while rest not in self.names:
            prefix, slash, rest = rest.partition("/")
            if not slash or prefix not in self.providers:
                known = ", ".join(sorted(self.models))
                raise ModelNotFound(f"No such model. This server has: {known}.", param="model")
        return self.models[self.names[rest]]

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models.values())

    @property
    def plans(self) -> dict[str, ModelPlan]:
        """The distinct weights, by key."""
        return {model.plan.key: model.plan for model in self}


def find_models_file(setting: Path | None) -> Path:
    """The models.yaml to serve: the setting's, else this folder's, else the one that ships. Raises ConfigError."""
    if setting is not None:
        if not setting.is_file():
            raise ConfigError(f"{setting}: no such file (DARKROOM_MODELS, --models)")
        return setting.resolve()
    for candidate in (Path("models.yaml"), shipped_models_file()):
        if candidate is not None and candidate.is_file():
            return candidate.resolve()
    raise ConfigError("no models.yaml in this folder; name one with --models FILE")


def load_catalog(path: Path) -> Catalog:
    """Read and check a models.yaml. Raises ConfigError naming file, line, key, value and what is allowed."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise ConfigError(f"{path}: the file is empty")
        lines.refuse_duplicates(path, root)
        data = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    try:
        file = ModelsFile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(_explain(path, root, first["loc"], first["msg"], first.get("input"))) from None
    return _build(path, root, file)


def _build(path: Path, root: yaml.Node, file: ModelsFile) -> Catalog:
    def refuse(loc: tuple[str | int, ...], message: str, value: object) -> ConfigError:
        return ConfigError(_explain(path, root, loc, message, value))

    models: dict[str, Model] = {}
    names: dict[str, str] = {}
    for model_id, written in file.models.items():
        where = ("models", model_id)
        entry, key = written, model_id
        if written.like is not None:
            base = file.models.get(written.like)
            if base is None or base.path is None:
                owners = ", ".join(i for i, e in file.models.items() if e.path is not None)
                raise refuse((*where, "like"), f"must be an ID that has a path: {owners}", written.like)
            for name in _OF_WEIGHTS:
                if name in written.model_fields_set:
                    message = f"is {written.like}'s to say, as it loads these weights for all; write it there"
                    raise refuse((*where, name), message, getattr(written, name))
            entry, key = _inherit(base, written), written.like
        for name in (model_id, *entry.aliases):
            if not all(_ID.fullmatch(part) for part in name.split("/")):
                raise refuse(where, "a name has letters, digits and . _ : - only, and / between prefixes", name)
            if name in names:
                raise refuse(where, f"this name already stands for {names[name]}", name)
            names[name] = model_id
        try:
            models[model_id] = _decide(path, model_id, key, entry)
        except ValueError as error:
            raise refuse((*where, "loras"), str(error), None) from None
    _share_weights(models, refuse)
    if file.default not in names:
        raise refuse(("default",), f"must be one of {', '.join(models)}", file.default)
    # Hub clients write OWNER/ID for whatever a list of models shows them.
    prefixes = frozenset(file.providers) | {model.entry.owned_by for model in models.values()}
    return Catalog(path, models, names[file.default], prefixes, names)


def _share_weights(models: dict[str, Model], refuse: Callable[..., ConfigError]) -> None:
    """IDs that share weights have one plan: their owner's, with the adapters of all, kept if any of them says so."""
    for model_id, model in models.items():
        key = model.plan.key
        sharing = [other for other in models.values() if other.plan.key == key]
        try:
            adapters = loras.together(other.plan.adapters for other in sharing)
        except ValueError as error:
            raise refuse(("models", model_id, "loras"), str(error), None) from None
        keep = any(other.entry.keep for other in sharing)
        models[model_id] = replace(model, plan=msgspec.structs.replace(models[key].plan, keep=keep, adapters=adapters))


def _inherit(base: ModelEntry, written: ModelEntry) -> ModelEntry:
    """``written`` over ``base``: keys that the file does not set are the base's, names excepted."""
    kept = {name: getattr(base, name) for name in base.model_fields_set - {"aliases", "like", "hub", "preload"}}
    own = {name: getattr(written, name) for name in written.model_fields_set - {"like"}}
    return ModelEntry.model_construct(**{**kept, **own})


def _decide(path: Path, model_id: str, key: str, entry: ModelEntry) -> Model:
    """Raises ValueError for adapters where there cannot be any."""
    clash = loras.clash(compile=entry.compile, fuse_qkv=entry.fuse_qkv, quantise=entry.quantise)
    if entry.loras and clash is not None:
        raise ValueError(clash)
    weights = (path.parent / (entry.path or "")).resolve()
    families = FamilyTable()
    family = families.detect(weights) if entry.family == "auto" else families.by_name[entry.family]
    width, height = parse_size(entry.native_size) if entry.native_size else (family.native, family.native)
    area = DrawingArea(
        width,
        height,
        entry.multiple or family.multiple,
        min_pixels=entry.min_drawn_pixels or width * height // 4,
        max_pixels=entry.max_drawn_pixels or width * height * 5 // 4,
    )
    plan = ModelPlan(
        key,
        str(weights),
        family.name,
        dtype=entry.dtype,
        keep=entry.keep,
        native_width=width,
        native_height=height,
        quantise=entry.quantise,
        offload=entry.offload,
        compile=entry.compile,
        fuse_qkv=entry.fuse_qkv,
        adapters=loras.files(entry.loras, path.parent),
    )
    return Model(model_id, entry, plan, family, area)


def _explain(path: Path, root: yaml.Node, loc: tuple[str | int, ...], message: str, value: Any) -> str:
    node, key = lines.find(root, loc)
    shown = f" = {value!r}" if isinstance(value, str | int | float | bool) else ""
    where = ".".join(str(part) for part in loc[: len(key)]) or "the file"
    allowed = ""
    if message == "Field required":
        where, shown, message = ".".join(map(str, loc)), "", "this key is required"
    if message.startswith("Extra inputs"):
        shape: type[BaseModel] = ModelEntry if len(loc) > 2 else ModelsFile
        shape = PresetEntry if "quality" in loc or "style" in loc else LoraEntry if "loras" in loc else shape
        message = "no such key"
        allowed = f"; allowed: {', '.join(shape.model_fields)}"
    return f"{path}, line {node.start_mark.line + 1}: {where}{shown}: {message}{allowed}"
