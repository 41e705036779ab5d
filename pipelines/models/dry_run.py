"""A model loaded without its weights: what loading would refuse, told in seconds and with little memory.

Knows the classes, the names and shapes of tensors, and tokenizers; with ``read`` also every byte of the weights. Knows
no devices and draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from pipelines.errors import LoadRefused
from pipelines.facts import model_files
from pipelines.facts.component import Kind
from pipelines.facts.folder import Part
from pipelines.models import controls, inversion, library, single_file, tuning, verify
from pipelines.plan import ModelPlan

Progress = Callable[[int], None]  # bytes that were read since the last call

_CHUNK = 1 << 24  # numbers looked at at a time
_GGUF_CHUNK = 1 << 22  # bytes of blocks: some make three numbers of a byte, by way of several tensors
_BY_DESIGN = "mask"  # attention masks are stored with minus infinity in them


def problem(plan: ModelPlan, progress: Progress | None = None) -> str | None:
    """Why a plan whose files look whole cannot be served; None if it can. With ``progress``, every byte is read."""
    folder = Path(plan.folder)
    try:
        parts = model_files.parts(plan)
        verify.check_classes(folder, parts)
        empty = {part.component.name: _empty(part) for part in parts}
        verify.check_tokenizers(empty)
        inversion.check(plan, empty)
        _check_quantised(plan, parts, empty)
        nets = controls.parts(plan)
        for part in nets:
            controls.compare(part)
        if progress is not None:
            for part in (*parts, *nets):
                _read(part, progress)
    except LoadRefused as refusal:
        return str(refusal)
    except Exception as error:  # of the libraries, which raise all kinds
        return f"it could not be built: {type(error).__name__}: {str(error).replace(str(folder), folder.name)[:500]}"
    return None


def _check_quantised(plan: ModelPlan, parts: Iterable[Part], empty: Mapping[str, Any]) -> None:
    """Raise LoadRefused for parts that what models.yaml says of them cannot be done to."""
    wanted = tuning.quantisation(plan)
    for part in parts if wanted is not None else ():
        config = wanted.quant_mapping.get(part.component.name)
        module = empty[part.component.name]
        if config is None or part.is_quantised or not isinstance(module, torch.nn.Module):
            continue
        word = plan.quantise_encoders if part.component.name in tuning.ENCODERS else plan.quantise
        verify.compare_quantised(part, module, config, str(word))


def _empty(part: Part) -> Any:
    """A component without memory, or a tokenizer as it is; None for all others."""
    component = part.component
    if part.lends_vocabulary or part.vocabulary is not None:
        return single_file.tokenizer(part.folder, part.vocabulary)
    if component.kind is Kind.TOKENIZER:
        loaded = library.class_of(component.library, component.class_name)
        return None if loaded is None else loaded.from_pretrained(str(part.folder), local_files_only=True)
    return verify.compare(part)


@dataclass(frozen=True)
class _Tensor:
    """A tensor of a file, whose numbers are read as they are asked for."""

    file: Path
    name: str
    size: int  # bytes as stored
    is_float: bool
    chunks: Iterable[torch.Tensor]


def _read(part: Part, progress: Progress) -> None:
    """Raise LoadRefused for weights that are no numbers, or that are all zero."""
    floats = zeros = 0
    for tensor in _gguf_tensors(part) if part.source is not None and part.source.is_gguf else _tensors(part):
        finite = zero = True
        for chunk in tensor.chunks:
            finite = finite and bool(torch.isfinite(chunk).all())
            zero = not bool(chunk.any()) and zero  # looked at always, so that every byte is read
        progress(tensor.size)
        if not tensor.is_float:
            continue
        if not finite and _BY_DESIGN not in tensor.name.rpartition(".")[2]:
            where = f"{part.component.name}/{tensor.file.name}" if part.source is None else tensor.file.name
            raise LoadRefused(f"{where}: {tensor.name[:120]} has NaN or infinity in it; fetch the model again")
        floats, zeros = floats + 1, zeros + zero
    if floats and zeros == floats:
        effect = ", so that prompts would have no effect" if part.component.name.startswith("text_encoder") else ""
        raise LoadRefused(f"{part.where}: all of its weights are zero{effect}; fetch the model again")


def _tensors(part: Part) -> Iterator[_Tensor]:
    """The tensors of a part's files in safetensors, each in memory as long as it is looked at."""
    for path in part.weights:
        with safetensors.safe_open(str(path), framework="pt") as file:
            for name in file.keys() if part.source is None else part.source.names:
                tensor = file.get_tensor(name)
                yield _Tensor(path, name, tensor.nbytes, tensor.is_floating_point(), _chunks(tensor))


def _chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    for chunk in torch.split(tensor.reshape(-1), _CHUNK):
        yield chunk.float() if chunk.element_size() == 1 else chunk  # torch cannot look at eight bits


def _gguf_tensors(part: Part) -> Iterator[_Tensor]:
    """The same of a file in GGUF, whose blocks become the numbers that drawing makes of them."""
    import gguf  # of an extra

    assert part.source is not None
    for stored in gguf.GGUFReader(part.source.path).tensors:
        if stored.name in part.source.names:
            chunks = _gguf_chunks(stored.data.reshape(-1), stored.tensor_type)
            yield _Tensor(part.source.path, stored.name, stored.data.nbytes, True, chunks)


def _gguf_chunks(stored: Any, kind: Any) -> Iterator[torch.Tensor]:
    from diffusers.quantizers.gguf import utils  # needs gguf

    is_plain = kind not in utils.dequantize_functions  # F32 or F16
    whole = 1 if is_plain else utils.GGML_QUANT_SIZES[kind][1]  # bytes of a block
    step = _GGUF_CHUNK // whole * whole
    for start in range(0, len(stored), step):
        chunk = torch.from_numpy(stored[start : start + step].copy())  # the file is mapped to be read alone
        yield chunk if is_plain else utils.dequantize_gguf_tensor(utils.GGUFParameter(chunk, quant_type=kind))
