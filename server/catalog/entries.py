"""The keys of models.yaml: what may be written in it, and within which bounds.

Knows types, bounds and defaults; knows neither other entries nor model folders, which ``load`` reads.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pipelines.facts import schedulers
from pipelines.facts.families import FamilyTable
from pipelines.facts.presets import Quality, Style
from pipelines.facts.spacing import Spacing
from pipelines.facts.step_cache import strength as cache_strength
from server.catalog.controls import Controlnets
from server.catalog.embeddings import Embeddings
from server.catalog.loras import LoraEntry, LoraName
from server.catalog.upscalers import Upscalers

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}", re.ASCII)  # or a part of one, between slashes
MIN_SIDE = 16  # pixels, where sizes is any
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])", re.ASCII)
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)


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


def parse_duration(text: str) -> float:
    """ "10m" → 600.0, in seconds. Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("must look like 30s, 10m, 1h or 2d")
    return float(match[1]) * _SECONDS[match[2]]


def _check_duration(text: str) -> str:
    parse_duration(text)
    return text


def _word(value: object) -> object:
    """YAML reads off as false, and on as true."""
    return {False: "off", True: "on"}.get(value, value) if isinstance(value, bool) else value


Base = (
    Literal["sd15", "sd15-inpaint", "sd21", "sd21-inpaint", "sdxl", "sdxl-inpaint", "sdxl-refiner"]
    | Literal["flux-dev", "flux-schnell", "flux-kontext", "sd3-medium", "sd35-medium", "sd35-large"]
)
DeviceName = Annotated[str, Field(pattern=r"^((cpu|cuda)(:\d{1,3})?|mps|xpu|(GPU|MIG)-[0-9A-Za-z/-]{1,99})$")]
FilePath = Annotated[str, Field(min_length=1)]
Duration = Annotated[str, AfterValidator(_check_duration)]
Size = Annotated[str, AfterValidator(_check_size)]
SchedulerName = Annotated[str, AfterValidator(_check_scheduler)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PresetEntry(_Entry):
    """The parameters of one quality or one style, as written."""

    steps: int | None = Field(None, ge=1, le=500)
    guidance: float | None = Field(None, ge=0, le=50)
    scheduler: SchedulerName | None = None
    spacing: Spacing | None = None
    step_cache: Annotated[float, BeforeValidator(cache_strength)] | None = Field(None, ge=0, le=1)
    prompt_suffix: str | None = None
    negative_prompt: str | None = None


class ModelEntry(_Entry):
    """One ID of models.yaml, as written. docs/models.md explains every key."""

    path: str | None = Field(None, description="model folder, relative to models.yaml")
    checkpoint: str | None = Field(
        None,
        min_length=1,
        description="instead of path: one .safetensors file with all parts (SD 1, 2, 3, SDXL, FLUX.1)",
    )
    like: str | None = Field(None, description="another ID whose weights and keys this one takes over")
    base: Base | None = Field(
        None, description="of single files: whose configurations fit; default: told from the file"
    )
    config: str | None = Field(
        None, min_length=1, description="of single files: a folder of configurations and tokenizers in place of ours"
    )
    prediction: Literal["epsilon", "v"] | None = Field(
        None,
        description="of a checkpoint: what it predicts; default: told from the file, else the base's",
    )
    transformer: str | None = Field(
        None,
        min_length=1,
        description="a .safetensors or .gguf file: in the place of the weights of path's transformer, or without path,"
        " beside text_encoders and vae",
    )
    vae: str | None = Field(
        None, min_length=1, description="a .safetensors file for the VAE, in place of its own or of none"
    )
    text_encoders: list[FilePath] = Field(
        default_factory=list,
        max_length=4,
        description=".safetensors files (CLIP, T5, language models), in place of its own text encoders or of none",
    )
    tokenizer: str | None = Field(
        None,
        min_length=1,
        description="without path: T5's tokenizer.json or spiece.model, or the folder that has it",
    )
    hub: str | None = Field(None, description="the hub name that `darkroom models pull` fetches into path")
    aliases: list[str] = Field(default_factory=list, description="further names of this ID")
    owned_by: str = Field("darkroom", description="shown in /v1/models")
    family: str = Field("auto", description="auto reads it from the folder's model_index.json")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="of the weights")
    quantise: Literal["int8", "nf4", "float8"] | None = Field(
        None, description="smaller weights of the denoiser: int8 and nf4 need bitsandbytes, float8 needs torchao"
    )
    quantise_encoders: Literal["int8", "nf4", "float8"] | None = Field(
        None, description="smaller weights of the text encoders, by the same libraries; prompts lose some detail"
    )
    encoders: Literal["auto", "device", "host"] = Field(
        "auto",
        description="CUDA: where text encoders stay; host brings them over block by block as they run, auto does that"
        " where the model would not fit an empty device",
    )
    offload: bool = Field(False, description="CUDA: keep weights in host memory, bring layers over as they run")
    compile: bool = Field(False, description="CUDA: compile the denoiser at load (minutes), then faster steps")
    fuse_qkv: bool = Field(False, description="CUDA: one matrix product for query, key and value")
    cuda_graphs: Annotated[Literal["auto", "off"], BeforeValidator(_word)] = Field(
        "auto", description="CUDA: launch steps of few rows as one graph each, where that is faster and exact; or off"
    )
    devices: list[DeviceName] | None = Field(
        None, min_length=1, description="the server's devices that it may be on: [cuda:1], or [cuda] for all of a kind"
    )
    keep: bool = Field(False, description="never make room for another model by unloading this one")
    idle: Duration | None = Field(
        None, description="asked for by nobody so long, it leaves for host memory (CPU: the disk): 10m; default: idle_s"
    )
    idle_unload: Duration | None = Field(
        None, description="and after this for the disk: 1h; default: the server's idle_unload_s"
    )
    preload: bool = Field(False, description="load at start, and be ready only then")
    native_size: Size | None = Field(None, description="what the weights draw best; default: the family's")
    multiple: int | None = Field(
        None, ge=1, le=256, description="drawn sides are divisible by this; default: the family's"
    )
    edit_strength: float = Field(
        0.8,
        gt=0,
        le=1,
        description="how much of a picture an edit without a mask draws anew where the request does not say",
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
    default_response: Literal["url", "b64_json", "both"] | None = Field(
        None,
        description="what answers carry where the request has no response_format, on every route; default: b64_json"
        " under /v1 and both elsewhere for gpt-image and Gemini IDs, url for all others",
    )
    edit_size: Size | Literal["auto"] | None = Field(
        None,
        description="of an edit whose request names no size, on the edits routes; auto keeps the source's; default:"
        " auto under /v1 for gpt-image and Gemini IDs, default_size for all others",
    )
    max_prompt: int = Field(4000, ge=1, le=100_000, description="longest prompt, characters")
    max_steps: int = Field(
        150,
        ge=1,
        le=500,
        description="most steps of a request or preset; unwritten, presets may have more",
    )
    quality: dict[Quality, PresetEntry] = Field(default_factory=dict, description="what each quality stands for")
    style: dict[Style, PresetEntry] = Field(default_factory=dict, description="what each style adds")
    loras: dict[LoraName, LoraEntry] = Field(
        default_factory=dict, description="adapters that a request may name, beside its prompt"
    )
    lora_folder: str | None = Field(
        None,
        min_length=1,
        description="a folder whose .safetensors files requests may name by their stems, read while the server runs",
    )
    embeddings: Embeddings = Field(
        default_factory=dict,
        description="words that prompts may say, and the .safetensors file of each (textual inversion)",
    )
    controlnets: Controlnets = Field(
        default_factory=dict,
        description="ControlNets that a request may name, and the folder of each (Stable Diffusion 1.x, 2.x and XL)",
    )
    prompt_weights: bool = Field(
        False, description="read (word:1.3), (word) and [word] in prompts, and prompts of more than 75 tokens"
    )
    alpha_mask: bool = Field(
        False, description="repaint what is transparent in a single source that comes without a mask, as dall-e-2 does"
    )
    matting: Literal["flat-ground"] | None = Field(
        None, description="what cuts the object out where background is transparent"
    )
    upscaler: str | None = Field(
        None,
        min_length=1,
        description="what enlarges pictures that are drawn smaller than was asked: a name of upscalers, or one"
        " .safetensors file (RRDBNet, SRVGGNetCompact); lanczos, as without it: resampling",
    )
    matting_prompt: str = Field("", description="added to the prompt then: a ground that can be told from objects")

    @model_validator(mode="after")
    def _has_weights(self) -> ModelEntry:
        alone = None if self.path is not None else self.transformer
        named = [word for word in (self.path, self.checkpoint, self.like, alone) if word is not None]
        if self.checkpoint is not None and alone is not None:
            raise ValueError("transformer belongs to path, or stands without checkpoint: each has a transformer")
        if len(named) != 1:
            raise ValueError(
                "needs one of path (a model folder), checkpoint (one file), transformer (with text_encoders and vae) or"
                " like (another ID)"
            )
        for key in ("base", "config", "tokenizer"):
            if getattr(self, key) is not None and self.path is not None:
                raise ValueError(f"{key} belongs to checkpoint, or transformer without path: a folder says it itself")
            if getattr(self, key) is not None and self.like is not None:
                raise ValueError(f"{key} belongs to the entry with the weights")
        if self.prediction is not None and self.checkpoint is None:
            raise ValueError("prediction belongs to checkpoint: a folder says it itself")
        if self.base is not None and self.config is not None:
            raise ValueError("base and config exclude each other: each says which configurations to take")
        if self.hub is not None and self.path is None:
            raise ValueError("hub belongs to path: it is a folder that `darkroom models pull` fetches")
        if self.keep and (self.idle or self.idle_unload):
            raise ValueError("keep cannot be had with idle or idle_unload: a model that is kept never leaves")
        if self.family != "auto" and self.family not in FamilyTable().by_name:
            raise ValueError(f"family must be auto or one of {', '.join(FamilyTable().by_name)}")
        return self


class ModelsFile(_Entry):
    """The whole file."""

    providers: list[str] = Field(default_factory=list, description="prefixes that are cut off an ID: openai/dall-e-3")
    default: str = Field(description="the ID for requests that name none")
    checkpoints: str | None = Field(
        None,
        min_length=1,
        description="a folder whose single files are models too, by their stems, read while the server runs",
    )
    upscalers: Upscalers = Field(
        default_factory=dict,
        description="super-resolution networks that requests and models may name, and the .safetensors file of each;"
        " the first is the one of requests that name none",
    )
    models: dict[str, ModelEntry] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_models(self) -> ModelsFile:
        if not self.models and self.checkpoints is None:
            raise ValueError("needs models, or checkpoints (a folder of single files)")
        return self
