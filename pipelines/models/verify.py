"""Is what a folder holds what its configurations say? Told without weights, and again once they are loaded.

Knows how diffusers and transformers name tensors, and that they draw on without what is missing: a text encoder gets
random numbers in its place, a tokenizer a vocabulary of two words. Knows neither devices nor runs. Components are built
on torch's meta device, where tensors have shapes and no memory, by the code that loads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import safetensors
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.quantizers.auto import DiffusersAutoQuantizer
from transformers.quantizers.auto import AutoHfQuantizer

from pipelines.errors import LoadRefused
from pipelines.facts.component import INDEX
from pipelines.facts.folder import Part
from pipelines.facts.headers import Stored
from pipelines.facts.quantised import Plain, plain
from pipelines.models import library, single_file
from pipelines.models.library import is_a
from pipelines.models.scales import multiplied

_MAX_NAMED = 3  # tensors, of those that are wrong
_TEXTS = ("a red apple, ein Haus, 猫", "two dogs on a beach, ein Baum, 犬")  # each tokenizer knows some of them
_MAX_LENGTH = 1_000_000  # tokens; transformers' own figure, where a configuration names none, is 10^30
# Of transformers' models, what no pipeline that makes pictures asks for: many folders do without.
_UNUSED = re.compile(r"(^|\.)(lm_head|pooler)\.")
# Buffers that a class cannot compute: it would start them at 0 and 1, and normalise with those.
_MEASURED = (".running_mean", ".running_var")


def check_classes(folder: Path, parts: Iterable[Part]) -> None:
    """Compare the classes that a folder names with what they are. Raises LoadRefused, AttributeError for none at all.

    The check of the folder tells kinds from names: here a pipeline inside a pipeline, which would load files that
    nobody has judged, or a model that calls itself a tokenizer, cannot pass for what they are not.
    """
    named = json.loads((folder / INDEX).read_text(encoding="utf-8"))["_class_name"]
    pipeline = getattr(diffusers, named)
    if not is_a(pipeline, DiffusionPipeline) or pipeline._load_connected_pipes:
        raise LoadRefused(f"{named} is not a pipeline that can be served")
    for each in (part.component for part in parts):
        named_class = library.class_of(each.library, each.class_name)  # None: an old name that diffusers still knows
        if is_a(named_class, DiffusionPipeline) or (is_a(named_class, torch.nn.Module) and not each.loads_weights):
            raise LoadRefused(f"{each.name}: {each.class_name} is not the class of a component")


def compare(part: Part) -> torch.nn.Module | None:
    """Compare the tensors of a component's files with those that its class has, by name and shape; of weights that a
    library has quantised already, by name, and by shape as far as they are stored as they were.

    Returns the component without memory, or None for classes that load in ways of their own. Raises LoadRefused naming
    tensors that are missing, or of another shape.
    """
    loaded = library.class_of(part.component.library, part.component.class_name)
    if not part.component.loads_weights:
        return None
    if is_a(loaded, diffusers.ModelMixin) and _loads_as(loaded, diffusers.ModelMixin):
        return _compare_diffusers(loaded, part)
    if is_a(loaded, transformers.PreTrainedModel) and _loads_as(loaded, transformers.PreTrainedModel):
        return _compare_transformers(loaded, part)
    return None


def compare_quantised(part: Part, module: torch.nn.Module, config: Any, word: str) -> None:
    """Have a library replace the layers of a component without memory by its quantised ones, as loading does, and
    compare the names again. Raises LoadRefused where it cannot, or names are lost."""
    before = set(module.state_dict())
    of_diffusers = isinstance(module, diffusers.ModelMixin)
    maker: Any = DiffusersAutoQuantizer if of_diffusers else AutoHfQuantizer
    try:
        quantiser = maker.from_config(config, pre_quantized=False)
        quantiser.preprocess_model(model=module, device_map=None, keep_in_fp32_modules=[])
    except Exception as error:  # the libraries raise all kinds
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise LoadRefused(f"quantise: {word} cannot be had for {part.where}: {said}") from error
    missing = before - set(module.state_dict())
    if missing:
        raise LoadRefused(f"quantise: {word} cannot be had for {part.where}: its library has no {_some(missing)} then")


def _stored(part: Part) -> tuple[dict[str, Any], frozenset[str]]:
    """A part's tensors without memory, and the names of those whose shape says nothing."""
    tensors = part.tensors()
    found = plain(tensors) if part.is_quantised and part.source is None else Plain(tensors, frozenset())
    return {name: _empty(tensor) for name, tensor in found.tensors.items()}, found.packed


def _compare_diffusers(loaded: Any, part: Part) -> torch.nn.Module:
    model, config = library.empty_model(loaded, part.folder)
    stored, packed = _stored(part)
    expected: dict[str, torch.Tensor] = model.state_dict()
    if part.source is not None:
        stored = single_file.convert(part, loaded, stored, expected, config)
    if part.files.index is None:
        model._fix_state_dict_keys_on_load(stored)  # old names; the library does not mend those of shards
    parameters = {name for name, _ in model.named_parameters()}
    needed = {name for name in expected if name in parameters or name.endswith(_MEASURED)}
    _refuse_missing(part, needed - stored.keys(), len(expected), stored.keys() - expected.keys())
    shapes = {
        name: (tuple(stored[name].shape), tuple(expected[name].shape))
        for name in stored.keys() & expected.keys() - packed
    }
    _refuse_shapes(part, {name: pair for name, pair in shapes.items() if pair[0] != pair[1]})
    module: torch.nn.Module = model
    return module


def _compare_transformers(loaded: Any, part: Part) -> torch.nn.Module:
    config = loaded.config_class.from_pretrained(str(part.folder), local_files_only=True)
    stored, packed = _stored(part)
    if part.source is not None:
        stored = single_file.convert(part, loaded, stored, {}, config)
    elif hasattr(config, "quantization_config"):
        del config.quantization_config  # the names are those of the class as it is
    # The library itself tells the names: it renames, ties and leaves out tensors by rules of each class.
    model, info = loaded.from_pretrained(
        None,
        config=config,
        state_dict=stored,
        dtype=torch.float32,
        device_map={"": "meta"},
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        local_files_only=True,
    )
    missing = {name for name in info["missing_keys"] if not _UNUSED.search(name)}
    _refuse_missing(part, missing, len(model.state_dict()), info["unexpected_keys"])
    mismatched = {name: (tuple(had), tuple(wanted)) for name, had, wanted in info["mismatched_keys"]}
    _refuse_shapes(part, {name: pair for name, pair in mismatched.items() if _name_of(name, packed) not in packed})
    module: torch.nn.Module = model
    return module


def _empty(tensor: Stored) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=torch.float32, device="meta")


def _refuse_missing(part: Part, missing: Collection[str], of: int, unexpected: Collection[str]) -> None:
    if missing:
        instead = f"; its files have {_some(unexpected)}, which it does not know" if unexpected else ""
        raise LoadRefused(
            f"{part.where} lacks {len(missing)} of the {of} tensors of its {part.component.class_name}:"
            f" {_some(missing)}{instead}"
        )


def _refuse_shapes(part: Part, wrong: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    for name in sorted(wrong):
        had, wanted = ("x".join(map(str, shape)) for shape in wrong[name])
        raise LoadRefused(
            f"{part.where} does not fit its config.json: {name} is {had} in its files, and {wanted} by that"
            f" ({len(wrong)} of its tensors differ)"
        )


def _some(names: Collection[str]) -> str:
    first = sorted(names)[:_MAX_NAMED]
    more = len(names) - len(first)
    return ", ".join(name[:120] for name in first) + (f" and {more} more" if more else "")


def check_tokenizers(components: Mapping[str, Any]) -> None:
    """Raise LoadRefused for a tokenizer that tells no two texts apart, or that does not fit its text encoder."""
    for name, component in components.items():
        tokenizer = getattr(component, "tokenizer", component)  # a processor has one
        if isinstance(tokenizer, transformers.PreTrainedTokenizerBase):
            encoder = components.get(name.replace("tokenizer", "text_encoder", 1))
            _check_tokenizer(name, tokenizer, encoder)


def _check_tokenizer(name: str, tokenizer: Any, encoder: Any) -> None:
    if isinstance(tokenizer, transformers.CLIPTokenizer) and tokenizer.model_max_length > _MAX_LENGTH:
        raise LoadRefused(f"{name}/tokenizer_config.json is missing, or has no model_max_length (CLIP's is 77)")
    try:
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in _TEXTS]
    except Exception as error:  # the tokenizers library raises nothing more special
        raise LoadRefused(f"{name}/ cannot read a text: {str(error)[:200]}; fetch its files again") from error
    if ids[0] == ids[1] or not set(ids[0]) - set(tokenizer.all_special_ids):
        raise LoadRefused(
            f"{name}/ knows no words, so that prompts would have no effect: its vocabulary ({len(tokenizer)} tokens)"
            " is missing or another model's; fetch its files again"
        )
    embeddings = _embeddings(encoder)
    if embeddings is not None and max(*ids[0], *ids[1]) >= embeddings:
        raise LoadRefused(f"{name}/ has more tokens ({len(tokenizer)}) than its text encoder knows ({embeddings})")


def _embeddings(encoder: Any) -> int | None:
    """How many tokens an encoder knows; None where it does not say."""
    if not isinstance(encoder, transformers.PreTrainedModel):
        return None
    try:
        found = getattr(encoder.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:
        return None
    return found if isinstance(found, int) else None


def refuse_unloaded(components: Mapping[str, Any]) -> None:
    """Raise LoadRefused for tensors that loading left without memory: no file had them."""
    for name, component in components.items():
        if isinstance(component, torch.nn.Module):
            tensors = (*component.named_parameters(), *component.named_buffers())
            left = [tensor_name for tensor_name, tensor in tensors if tensor.is_meta]
            if left:
                raise LoadRefused(f"{name}/ lacks {len(left)} of its tensors: {_some(left)}")


def descale(components: Mapping[str, Any], parts: Iterable[Part]) -> None:
    """Multiply weights that were stored in fp8 by the scale beside them, as ComfyUI's files need it."""
    for part in parts:
        scales = part.scales() if part.source is None else ()  # a single file's are heeded as it is read
        if not scales:
            continue
        stored = part.tensors()
        weights = dict(components[part.component.name].named_parameters())
        values = _read(part, {scale.scale for scale in scales})
        for scale in scales:
            weight = weights.get(_name_of(scale.weight, weights))
            if weight is None or not _is_plain(weight, stored[scale.weight].shape):
                raise LoadRefused(
                    f"{part.where} has {scale.scale}, but {scale.weight} is not loaded as it is stored:"
                    " take weights in fp16 or bf16"
                )
            with torch.no_grad():
                weight.copy_(multiplied(weight, values[scale.scale]))


def _is_plain(weight: torch.Tensor, shape: tuple[int, ...]) -> bool:
    """Is it loaded as it is stored, but for its dtype? Quantised by ``quantise`` on the way, it is made of others."""
    plain = weight.is_floating_point() and weight.element_size() > 1 and not hasattr(weight, "__tensor_flatten__")
    return plain and tuple(weight.shape) == shape


def _name_of(stored: str, names: Collection[str]) -> str:
    """What transformers calls a tensor: it leaves out, or puts in, the word that stands before all names of a model."""
    alike = [name for name in names if stored in (name, name.partition(".")[2]) or name == stored.partition(".")[2]]
    return stored if stored in alike or len(alike) != 1 else alike[0]


def _read(part: Part, names: Collection[str]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in part.weights:
        with safetensors.safe_open(str(path), framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys() if name in names}  # noqa: SIM118, no mapping
    return found


def _loads_as(loaded: Any, base: Any) -> bool:
    """Does a class load as its library's models do?"""
    return getattr(loaded.from_pretrained, "__func__", None) is base.from_pretrained.__func__
