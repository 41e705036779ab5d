"""Components of a model from single files: checkpoints in the original layout, transformers, VAEs, GGUF.

Knows diffusers' converters, and what they leave to others: prefixes, scales of fp8, tensors that are missing. Fetches
nothing: configurations come from a folder, the words of CLIP's tokenizer from this package. Knows neither devices nor
runs.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import safetensors
import torch
import transformers
from diffusers.loaders import single_file_model, single_file_utils
from diffusers.models.model_loading_utils import load_gguf_checkpoint

from pipelines.errors import LoadRefused
from pipelines.facts import model_files
from pipelines.facts.checkpoint import ARCHITECTURES
from pipelines.facts.folder import Part
from pipelines.models import library
from pipelines.models.scales import multiplied
from pipelines.plan import ModelPlan

_PROJECTION = "text_projection.weight"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_T5_FIRST = ("<pad>", "</s>", "<unk>")
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_VISIBLE = (range(ord("!"), ord("~") + 1), range(ord("¡"), ord("¬") + 1), range(ord("®"), ord("ÿ") + 1))


def components(
    plan: ModelPlan,
    parts: Iterable[Part],
    dtype: torch.dtype,
    quantised: Mapping[str, Any],
    done: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The components of a model that its folder does not have, by name, in ``dtype``; ``done`` is told of each.

    ``quantised`` has the quantization_config of those that get smaller on the way. Raises LoadRefused, and what the
    libraries raise.
    """
    made: dict[str, Any] = {}
    for part in parts:
        if part.lends_vocabulary or part.vocabulary is not None:
            made[part.component.name] = tokenizer(part.folder, part.vocabulary)
        elif part.source is not None:
            made[part.component.name] = _load(part, dtype, quantised.get(part.component.name))
        else:
            continue
        done()
    made |= dict.fromkeys(model_files.left_out(plan))
    changed = model_files.scheduler(plan)
    if changed is not None:
        name, config = changed
        made["scheduler"] = getattr(diffusers, name).from_config(config)
    return made


def convert(
    part: Part, loaded: Any, tensors: dict[str, Any], expected: Mapping[str, Any], config: Any
) -> dict[str, Any]:
    """The tensors of a single file under the names of its class, ``loaded``, which has those ``expected``.

    They may be without memory: what the converters do is the same. Raises LoadRefused where they cannot tell.
    """
    try:
        if library.is_a(loaded, transformers.PreTrainedModel):
            return _convert_text(loaded, tensors, config)
        name = single_file_model._get_single_file_loadable_mapping_class(loaded)
        if name is None:
            raise LoadRefused(f"{part.where}: the weights of {loaded.__name__} are read from its folder alone")
        # In the names of the library already: of what is missing, the converters would say nothing.
        if 2 * len(expected.keys() & tensors.keys()) >= len(expected):
            return tensors
        mapping = single_file_model.SINGLE_FILE_LOADABLE_CLASSES[name]["checkpoint_mapping_fn"]
        converted: dict[str, Any] = mapping(checkpoint=dict(tensors), config=config)
        return converted
    except (KeyError, IndexError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        # The converters ask for names, split by widths, and count blocks.
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)[:200]
        raise LoadRefused(
            f"{part.where} does not fit {loaded.__name__} and its config.json: {what or type(error).__name__}"
        ) from error


def _convert_text(loaded: Any, tensors: dict[str, Any], config: Any) -> dict[str, Any]:
    if not isinstance(config, transformers.CLIPTextConfig):
        return tensors  # T5 and language models have one set of names
    prefix = next((name.partition("transformer.")[0] for name in tensors if ".model.transformer." in name), None)
    if prefix is not None:
        return dict(single_file_utils.convert_open_clip_checkpoint(SimpleNamespace(config=config), tensors, prefix))
    converted = dict(single_file_utils.convert_ldm_clip_checkpoint(tensors)) or tensors
    projects = library.is_a(loaded, transformers.CLIPTextModelWithProjection)
    if projects and _PROJECTION not in converted and config.hidden_act == "quick_gelu":
        # Of Stable Diffusion 3's CLIP-L there is none: what is pooled is taken as it is.
        some = next(iter(converted.values()))
        converted = {**converted, _PROJECTION: torch.eye(config.hidden_size, dtype=some.dtype, device=some.device)}
    return converted


def named(part: Part, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """The class of a part, and the tensors of its file by the names of that class: mapped, but what is stored in fp8,
    which is in ``dtype``, times its scale. Raises LoadRefused."""
    loaded = library.class_of(part.component.library, part.component.class_name)
    tensors = _read_gguf(part) if part.is_quantised else _read(part, dtype)
    if library.is_a(loaded, transformers.PreTrainedModel):
        config = loaded.config_class.from_pretrained(str(part.folder), local_files_only=True)
        return loaded, convert(part, loaded, tensors, {}, config)
    model, config = library.empty_model(loaded, part.folder)
    expected = model.state_dict()
    converted = convert(part, loaded, tensors, expected, config)
    model._fix_state_dict_keys_on_load(converted)
    return loaded, {name: converted[name] for name in expected if name in converted}


def _load(part: Part, dtype: torch.dtype, quantised: Any) -> Any:
    """A component from its file. Raises LoadRefused for tensors that are missing: ``compare`` tells beforehand."""
    loaded, tensors = named(part, dtype)
    if library.is_a(loaded, transformers.PreTrainedModel):
        return loaded.from_pretrained(
            None,
            config=loaded.config_class.from_pretrained(str(part.folder), local_files_only=True),
            state_dict=tensors,
            dtype=dtype,
            local_files_only=True,
            **({} if quantised is None else {"quantization_config": quantised}),
        )
    if part.is_quantised:
        quantised = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
    # With these names alone, the library takes them for its own and converts nothing again.
    return loaded.from_single_file(
        tensors,
        config=str(part.folder),
        dtype=dtype,
        local_files_only=True,
        **({} if quantised is None else {"quantization_config": quantised}),
    )


def _read(part: Part, dtype: torch.dtype) -> dict[str, Any]:
    """The tensors of a part, mapped from its file; what is stored in fp8 times its scale, in ``dtype``."""
    assert part.source is not None
    scales = {scale.weight: scale.scale for scale in part.scales()}
    names = {ours: name for name, ours in part.source.names.items() if ours not in scales.values()}
    of_scales = {ours: name for name, ours in part.source.names.items() if ours in scales.values()}
    found: dict[str, Any] = {}
    with safetensors.safe_open(str(part.source.path), framework="pt") as file:
        for ours, name in names.items():
            tensor = file.get_tensor(name)
            if ours in scales:
                tensor = multiplied(tensor, file.get_tensor(of_scales[scales[ours]])).to(dtype)
            elif tensor.is_floating_point() and tensor.element_size() == 1:
                tensor = tensor.to(dtype)
            found[ours] = tensor
    return found


def _read_gguf(part: Part) -> dict[str, Any]:
    assert part.source is not None
    names = part.source.names
    return {names[name]: tensor for name, tensor in load_gguf_checkpoint(str(part.source.path)).items()}


def tokenizer(folder: Path, words: Path | None = None) -> Any:
    """A tokenizer with the configuration of a folder: of CLIP with the words that all of them have, or of T5 with those
    of a file that its owner names."""
    if words is not None:
        with tempfile.TemporaryDirectory(prefix="darkroom-") as temporary:  # the library reads folders alone
            if (folder / _TOKENIZER_CONFIG).is_file():  # a folder with words of its own may do without
                shutil.copyfile(folder / _TOKENIZER_CONFIG, Path(temporary) / _TOKENIZER_CONFIG)
            shutil.copyfile(words, Path(temporary) / words.name)
            made = transformers.T5Tokenizer.from_pretrained(temporary, local_files_only=True)
        _refuse_other_words(words, made)
        return made
    config = json.loads((folder / _TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    merges = _merges()
    kept = {key: value for key, value in config.items() if not key.endswith("_class")}
    return transformers.CLIPTokenizer(vocab=_vocabulary(merges), merges=merges, **kept)


def _refuse_other_words(file: Path, made: Any) -> None:
    """Raise LoadRefused for the words of another model than T5, which has no place in its embeddings."""
    ids = made.convert_tokens_to_ids(list(_T5_FIRST))
    if ids != list(range(len(_T5_FIRST))):
        raise LoadRefused(
            f"tokenizer: {file.name} is not T5's: its first tokens are not {', '.join(_T5_FIRST)}; take that of the"
            " model's diffusers folder"
        )


def _merges() -> list[tuple[str, str]]:
    text = gzip.decompress((ARCHITECTURES / "clip_merges.txt.gz").read_bytes()).decode("utf-8")
    pairs = (line.split(" ") for line in text.splitlines()[1:])
    return [(first, second) for first, second in pairs]


def _vocabulary(merges: Iterable[tuple[str, str]]) -> dict[str, int]:
    """CLIP's tokens: a character for each byte, the same at the end of a word, what merges make, and two more."""
    bytes_shown = [chr(code) for each in _VISIBLE for code in each]
    bytes_shown += [chr(256 + index) for index in range(256 - len(bytes_shown))]
    ends = [f"{each}</w>" for each in bytes_shown]
    tokens = [*bytes_shown, *ends, *(first + second for first, second in merges), *_SPECIAL]
    return {token: index for index, token in enumerate(tokens)}
