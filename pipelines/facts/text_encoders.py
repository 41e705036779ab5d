"""Text encoders in single files: what each is, told from its header, and which component of a model it is for.

Knows the names of CLIP (transformers' and OpenCLIP's), of T5 and of language models; reads no tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipelines.errors import LoadRefused
from pipelines.facts import checkpoint
from pipelines.facts.checkpoint import WeightFile
from pipelines.facts.component import Component
from pipelines.facts.headers import Stored

_OPEN_CLIP = "conditioner.embedders.1.model."  # what diffusers' converter wants to see before OpenCLIP's names
_PASSED_BY = re.compile(r"(vision_model|visual|visual_projection|decoder|lm_head|vision_tower)\.|logit_scale$")
_WORDS = re.compile(r"(^|\.)(spiece_model|tekken_model)$")  # of its tokenizer
_CLIP = ("text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight")
_OPEN = "token_embedding.weight"
_T5 = ("shared.weight", "encoder.embed_tokens.weight")
_T5_BLOCK = "encoder.block.0.layer.0.SelfAttention.q.weight"
_LANGUAGE = re.compile(r"(.*\.)?embed_tokens\.weight")
_CLIPS = {768: "CLIP-L", 1024: "CLIP-H", 1280: "CLIP-G"}
_EXAMPLES = {"CLIP-L": "clip_l.safetensors", "CLIP-G": "clip_g.safetensors", "T5": "t5xxl_fp16.safetensors"}


class Kind(StrEnum):
    """What a text encoder is, in words."""

    CLIP = "CLIP"
    T5 = "T5"
    LANGUAGE = "a language model"


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder in a file."""

    file: WeightFile
    kind: Kind
    width: int | None  # of its embeddings

    @property
    def name(self) -> str:
        """What it is called."""
        return _name(self.kind, self.width)


def read(path: Path) -> TextEncoder:
    """The text encoder of a file. Raises LoadRefused for a file that is none."""
    if path.suffix == ".gguf":
        raise LoadRefused(f"{path.name} is a GGUF file; text encoders come as .safetensors: fp8 is as small as Q8_0")
    tensors = checkpoint.read(path).tensors
    wrapped = next((match[0] for match in map(checkpoint.TEXTS.match, tensors) if match is not None), "")
    found = of(path, {name: name.removeprefix(wrapped) for name in tensors if name.startswith(wrapped)}, tensors)
    if found is None:
        raise LoadRefused(f"{path.name} is {checkpoint.kind_of(tensors)}, no text encoder")
    return found


def of(path: Path, names: Mapping[str, str], stored: Mapping[str, Stored]) -> TextEncoder | None:
    """The text encoder that has these names, in the file and as libraries know them; None where it is none."""
    by_name = {ours: stored[name] for name, ours in names.items()}
    kept = {name: ours for name, ours in names.items() if not _is_idle(ours)}
    table = next((by_name[name] for name in _CLIP if name in by_name), None)
    if table is not None:
        return TextEncoder(WeightFile(path, kept, stored), Kind.CLIP, _width(table))
    if _OPEN in by_name and any(name.startswith("transformer.resblocks.") for name in by_name):
        kept = {name: _OPEN_CLIP + ours for name, ours in kept.items()}
        return TextEncoder(WeightFile(path, kept, stored), Kind.CLIP, _width(by_name[_OPEN]))
    table = next((by_name[name] for name in _T5 if name in by_name), None)
    if table is not None and _T5_BLOCK in by_name:
        return TextEncoder(WeightFile(path, kept, stored), Kind.T5, _width(table))
    table = next((tensor for name, tensor in by_name.items() if _LANGUAGE.fullmatch(name)), None)
    return None if table is None else TextEncoder(WeightFile(path, kept, stored), Kind.LANGUAGE, _width(table))


def assign(
    encoders: Iterable[TextEncoder], components: Iterable[Component], folder: Path, *, passes_by: bool = False
) -> dict[str, WeightFile]:
    """The files by the components that they are for. Raises LoadRefused for one that the model has no place for, unless
    it is to be passed by."""
    wanted = {each.name: wants(each, folder) for each in components if is_one(each)}
    found: dict[str, WeightFile] = {}
    for encoder in encoders:
        place = next((name for name in wanted if name not in found and _fits(encoder, *wanted[name])), None)
        if place is None and passes_by:
            continue
        if place is None:
            asked = ", ".join(_name(*each) for each in wanted.values()) or "none"
            twice = any(_fits(encoder, *each) for each in wanted.values())
            why = "another has its place" if twice else f"this model takes {asked}"
            raise LoadRefused(f"{encoder.file.path.name} is {encoder.name}, and {why}: take it out of text_encoders")
        found[place] = encoder.file
    return found


def is_one(component: Component) -> bool:
    """Is a component a text encoder?"""
    return component.loads_weights and component.name.startswith("text_encoder")


def wants(component: Component, folder: Path) -> tuple[Kind, int | None]:
    """The kind and the width of the text encoder that a component is, by its class and its configuration."""
    config = _config(folder / component.name / "config.json")
    if component.class_name.startswith("CLIPText"):
        return Kind.CLIP, _integer(config.get("hidden_size"))
    if component.class_name.endswith("T5EncoderModel"):
        return Kind.T5, _integer(config.get("d_model"))
    return Kind.LANGUAGE, None


def described(component: Component, folder: Path) -> str:
    """What a component takes, with the name that its file has with most people."""
    name = _name(*wants(component, folder))
    return f"{name} ({_EXAMPLES[name]})" if name in _EXAMPLES else name


def _is_idle(name: str) -> bool:
    return any((_PASSED_BY.match(name), _WORDS.search(name), checkpoint.IDLE.search(name)))


def _fits(encoder: TextEncoder, kind: Kind, width: int | None) -> bool:
    return encoder.kind is kind and (width is None or encoder.width in (None, width))


def _name(kind: Kind, width: int | None) -> str:
    if kind is Kind.CLIP:
        return _CLIPS.get(width or 0, f"CLIP of width {width}")
    return kind if kind is Kind.LANGUAGE or width in (None, 4096) else f"{kind} of width {width}"


def _width(table: Stored) -> int | None:
    return table.shape[1] if len(table.shape) == 2 else None


def _integer(value: Any) -> int | None:
    return value if type(value) is int else None


def _config(path: Path) -> dict[str, Any]:
    """A configuration, or nothing of one that is wrong: the check of the folder says why."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
