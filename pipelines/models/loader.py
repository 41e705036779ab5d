"""From a model folder to diffusers pipelines, one per task, on shared weights.

Knows diffusers' loading; never fetches (local files only), never unpickles (safetensors only), never runs
code from the folder. Knows neither runs nor HTTP.
"""

from __future__ import annotations

import inspect
import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import safetensors
import torch
import transformers
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DiffusionPipeline,
)

from pipelines.engine import adapters
from pipelines.engine.adapters import Adapters
from pipelines.engine.shared import DENOISERS, find_shared_modules
from pipelines.errors import LoadRefused, Unsupported
from pipelines.facts import folder as model_folder
from pipelines.facts.families import Family, FamilyTable
from pipelines.models import processors, tuning, verify
from pipelines.models.tokens import TokenCounter
from pipelines.plan import ModelPlan
from pipelines.spec import Task

log = logging.getLogger("darkroom.loader")

_AUTO = {
    Task.TEXT_TO_IMAGE: AutoPipelineForText2Image,
    Task.IMAGE_TO_IMAGE: AutoPipelineForImage2Image,
    Task.INPAINTING: AutoPipelineForInpainting,
}

# Of the matrices of denoisers; the rest stays as it is. bitsandbytes' nf4 keeps a float32 scale for every 64 elements.
_BYTES_PER_ELEMENT = {"int8": 1.0, "float8": 1.0, "nf4": 0.5 + 4 / 64}


def choose_device(setting: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` stands for on this machine."""
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(setting)


def choose_dtype(setting: str, device: torch.device) -> torch.dtype:
    """The weights' dtype; ``auto`` is bfloat16 on CUDA and float32 on the CPU."""
    if setting == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = getattr(torch, setting)
    assert isinstance(dtype, torch.dtype)
    return dtype


class LoadedModel:
    """A model on its device: one set of weights, and a pipeline for each task made when first wanted."""

    def __init__(
        self, plan: ModelPlan, pipeline: Any, family: Family, device: torch.device, adapters: Adapters | None = None
    ) -> None:
        self.plan = plan
        self.family = family
        self.device = device
        self.shared_modules = find_shared_modules(pipeline.components)
        self.tokens = TokenCounter(pipeline)
        self.adapters = adapters or Adapters()
        self.shares = True  # may its runs share steps? The check at load decides
        self.reason = ""  # why not
        self._base = pipeline
        self._by_task: dict[Task, Any] = {}
        self._lock = threading.Lock()

    def pipeline(self, task: Task) -> Any:
        """The pipeline that does ``task``, sharing this model's weights. Raises Unsupported."""
        with self._lock:
            if task not in self._by_task:
                self._by_task[task] = self._make(task)
            return self._by_task[task]

    def _make(self, task: Task) -> Any:
        if task is _native_task(self._base) or (self.family.by_instruction and task is not Task.INPAINTING):
            return self._base
        try:
            made = _AUTO[task].from_pipe(self._base)
        except (ValueError, AttributeError) as error:
            raise Unsupported(f"{type(self._base).__name__} has no pipeline for {task}") from error
        made.set_progress_bar_config(disable=True)
        return made

    def weight_bytes(self) -> int:
        """Bytes of all parameters and buffers, as far as they are on the device when it is there."""
        return int(_on_device(self.plan, self.device, self._sizes()))

    def host_bytes(self) -> int:
        """Bytes of host memory that the weights take after ``move``: pinned memory comes in powers of two."""
        return sum(1 << (size - 1).bit_length() for size in self._sizes() if size)

    def move(self, device: torch.device) -> None:
        """Bring the weights to ``device``. No run may be using them."""
        if self.device.type != "cuda" or self.plan.quantise is not None:
            self._base.to(device)
            return
        # Not blocking: torch then copies to pinned host memory, and from there at the full speed of the bus.
        for module in self._modules():
            module.to(device, non_blocking=True)
        torch.cuda.synchronize(self.device)  # the copies are under way: nobody may read them yet

    @property
    def components(self) -> dict[str, Any]:
        """The parts that the pipelines share, by name."""
        return dict(self._base.components)

    def _modules(self) -> list[torch.nn.Module]:
        return [part for part in self._base.components.values() if isinstance(part, torch.nn.Module)]

    def _sizes(self) -> list[int]:
        tensors = [tensor for module in self._modules() for tensor in (*module.parameters(), *module.buffers())]
        return [sum(part.numel() * part.element_size() for part in _parts(tensor)) for tensor in tensors]


def _native_task(pipeline: Any) -> Task:
    """What a pipeline does as it is: told by what its call takes, for a folder may name any of a family's classes."""
    takes = inspect.signature(type(pipeline).__call__).parameters
    if "mask_image" in takes:
        return Task.INPAINTING
    return Task.IMAGE_TO_IMAGE if "strength" in takes else Task.TEXT_TO_IMAGE


def load(plan: ModelPlan, device: torch.device) -> LoadedModel:
    """Load a model folder onto ``device``. Raises LoadRefused for a folder that is missing, broken or unsafe."""
    started = time.monotonic()
    path = Path(plan.folder)
    weight_bytes = model_folder.inspect(path)
    parts = model_folder.parts(path)
    variant = model_folder.variant_of(parts)
    quantised = tuning.quantisation(plan)
    try:
        verify.check_classes(path, parts)
        for part in parts:
            verify.compare(part)
        # Refused by inspect(): pickles, foreign code, paths that leave the folder.
        pipeline = DiffusionPipeline.from_pretrained(
            str(path),
            dtype=choose_dtype(plan.dtype, device),
            local_files_only=True,
            use_safetensors=True,
            **({} if variant is None else {"variant": variant}),
            **({} if quantised is None else {"quantization_config": quantised}),
            **processors.without_torchvision(parts),
        )
    except torch.AcceleratorError:
        raise  # no fault of the folder: the device is lost to this process
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, TypeError, ImportError) as error:
        said = str(error).replace(str(path), path.name)  # /readyz shows it to anyone
        raise LoadRefused(f"diffusers could not load it: {type(error).__name__}: {said}") from error
    pipeline.set_progress_bar_config(disable=True)
    verify.refuse_unloaded(pipeline.components)
    verify.check_tokenizers(pipeline.components)
    verify.descale(pipeline.components, parts)
    loaded = adapters.load(pipeline, plan.adapters)  # before placing: they go to the device with their modules
    tuning.place(pipeline, plan, device)
    families = FamilyTable()
    family = families.by_name.get(plan.family) or families.detect(path)
    log.info(
        "model loaded",
        extra={
            "model": plan.key,
            "pipeline": type(pipeline).__name__,
            "device": str(device),
            "weight_mib": round(weight_bytes / 2**20, 1),
            "seconds": round(time.monotonic() - started, 2),
        },
    )
    return LoadedModel(plan, pipeline, family, device, loaded)


def weight_bytes(plan: ModelPlan, device: torch.device) -> int:
    """Bytes that a plan's weights will take on ``device``, told from the headers of the files that loading reads.

    Raises LoadRefused, as loading would.
    """
    folder = Path(plan.folder)
    model_folder.inspect(folder)
    itemsize = choose_dtype(plan.dtype, device).itemsize
    sizes: list[float] = []
    for part in model_folder.parts(folder):
        quantised = plan.quantise if part.component.name in DENOISERS else None
        smaller = _BYTES_PER_ELEMENT.get(quantised or "", itemsize)
        is_quantised = part.is_quantised
        for tensor in part.tensors().values():
            # What is no float is loaded as it is stored, and float8 where a library has quantised it.
            if tensor.dtype.startswith(("I", "U", "BOOL")) or (tensor.is_float8 and is_quantised):
                sizes.append(tensor.size)
            else:
                sizes.append(tensor.elements * (smaller if len(tensor.shape) == 2 else itemsize))
    loras = [Path(file.path) for file in plan.adapters]
    whole = [path for path in loras if model_folder.adapter_problem(path) is None]
    sizes.extend(math.prod(shape) * itemsize for shape in _shapes(whole))
    return int(_on_device(plan, device, sizes))


def _shapes(files: Iterable[Path]) -> Iterator[list[int]]:
    for path in files:
        with safetensors.safe_open(str(path), framework="pt") as file:
            yield from (file.get_slice(key).get_shape() for key in file.keys())  # noqa: SIM118, no mapping


def _on_device(plan: ModelPlan, device: torch.device, sizes: Sequence[float]) -> float:
    """Of tensors of such sizes, the bytes on ``device``: of an offloaded model, the layer that runs and the next."""
    if plan.offload and device.type == "cuda":
        return 2 * max(sizes, default=0)
    return sum(sizes)


def _parts(tensor: Any) -> Iterator[torch.Tensor]:
    """What a tensor is made of: torchao's says that it is bfloat16, and holds float8 and scales."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _parts(getattr(tensor, name))


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and advice out of the server's log."""
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
