"""What the JSON of a model folder may say. Keys that can name code, or something to fetch, hold known values only.

Knows keys and values; opens no file. Sources: code named by a config (CVE-2026-4372, CVE-2026-5241), an attention that
is a repository (transformers' kernels), files and models that a config names in place of those of its folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pipelines.errors import LoadRefused

_CODE = frozenset(
    {
        *("auto_map", "_attn_implementation_internal", "trust_remote_code", "custom_pipelines", "custom_pipeline"),
        *("custom_generate", "code_revision"),
    }
)
# What they hold is loaded from where it says, in place of the folder's own: only as good as absent are they taken.
_ELSEWHERE = frozenset(
    {
        *("transformers_weights", "audio_tokenizer", "_adapter_model_path", "backbone", "use_pretrained_backbone"),
        *("kernel_config", "use_kernels", "init_inputs", "pretrained_model_name_or_path", "gguf_file"),
    }
)
_ATTENTIONS = frozenset({"eager", "sdpa", "flex_attention", *(f"flash_attention_{n}" for n in (2, 3, 4))})
_EXPERTS = frozenset({"eager", "batched_mm", "grouped_mm"})
_DTYPES = frozenset(
    {
        *("auto", "float", "half", "double", "float16", "bfloat16", "float32", "float64"),
        *("float8_e4m3fn", "float8_e5m2", "int8", "uint8", "int16", "int32", "int64", "bool"),
    }
)
_QUANTISERS = frozenset({"bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit", "torchao", "quanto"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MODEL_TYPE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_TOKENIZER_FILE = re.compile(r"tokenizer(\.[0-9.]+)?\.json", re.ASCII)


def _of(allowed: frozenset[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in allowed


def _matching(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _each(one: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Of one value, of each in a list, or of each in a map from a part of the model to its value."""

    def allowed(value: Any) -> bool:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            return all(each is None or one(each) for each in value)
        return one(value)

    return allowed


def _is_quantisation(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    method = value.get("quant_method")
    by_flag = value.get("load_in_4bit") is True or value.get("load_in_8bit") is True
    return by_flag if method is None else isinstance(method, str) and method in _QUANTISERS


_CLASS = _matching(_NAME)
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "_class_name": (_CLASS, "the name of a class"),
    "architectures": (_each(_CLASS), "a list of names of classes"),
    **{
        key: (_each(_CLASS), "the name of a class")
        for key in (
            *("tokenizer_class", "slow_tokenizer_class", "fast_tokenizer_class", "processor_class", "config_class"),
            *("image_processor_class", "image_processor_type", "video_processor_type", "feature_extractor_class"),
            *("feature_extractor_type", "audio_tokenizer_class"),
        )
    },
    "model_type": (_matching(_MODEL_TYPE), "the name of a kind of model"),
    "torch_dtype": (_each(_of(_DTYPES)), "the name of a dtype of torch"),
    "dtype": (_each(_of(_DTYPES)), "the name of a dtype of torch"),
    "_attn_implementation": (_each(_of(_ATTENTIONS)), f"one of {', '.join(sorted(_ATTENTIONS))}"),
    "attn_implementation": (_each(_of(_ATTENTIONS)), f"one of {', '.join(sorted(_ATTENTIONS))}"),
    "_experts_implementation": (_each(_of(_EXPERTS)), f"one of {', '.join(sorted(_EXPERTS))}"),
    "experts_implementation": (_each(_of(_EXPERTS)), f"one of {', '.join(sorted(_EXPERTS))}"),
    "fast_tokenizer_files": (_each(_matching(_TOKENIZER_FILE)), "a list of versions of tokenizer.json"),
    "quantization_config": (_is_quantisation, f"of one of {', '.join(sorted(_QUANTISERS))}"),
}


def judge(config: Any, where: str) -> None:
    """Refuse, at any depth, what a config could make a library run or fetch. Raises LoadRefused naming file and key."""
    rest = [config]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            found = sorted(_CODE & value.keys())
            if found:
                raise LoadRefused(f"{where} has {found[0]}, which would run code from the model folder")
            for key in sorted(value.keys() & (_ELSEWHERE | _RULES.keys())):
                _judge_value(key, value[key], where)
            rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)


def _judge_value(key: str, value: Any, where: str) -> None:
    if key in _ELSEWHERE:
        if value:
            raise LoadRefused(f"{where} has {key}, which would load something from elsewhere")
    elif value is not None and not _RULES[key][0](value):
        raise LoadRefused(f"{where}: {key} must be {_RULES[key][1]}{_instead(key, value)}")


def _instead(key: str, value: Any) -> str:
    """What to do where weights are quantised in a way that is not served."""
    method = value.get("quant_method") if key == "quantization_config" and isinstance(value, dict) else None
    if not isinstance(method, str):
        return ""
    if method == "gguf":
        return ", and is gguf: name the .gguf file under transformer in models.yaml"
    return f", and is {method[:40]!r}, which is not served: take weights without it, or a GGUF file"
