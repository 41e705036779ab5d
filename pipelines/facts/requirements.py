"""The packages that a model needs beside Darkroom's own dependencies, told from its files and from models.yaml.

Knows which class, file or key makes diffusers and transformers import what, and what torch.compile runs; imports none
of it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.facts.component import Component, Files, Kind, has_fast_tokenizer

# Module → what to install. Where the first word is darkroom's own, it is one of pyproject.toml's extras.
_PACKAGES = {
    "google.protobuf": "protobuf",
    "sentencepiece": "sentencepiece",
    "tiktoken": "tiktoken",
    "mistral_common": "mistral-common",
    "scipy": "scipy",
    "torchsde": "torchsde",
    "torchvision": "darkroom[vision]",
    "bitsandbytes": "darkroom[quantise]",
    "torchao": "darkroom[quantise]",
    "optimum.quanto": "optimum-quanto",
    "gguf": "darkroom[gguf]",
}
_SCHEDULERS = {
    "LMSDiscreteScheduler": "scipy",
    "DPMSolverSDEScheduler": "torchsde",
    "CosineDPMSolverMultistepScheduler": "torchsde",
}
_QUANTISERS = {
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "torchao": "torchao",
    "quanto": "optimum.quanto",
}
# The oldest that read weights which are quantised already; older ones fail in words that do not say so.
_MINIMUM = {"bitsandbytes": (0, 48), "torchao": (0, 15)}
_BY_SETTING = {"int8": "bitsandbytes", "nf4": "bitsandbytes", "float8": "torchao"}  # of models.yaml's quantise
# Made by Darkroom with pictures alone, where torchvision is missing: pipelines/models/processors.py.
PICTURES_ONLY = frozenset({"Qwen2VLProcessor", "Qwen2_5_VLProcessor"})


def missing(part: Component, files: Files, configs: Mapping[str, Any]) -> str | None:
    """What to install before a component can be loaded, and why; None if nothing is missing."""
    for module, why in _needed(part, files, configs):
        if not _is_installed(module):
            return f"{part.name}/: {why} needs {module}: pip install '{_PACKAGES[module]}'"
        if _is_too_old(module):
            least = ".".join(map(str, _MINIMUM[module]))
            return f"{part.name}/: {why} needs {module} {least} or newer: pip install -U '{_PACKAGES[module]}'"
    return None


def missing_for_quantise(word: str | None) -> str | None:
    """What to install before models.yaml's ``quantise`` can be had; None if nothing is missing."""
    module = _BY_SETTING.get(word or "")
    if module is None or _is_installed(module):
        return None
    return f"quantise: {word} needs {module}: pip install '{_PACKAGES[module]}'"


def missing_for_gguf(name: str) -> str | None:
    """What to install before a GGUF file can be loaded; None if nothing is missing."""
    return None if _is_installed("gguf") else f"{name} needs gguf: pip install '{_PACKAGES['gguf']}'"


def missing_for_compile() -> str | None:
    """What to install before models.yaml's ``compile`` can be had on CUDA; None if nothing is missing.

    triton compiles the launcher of each kernel when it first runs, with $CC, gcc or clang and the headers of Python.
    """
    if shutil.which(os.environ.get("CC") or "gcc") is None and shutil.which("clang") is None:
        return "compile: true needs a C compiler: apt-get install gcc libc6-dev python3-dev"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "compile: true needs Python's headers (Python.h): apt-get install python3-dev"
    return None


def _needed(part: Component, files: Files, configs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if part.class_name in _SCHEDULERS:
        yield _SCHEDULERS[part.class_name], part.class_name
    if _says(configs.values(), "use_beta_sigmas"):
        yield "scipy", "use_beta_sigmas"
    if _takes_videos(part, files):
        yield "torchvision", part.class_name
    if part.kind in (Kind.TOKENIZER, Kind.PROCESSOR) and not has_fast_tokenizer(files):
        yield from _to_convert(files)
    for config in configs.values():
        quantised = config.get("quantization_config")
        if isinstance(quantised, dict):
            method = str(quantised.get("quant_method", "bitsandbytes"))
            module = _QUANTISERS.get(method)
            if module is not None:
                yield module, f"quantization_config ({method})"


def _takes_videos(part: Component, files: Files) -> bool:
    """Does transformers make it, or a part of it, with torchvision alone?"""
    if part.kind is not Kind.PROCESSOR:
        return part.class_name.endswith(("VideoProcessor", "VideoProcessorFast"))
    named = any(word in part.class_name for word in ("Pixtral", "VL"))
    return part.class_name not in PICTURES_ONLY and (named or "video_preprocessor_config.json" in files.configs)


def _to_convert(files: Files) -> Iterator[tuple[str, str]]:
    """What turns a slow tokenizer's files into a fast one."""
    for name in files.tokens:
        if name == "tiktoken.model":
            yield "tiktoken", name
        elif name == "tekken.json":
            yield "mistral_common", name
        elif name.endswith((".model", ".spm")):
            yield "sentencepiece", name
            yield "google.protobuf", name


def _says(configs: Iterable[Any], key: str) -> bool:
    return any(isinstance(config, dict) and config.get(key) is True for config in configs)


def _is_too_old(module: str) -> bool:
    least = _MINIMUM.get(module)
    if least is None:
        return False
    try:
        numbers = re.findall(r"\d+", importlib.metadata.version(module))
    except importlib.metadata.PackageNotFoundError:
        return False  # a module that no package says it brings
    return tuple(map(int, numbers[:2])) < least


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # of google.protobuf, where there is no google
        return False
