"""What the tensors of a component say beside its weights: scales of fp8, marks of v-prediction.

Knows the names that ComfyUI and training programs give them; reads no tensor. What diffusers does not know by name it
drops without a word, and the pictures are wrong: so each mark is honoured by the loader, or refused here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.errors import LoadRefused
from pipelines.facts.headers import Stored

# A weight in fp8 and the numbers that it must be multiplied by: ComfyUI's two spellings, and that of DeepSeek, whose
# "inverse" is the factor as well. Input scales serve fp8 arithmetic alone.
_SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")
_FOUR_BITS = (".weight_scale_2", ".block_scale")  # beside weights of two numbers a byte
_MIN_BLOCK = 8
_BLOCK = 128  # numbers a side, where the last block of a row is a shorter one
_EXPONENTS = frozenset({"F8_E8M0", "U8"})  # powers of two, as the MX formats have them
_INTEGERS = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"})
# A mark among the tensors, and what the scheduler's configuration must then say.
_TRAINED_FOR = (("v_pred", "prediction_type", "v_prediction"), ("ztsnr", "rescale_betas_zero_snr", True))


@dataclass(frozen=True)
class Scale:
    """A weight that is stored in fp8, and the tensor that it is to be multiplied by: block by block, row by row or as a
    whole."""

    weight: str
    scale: str


def scales(tensors: Mapping[str, Stored], where: str) -> tuple[Scale, ...]:
    """The scaled weights of a component that is not quantised in the libraries' own ways.

    Raises LoadRefused for a scale that multiplying a whole weight, its rows or its blocks does not undo.
    """
    found = []
    for weight in (f"{name.rpartition('.')[0]}.weight" for name in tensors if name.endswith(_FOUR_BITS)):
        if weight in tensors and tensors[weight].dtype in _INTEGERS:
            raise LoadRefused(
                f"{where} has {weight} in NVFP4 (four bits), which is not served: take weights in fp8, fp16 or bf16, or"
                " a GGUF file"
            )
    for name, tensor in tensors.items():
        if name.endswith(".weight") and tensor.dtype in _INTEGERS:
            raise LoadRefused(
                f"{where} has {name} in {tensor.dtype}, and no quantization_config in its config.json:"
                " take weights in fp16 or bf16"
            )
        module, _, last = name.rpartition(".")
        if last not in _SCALES:
            continue
        weight = f"{module}.weight"
        stored = tensors.get(weight)
        if stored is not None and stored.is_float8 and tensor.dtype in _EXPONENTS:
            raise LoadRefused(
                f"{where} has {name} in {tensor.dtype}: {weight} is in MXFP8, which is not served: take weights in"
                " scaled fp8, fp16 or bf16"
            )
        if stored is None or not stored.is_float8 or not _fits(tensor, stored):
            raise LoadRefused(
                f"{where} has {name}, a scale that {weight} cannot be multiplied by here: take weights in fp16 or bf16"
            )
        found.append(Scale(weight, name))
    return tuple(found)


def _fits(scale: Stored, weight: Stored) -> bool:
    return scale.dtype in ("F32", "F16", "BF16") and blocks(scale.shape, weight.shape) is not None


def blocks(scale: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, ...] | None:
    """How many of a weight's numbers, along each of its axes, share one of a scale of this shape; None where it does
    not fit."""
    if math.prod(scale) == 1:
        return weight
    if scale in (weight[:1], (*weight[:1], *(1 for _ in weight[1:]))):
        return (1, *weight[1:])
    if len(weight) != 2 or scale[2:] not in ((), (1,)) or len(scale) < 2:
        return None
    rows, columns = _side(scale[0], weight[0], of_rows=True), _side(scale[1], weight[1], of_rows=False)
    return None if rows is None or columns is None else (rows, columns)


def _side(count: int, of: int, *, of_rows: bool) -> int | None:
    """The length of ``count`` blocks that cover a side; None where it cannot be told."""
    if count < 1 or of < count:
        return None
    length, rest = divmod(of, count)
    is_block = length >= _MIN_BLOCK and length.bit_count() == 1
    if rest == 0 and (count == 1 or is_block or (of_rows and length == 1)):
        return length
    return _BLOCK if math.ceil(of / _BLOCK) == count else None


def refuse_other_prediction(tensors: Collection[str], where: str, scheduler: Mapping[str, Any]) -> None:
    """Raise LoadRefused where a denoiser is marked as trained for what its scheduler does not do."""
    for mark, key, value in _TRAINED_FOR:
        if mark in tensors and scheduler.get(key) != value:
            raise LoadRefused(
                f"{where}/ has the mark {mark}, and scheduler/scheduler_config.json says otherwise:"
                f" set its {key} to {json.dumps(value)}"
            )
