"""What the tensors of a component say beside its weights: scales of fp8, marks of v-prediction.

Knows the names that ComfyUI and training programs give them; reads no tensor. What diffusers does not know by name it
drops without a word, and the pictures are wrong: so each mark is honoured by the loader, or refused here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.errors import LoadRefused
from pipelines.facts.headers import Stored

# ComfyUI's: a weight in fp8 and the number that it must be multiplied by. Input scales serve fp8 arithmetic alone.
_SCALES = ("scale_weight", "weight_scale")
_INTEGERS = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"})
# A mark among the tensors, and what the scheduler's configuration must then say.
_TRAINED_FOR = (("v_pred", "prediction_type", "v_prediction"), ("ztsnr", "rescale_betas_zero_snr", True))


@dataclass(frozen=True)
class Scale:
    """A weight that is stored in fp8, and the tensor that it is to be multiplied by."""

    weight: str
    scale: str


def scales(tensors: Mapping[str, Stored], where: str) -> tuple[Scale, ...]:
    """The scaled weights of a component that is not quantised in the libraries' own ways.

    Raises LoadRefused for a scale that multiplying a whole weight, or its rows, does not undo.
    """
    found = []
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
        if stored is None or not stored.is_float8 or not _fits(tensor, stored):
            raise LoadRefused(
                f"{where} has {name}, a scale that {weight} cannot be multiplied by here: take weights in fp16 or bf16"
            )
        found.append(Scale(weight, name))
    return tuple(found)


def _fits(scale: Stored, weight: Stored) -> bool:
    """Is it one number, or one for each row?"""
    rows = weight.shape[:1]
    by_row = scale.shape in (rows, (*rows, *(1 for _ in weight.shape[1:])))
    return scale.dtype in ("F32", "F16", "BF16") and (scale.elements == 1 or by_row)


def refuse_other_prediction(tensors: Collection[str], where: str, scheduler: Mapping[str, Any]) -> None:
    """Raise LoadRefused where a denoiser is marked as trained for what its scheduler does not do."""
    for mark, key, value in _TRAINED_FOR:
        if mark in tensors and scheduler.get(key) != value:
            raise LoadRefused(
                f"{where}/ has the mark {mark}, and scheduler/scheduler_config.json says otherwise:"
                f" set its {key} to {json.dumps(value)}"
            )
