"""What a single file of weights is, told from its header alone: a checkpoint in the original layout, or what else.

Knows the names that training programs and ComfyUI give to tensors; reads no tensor, imports no torch. A checkpoint's
parts are told from the prefixes of their names, its base (which of our configurations fits) from a few shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipelines.errors import LoadRefused
from pipelines.facts import gguf, headers, transformer_bases
from pipelines.facts.headers import Header, Stored
from pipelines.facts.textual_inversion import MAX_VECTORS

ARCHITECTURES = Path(__file__).parent / "architectures"  # configurations, a folder for each base
BASES = ("sd15", "sd15-inpaint", "sd21", "sd21-inpaint", "sdxl", "sdxl-inpaint", "sdxl-refiner")
TRANSFORMER_BASES = transformer_bases.BASES
PREDICTIONS = ("epsilon", "v")
SUFFIXES = (".safetensors", ".gguf")
TEXTS = re.compile(r"text_encoders\.\w+\.transformer\.")  # before the names of each encoder, of all parts in one file
# Marks beside weights that nobody asks for, once their scales are heeded.
IDLE = re.compile(r"(^|\.)(scaled_fp8|scale_input|input_scale|comfy_quant)$")

_UNET = "model.diffusion_model."
_VAE = "first_stage_model."
_VAES = (_VAE, "vae.")
_SD1_TEXT, _SD2_TEXT = "cond_stage_model.transformer.", "cond_stage_model.model."
_XL_TEXT, _XL_TEXT_2, _REFINER_TEXT = (
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.1.model.",
    "conditioner.embedders.0.model.",
)
_FLAT = f"{_SD1_TEXT}embeddings.", f"{_SD1_TEXT}encoder.", f"{_SD1_TEXT}final_layer_norm."  # of old programs
_WRAPPED = (_UNET, "diffusion_model.", "transformer.")  # what programs put before a transformer's names
_LORA = re.compile(
    r"\.(lora_(down|up|A|B)(\.\w+)?\.weight|hada_w[12]_[ab]|lokr_w[12](_[ab])?|oft_blocks|dora_scale)$"
    r"|([._]lora|\.lora_linear_layer)\.(down|up)\.weight$"  # as diffusers wrote them before peft
)
_EMBEDDING = frozenset({"emb_params", "clip_l", "clip_g", "string_to_param.*", "t5xxl", "t5"})
_CONTROLNET = re.compile(r"(^|\.)(control_model|controlnet_\w+|input_hint_block|zero_convs|control_add_embedding)\.")
_UNET_ALONE = re.compile(r"(input_blocks\.\d+|down_blocks\.\d+\.resnets)\.")
_TRANSFORMER = re.compile(
    r"(double_blocks|single_blocks|joint_blocks|double_layers|transformer_blocks|single_transformer_blocks"
    r"|noise_refiner|distilled_guidance_layer)\."
)
_BLOCKS = re.compile(r"blocks\.\d+\.(attn|cross_attn|self_attn)\.")  # Sana's, PixArt's
_VAE_ALONE = re.compile(rf"({re.escape(_VAE)}|vae\.)?(encoder|decoder)\.conv_in\.weight")
_TEXT_ALONE = re.compile(r"(.*\.)?(text_model\.encoder\.layers|encoder\.block|language_model|model\.layers)\.\d+\.")
_UPSCALER = re.compile(r"(conv_first|body\.0|body\.0\.rdb1\.conv1|model\.1\.sub\.0\.RDB1\.conv1\.0)\.weight")
_WIDTHS = {768: "sd15", 1024: "sd21", 2048: "sdxl", 1280: "sdxl-refiner"}  # of the text that a UNet attends to
_INPAINTS = frozenset({"sd15", "sd21", "sdxl"})
_OTHER_INPUTS = {5: "depth", 8: "instructions (pix2pix)", 7: "upscaling"}
_EDM = frozenset({"edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min"})


class Kind(StrEnum):
    """What a file is, in words."""

    CHECKPOINT = "a checkpoint"
    ALL_IN_ONE = "a checkpoint of FLUX, SD 3 or another transformer"
    TRANSFORMER = "a transformer alone"
    UNET = "a UNet alone"
    VAE = "a VAE alone"
    TEXT_ENCODER = "a text encoder alone"
    LORA = "a LoRA"
    EMBEDDING = "an embedding (textual inversion)"
    CONTROLNET = "a ControlNet"
    UPSCALER = "an upscaler"
    UNKNOWN = "no kind of model that is known here"


_INSTEAD = {
    Kind.ALL_IN_ONE: "none of our configurations fits it. Name a folder that has them under config, or have its"
    " diffusers folder under path, and name it under transformer there: that is taken from it",
    Kind.TRANSFORMER: "name it under transformer, with text_encoders and vae beside it, or over its diffusers folder"
    " under path",
    Kind.UNET: "a text encoder and a VAE are missing: take a complete checkpoint",
    Kind.VAE: "name it under vae, beside path or checkpoint",
    Kind.TEXT_ENCODER: "name it under text_encoders, beside transformer, path or checkpoint",
    Kind.LORA: "list it under loras of the model that it was made for",
    Kind.EMBEDDING: "list it under embeddings of the model that it was made for",
    Kind.CONTROLNET: "have it as a folder in diffusers' layout, and name that under controlnets of the model that it"
    " steers",
    Kind.UPSCALER: "name it under upscalers, or under upscaler of a model",
    Kind.UNKNOWN: "take a checkpoint in the original layout, or a diffusers folder",
}


@dataclass(frozen=True)
class WeightFile:
    """A file that has the weights of a component, under names of its own."""

    path: Path
    names: Mapping[str, str]  # in the file → as diffusers' converters know them
    stored: Mapping[str, Stored]  # by the names in the file, of all that it has

    @property
    def is_gguf(self) -> bool:
        """Is it in llama.cpp's format?"""
        return self.path.suffix == ".gguf"

    def tensors(self) -> dict[str, Stored]:
        """What it has for the component, by the names that the converters know."""
        return {ours: self.stored[name] for name, ours in self.names.items()}


@dataclass(frozen=True)
class Told:
    """What a file's header tells."""

    path: Path
    kind: Kind
    base: str | None  # of BASES or TRANSFORMER_BASES
    parts: Mapping[str, WeightFile]  # by the component's name
    texts: tuple[WeightFile, ...]  # text encoders of a transformer's checkpoint, which have no names of components
    dtypes: Mapping[str, tuple[str, ...]]  # of each part's tensors, as stored
    prediction: str | None  # of PREDICTIONS; None: it does not say
    is_marked: bool  # a tensor says it, rather than the writer's remarks
    zero_snr: bool  # trained up to pure noise
    problem: str | None  # why it cannot be served as a checkpoint


def read(path: Path) -> Header:
    """The header of a file of weights. Raises LoadRefused for one that is no such file, naming it."""
    if path.suffix not in SUFFIXES:
        raise LoadRefused(f"{path.name} is not a .safetensors file; .ckpt, .pt, .pth and .bin files are not loaded")
    if path.is_dir():
        raise LoadRefused(f"{path.name} is a folder, not a file")
    if not path.is_file():
        raise LoadRefused(f"{path.name} {'is a link to nothing' if path.is_symlink() else 'does not exist'}")
    return gguf.read(path) if path.suffix == ".gguf" else headers.read(path)


def tell(path: Path) -> Told:
    """What a file is. Raises LoadRefused for one that is damaged or no file of weights at all."""
    header = read(path)
    tensors = header.tensors
    kind = kind_of(tensors)
    is_transformer = kind in (Kind.ALL_IN_ONE, Kind.TRANSFORMER)
    found = _parts_of_transformer(tensors) if is_transformer else _parts(tensors)
    parts = {name: WeightFile(path, names, tensors) for name, names in found.items()}
    texts = tuple(WeightFile(path, _names(tensors, each, keep_prefix=False), tensors) for each in _texts(tensors))
    told = {**parts, **{f"text encoder {number}": each for number, each in enumerate(texts, 1)}}
    dtypes = {name: tuple(sorted({tensors[each].dtype for each in part.names})) for name, part in told.items()}
    marked = "v_pred" in tensors
    remark = header.metadata.get("modelspec.prediction_type", "")
    prediction = "v" if marked else {"v": "v", "epsilon": "epsilon"}.get(remark)
    base: str | None = None
    problem: str | None = f"is {kind}: {_INSTEAD.get(kind)}"
    if kind is Kind.CHECKPOINT:
        base, problem = _base(tensors)
    elif is_transformer:
        base, why = transformer_bases.tell(parts["transformer"].tensors())
        if why is not None:
            problem = f"is {kind}: {why}"
        elif base is not None and kind is Kind.ALL_IN_ONE:
            problem = None
    problem = None if problem is None else f"{path.name} {problem}"
    return Told(path, kind, base, parts, texts, dtypes, prediction, marked, "ztsnr" in tensors, problem)


def checkpoint(path: Path, *, has_config: bool = False) -> Told:
    """What a checkpoint's header tells. Raises LoadRefused for a file that cannot be served as one: with the
    configurations that its owner names (``has_config``), one of any transformer can."""
    if path.suffix == ".gguf":
        raise LoadRefused(f"{path.name} has a transformer alone, as all GGUF files: {_INSTEAD[Kind.TRANSFORMER]}")
    told = tell(path)
    if told.problem is not None and not (has_config and told.kind is Kind.ALL_IN_ONE):
        raise LoadRefused(told.problem)
    return told


def transformer(path: Path) -> WeightFile:
    """The transformer of a file. Raises LoadRefused for a file that has none."""
    tensors = read(path).tensors
    kind = kind_of(tensors)
    wrapped = _wrapped(tensors)
    is_unet = any(_UNET_ALONE.match(name.removeprefix(wrapped)) for name in tensors)
    if is_unet or kind not in (Kind.TRANSFORMER, Kind.ALL_IN_ONE, Kind.UNKNOWN):
        raise LoadRefused(f"{path.name} is {kind}, no transformer")
    return WeightFile(path, _names(tensors, wrapped, keep_prefix=False), tensors)


def vae(path: Path) -> WeightFile:
    """The VAE of a file. Raises LoadRefused for a file that is none."""
    if path.suffix == ".gguf":
        raise LoadRefused(f"{path.name} is a GGUF file; a VAE comes as .safetensors")
    tensors = read(path).tensors
    kind = kind_of(tensors)
    if kind is not Kind.VAE:
        raise LoadRefused(f"{path.name} is {kind}, no VAE")
    return WeightFile(path, _names(tensors, "", keep_prefix=False), tensors)


def kind_of(tensors: Mapping[str, Stored]) -> Kind:
    """What a file with these tensors is."""
    names = tensors.keys()
    if _any(_CONTROLNET, names):
        return Kind.CONTROLNET
    if _any(_LORA, names):
        return Kind.LORA
    if any(name.startswith(_UNET) for name in names):
        others = (*_VAES, "cond_stage_model.", "conditioner.", "text_encoders.")
        beside = any(name.startswith(others) for name in names)
        if _any(re.compile(re.escape(_UNET) + "input_blocks"), names):
            return Kind.CHECKPOINT if beside else Kind.UNET
        return Kind.ALL_IN_ONE if beside else Kind.TRANSFORMER
    if len(tensors) <= len(_EMBEDDING) and names & _EMBEDDING:
        return Kind.EMBEDDING
    for kind, pattern in (
        (Kind.UPSCALER, _UPSCALER),
        (Kind.TRANSFORMER, _TRANSFORMER),
        (Kind.UNET, _UNET_ALONE),
        (Kind.VAE, _VAE_ALONE),
        (Kind.TRANSFORMER, _BLOCKS),
        (Kind.TEXT_ENCODER, _TEXT_ALONE),
    ):
        if any(pattern.match(_unwrapped(name)) for name in names):
            return kind
    return Kind.EMBEDDING if _is_named_vectors(tensors) else Kind.UNKNOWN


def _is_named_vectors(tensors: Mapping[str, Stored]) -> bool:
    """Is it an embedding as diffusers writes one: some vectors, by the word that they stand for?"""
    shapes = [stored.shape for stored in tensors.values()]
    return len(shapes) == 1 and len(shapes[0]) in (1, 2) and math.prod(shapes[0][:-1]) <= MAX_VECTORS < shapes[0][-1]


def _any(pattern: re.Pattern[str], names: Iterable[str]) -> bool:
    return any(pattern.search(name) for name in names)


def _unwrapped(name: str) -> str:
    prefix = next((prefix for prefix in _WRAPPED if name.startswith(prefix)), "")
    return name.removeprefix(prefix)


def _parts(tensors: Mapping[str, Stored]) -> dict[str, dict[str, str]]:
    """The names of each part of a checkpoint; none for parts that it lacks."""
    is_refiner = any(name.startswith(_REFINER_TEXT) for name in tensors)
    texts = {
        "text_encoder": _XL_TEXT if any(name.startswith(_XL_TEXT) for name in tensors) else "cond_stage_model.",
        "text_encoder_2": _REFINER_TEXT if is_refiner else _XL_TEXT_2,
    }
    prefixes = {"unet": _UNET, "vae": _VAE, **texts}
    found = {part: _names(tensors, prefix, keep_prefix=True) for part, prefix in prefixes.items()}
    return {part: names for part, names in found.items() if names}


def _parts_of_transformer(tensors: Mapping[str, Stored]) -> dict[str, dict[str, str]]:
    """The names of a transformer's checkpoint, or of a transformer alone, as the converters know them."""
    wrapped = _wrapped(tensors)
    of_vae = next((prefix for prefix in _VAES if any(name.startswith(prefix) for name in tensors)), None)
    found = {"transformer": _names(tensors, wrapped, keep_prefix=False)}
    return found if of_vae is None else {**found, "vae": _names(tensors, of_vae, keep_prefix=False)}


def _texts(tensors: Mapping[str, Stored]) -> list[str]:
    """The beginnings of the names of text encoders, of each in a transformer's checkpoint."""
    return sorted({match[0] for match in map(TEXTS.match, tensors) if match is not None})


def _wrapped(tensors: Mapping[str, Stored]) -> str:
    """What stands before a transformer's names."""
    return next((prefix for prefix in _WRAPPED if any(name.startswith(prefix) for name in tensors)), "")


def _names(tensors: Mapping[str, Stored], prefix: str, *, keep_prefix: bool) -> dict[str, str]:
    """The names that begin so, and what the converters call them."""
    names = [name for name in tensors if name.startswith(prefix) and not IDLE.search(name)]
    if not keep_prefix:
        return {name: name.removeprefix(prefix) for name in names}
    return {
        name: name.replace(_SD1_TEXT, f"{_SD1_TEXT}text_model.", 1) if name.startswith(_FLAT) else name
        for name in names
    }


def _base(tensors: Mapping[str, Stored]) -> tuple[str | None, str | None]:
    """Which of our configurations a checkpoint fits, if any; why it cannot be served at all."""
    marked = sorted(_EDM & tensors.keys())
    if marked:
        return None, f"has the mark {marked[0]}: it is made for EDM schedulers, which are not served"
    first = tensors.get(f"{_UNET}input_blocks.0.0.weight")
    channels = first.shape[1] if first is not None and len(first.shape) > 1 else None
    if channels in _OTHER_INPUTS:
        return None, f"is a checkpoint for {_OTHER_INPUTS[channels]}, which is not served"
    keys = (stored for name, stored in tensors.items() if name.startswith(_UNET) and name.endswith("attn2.to_k.weight"))
    width = next((stored.shape[1] for stored in keys if len(stored.shape) == 2), None)
    base = _WIDTHS.get(width or 0)
    if base is None or channels not in (4, 9):
        return None, None
    if channels == 4:
        return base, None
    return (f"{base}-inpaint", None) if base in _INPAINTS else (None, None)
