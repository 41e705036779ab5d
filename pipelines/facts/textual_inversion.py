"""Embeddings (textual inversion): which vectors of a file belong to which text encoder, told from its header alone.

Knows the names that training programs give to vectors, and what encoders each family has; reads no tensor, imports no
torch. Whether a token is a word already, and whether vectors are as wide as an encoder's, is told where there are
tokenizers and encoders (pipelines/models/inversion.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import LoadRefused
from pipelines.facts import headers
from pipelines.facts.headers import Stored
from pipelines.plan import EmbeddingFile, ModelPlan

MAX_VECTORS = 75  # of a token: so many words of a prompt a CLIP encoder hears
_FLOATS = ("F64", "F32", "F16", "BF16")
_IDLE = ("string_to_token.*",)  # what old programs write beside the vectors
_PICKLES = (".pt", ".bin", ".ckpt", ".pth")


@dataclass(frozen=True)
class Slot:
    """A text encoder that takes vectors, and what files call them where they have some for several encoders."""

    encoder: str  # names of the pipeline's components
    tokenizer: str
    names: tuple[str, ...]
    optional: bool = False  # does a file serve without vectors for it?


@dataclass(frozen=True)
class Vectors:
    """The vectors of one file for one encoder."""

    slot: Slot
    name: str  # of the tensor in the file
    count: int
    width: int  # numbers of a vector


_CLIP_L = Slot("text_encoder", "tokenizer", ("clip_l",))
_CLIP_G = Slot("text_encoder_2", "tokenizer_2", ("clip_g",))
_T5 = ("t5xxl", "t5")
_NAMES = frozenset({"clip_l", "clip_g", *_T5})
# The families whose pipelines take embeddings (diffusers' TextualInversionLoaderMixin).
SLOTS: Mapping[str, tuple[Slot, ...]] = {
    "stable-diffusion": (_CLIP_L,),
    "stable-diffusion-inpainting": (_CLIP_L,),
    "lcm": (_CLIP_L,),
    "stable-diffusion-xl": (_CLIP_L, _CLIP_G),
    "stable-diffusion-xl-inpainting": (_CLIP_L, _CLIP_G),
    "stable-diffusion-xl-refiner": (_CLIP_G,),
    "flux": (_CLIP_L, Slot("text_encoder_2", "tokenizer_2", _T5, optional=True)),
    "flux-kontext": (_CLIP_L, Slot("text_encoder_2", "tokenizer_2", _T5, optional=True)),
    "chroma": (Slot("text_encoder", "tokenizer", _T5),),
}
# SDXL's refiner has the second of its two encoders, and is given the same files.
_SPARE = {"stable-diffusion-xl-refiner": frozenset({"clip_l"})}


def inspect(plan: ModelPlan) -> None:
    """Check the headers of a plan's embeddings. Raises LoadRefused, naming the token and the file."""
    for file in plan.embeddings:
        vectors(file, plan.family)


def vectors(file: EmbeddingFile, family: str) -> tuple[Vectors, ...]:
    """What a file has for each text encoder of a family's models. Raises LoadRefused where it does not fit them."""
    try:
        return _vectors(Path(file.path), family)
    except LoadRefused as refusal:
        raise LoadRefused(f"embeddings: {file.token}: {refusal}") from None


def clash(tokens: Iterable[str]) -> str | None:
    """Why tokens cannot be had together, in a sentence; None if they can.

    A token that stands for several vectors becomes ``token token_1 token_2`` by replacing its letters wherever they
    stand: another one that contains them would be torn apart. Tokenizers fold case.
    """
    words = sorted(tokens, key=len)
    for number, word in enumerate(words):
        for other in words[number + 1 :]:
            if word.lower() in other.lower():
                return f"{word} is a part of {other}: one would be read in the place of the other; rename one of them"
    return None


def _vectors(path: Path, family: str) -> tuple[Vectors, ...]:
    slots = SLOTS.get(family)
    if slots is None:
        raise LoadRefused(f"models of family {family} take none; those of {', '.join(SLOTS)} do")
    tensors = {name: tensor for name, tensor in _read(path).items() if name not in _IDLE}
    found = {slot: name for slot in slots for name in slot.names if name in tensors}
    other = sorted(tensors.keys() - found.values() - _SPARE.get(family, frozenset()))
    if len(tensors) == 1 and not found and other[0] not in _NAMES:
        needed = [slot for slot in slots if not slot.optional]
        if len(needed) > 1:
            raise LoadRefused(
                f"{path.name} has vectors for one text encoder, and {family} has two: take a file with"
                f" {' and '.join(slot.names[0] for slot in needed)}"
            )
        found, other = {needed[0]: other[0]}, []
    if other:
        is_known = other[0] in _NAMES
        raise LoadRefused(
            f"{path.name} has vectors for {other[0]}, an encoder that {family} has not: it was made for another kind"
            if is_known
            else f"{path.name} is no embedding: it has {other[0][:80]!r} and {len(tensors) - 1} tensors more"
        )
    lacking = [slot.names[0] for slot in slots if slot not in found and not slot.optional]
    if lacking:
        raise LoadRefused(f"{path.name} has no {' and no '.join(lacking)}, which {family} needs")
    return tuple(_measured(path, slot, name, tensors[name]) for slot, name in found.items())


def _measured(path: Path, slot: Slot, name: str, stored: Stored) -> Vectors:
    count, width = (1, *stored.shape)[-2:] if len(stored.shape) in (1, 2) else (0, 0)
    if stored.dtype not in _FLOATS or count * width == 0:
        shape = "x".join(map(str, stored.shape))
        raise LoadRefused(f"{path.name} is no embedding: {name[:80]} is {shape or 'one number'} in {stored.dtype}")
    if count > MAX_VECTORS:
        raise LoadRefused(f"{path.name} has {count} vectors; a prompt has room for {MAX_VECTORS}")
    return Vectors(slot, name, count, width)


def _read(path: Path) -> Mapping[str, Stored]:
    if path.suffix in _PICKLES:
        raise LoadRefused(
            f"{path.name} is a pickle, which can run code: save its vectors as a .safetensors file, where you trust it"
            " (docs/models.md shows how)"
        )
    if path.suffix != ".safetensors":
        raise LoadRefused(f"{path.name} is not a .safetensors file")
    if not path.is_file():
        raise LoadRefused(f"{path.name} {'is a link to nothing' if path.is_symlink() else 'does not exist'}")
    try:
        return headers.read(path).tensors
    except OSError as error:
        raise LoadRefused(f"{path.name} cannot be read: {error.strerror}") from error
