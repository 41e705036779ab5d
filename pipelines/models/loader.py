"""From a model folder to diffusers pipelines, one per task, on shared weights.

Knows diffusers' loading; never fetches (local files only), never unpickles (safetensors only), never runs
code from the folder. Knows neither runs nor HTTP.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import torch
import transformers
from diffusers import DiffusionPipeline

from pipelines.engine import adapters
from pipelines.engine.adapters import Adapters
from pipelines.engine.graph_pool import GraphPool
from pipelines.engine.shared import DENOISERS, SharedModule, find_shared_modules
from pipelines.errors import LoadRefused
from pipelines.facts import folder as model_folder
from pipelines.facts import headers, model_files
from pipelines.facts.families import Family, FamilyTable
from pipelines.models import (
    components,
    controls,
    inversion,
    memoised,
    processors,
    replays,
    single_file,
    tasks,
    transfer,
    tuning,
    upscaler,
    verify,
)
from pipelines.models.controls import ControlNets
from pipelines.models.device import choose_dtype
from pipelines.models.streaming import MIN_STREAMED_BYTES, Streamed
from pipelines.models.tokens import TokenCounter
from pipelines.models.tuning import ENCODERS
from pipelines.models.upscaler import Upscaler
from pipelines.plan import ModelPlan
from pipelines.spec import Task

log = logging.getLogger("darkroom.loader")

# Of the matrices of denoisers; the rest stays as it is. bitsandbytes' nf4 keeps a float32 scale for every 64 elements.
_UPSCALER = "upscaler"  # how the names of those begin that are counted beside a pipeline's components
_BLOCK = re.compile(r".*?\.\d+\.")  # of the names of a block's tensors
_BYTES_PER_ELEMENT = {"int8": 1.0, "float8": 1.0, "nf4": 0.5 + 4 / 64}


class LoadedModel:
    """A model on its device: one set of weights, and a pipeline for each task made when first wanted."""

    def __init__(
        self,
        plan: ModelPlan,
        pipeline: Any,
        family: Family,
        device: torch.device,
        adapters: Adapters | None = None,
        streamed: Mapping[str, Streamed] | None = None,
        graphs: GraphPool | None = None,
        upscalers: Mapping[str, Upscaler] | None = None,
        nets: Mapping[str, torch.nn.Module] | None = None,
    ) -> None:
        """``graphs`` is the pool of its device's CUDA graphs; one of its own if it is not given. ``nets`` are its
        ControlNets by name."""
        self.plan = plan
        self.family = family
        self.device = device
        self._nets = ControlNets(pipeline, nets or {})
        self.shared_modules = find_shared_modules(pipeline.components) | self._nets.shared_modules
        for shared in self.shared_modules.values():
            shared.device = device
        replays.equip(self.shared_modules.values(), plan, family, device, graphs)
        self.tokens = TokenCounter(pipeline)
        self.adapters = adapters or Adapters()
        self.shares = True  # may its runs share steps? The check at load decides
        self.reason = ""  # why not
        self._base = pipeline
        self.upscalers = upscalers or {}  # networks that may bring its pictures to their size, by name
        self._streamed = streamed or {}  # text encoders whose weights stay in host memory
        self._host_copy: transfer.HostCopy | None = None
        self._by_task: dict[Task, Any] = {}
        self._lock = threading.Lock()

    def pipeline(self, task: Task) -> Any:
        """The pipeline that does ``task``, sharing this model's weights. Raises Unsupported."""
        with self._lock:
            if task not in self._by_task:
                self._by_task[task] = self._make(task)
            return self._by_task[task]

    def controlled(self, task: Task, names: Sequence[str]) -> tuple[Any, list[SharedModule]]:
        """The pipeline that does ``task`` with ControlNets, and those of these names. Raises Unsupported."""
        with self._lock:
            return self._nets.controlled(task, names)

    @property
    def controls(self) -> tuple[str, ...]:
        """The names of its ControlNets."""
        return tuple(self._nets.modules)

    def prepare(self, task: Task, names: Sequence[str] = ()) -> None:
        """Have the pipeline of a task, with ControlNets of these names, made before a run asks for it: the first one
        takes imports, and a run's thread is that of all runs. What stands in the way is met again by the run, which
        answers for it."""
        with contextlib.suppress(Exception):
            self.pipeline(task)
            if names:
                self.controlled(task, names)

    def _make(self, task: Task) -> Any:
        if task is tasks.native_task(self._base) or (self.family.by_instruction and task is not Task.INPAINTING):
            return self._base
        return tasks.pipeline_for(task, self._base)

    def weight_bytes(self) -> int:
        """Bytes of all parameters and buffers, as far as they are on the device when it is there."""
        sizes = {name: dict(_sizes(part)) for name, part in self._modules().items()}
        return int(_on_device(self.plan, self.device, sizes, streamed=self._streamed))

    def host_bytes(self) -> int:
        """Bytes of host memory that the weights take after ``move``. Those of streamed encoders are always there."""
        return transfer.host_bytes(tensor.nbytes for tensor in self._weights())

    def move(self, device: torch.device) -> None:
        """Bring the weights to the device or to host memory. No run may be using them.

        On CUDA what was once in host memory stays there, for the next time, until ``forget_host_copy``.
        """
        self.drop_graphs("its weights moved")
        if self.device.type != "cuda" or self._quantised:
            self._base.to(device)
            for upscaler in self.upscalers.values():
                upscaler.module.to(device)
            for net in self._nets.modules.values():
                net.to(device)
            return
        if device.type == "cuda":
            if self._host_copy is not None:
                self._host_copy.come_back()
        else:
            if self._host_copy is None:
                self._host_copy = transfer.HostCopy(self._weights(), self.device)
            self._host_copy.leave()
        for name, module in self._modules().items():  # what no copy has: tensors that libraries hold inside of theirs
            if name in self._streamed:
                self._streamed[name].rest_to(module, device)
            else:
                module.to(device)

    @property
    def has_host_copy(self) -> bool:
        """Are the weights in host memory, there alone or beside the device?"""
        return self._host_copy is not None

    def drop_graphs(self, why: str) -> None:
        """Give up the CUDA graphs of its steps: they hold where its weights are. No run may be using it."""
        for shared in self.shared_modules.values():
            if shared.graphs is not None:
                shared.graphs.drop(why)

    def forget_tables(self) -> None:
        """Let go of what its classes keep beside the weights, and of graphs: it is about to leave the device."""
        self.drop_graphs("the model left the device")
        for module in self._modules().values():
            memoised.forget(module)

    def forget_host_copy(self) -> None:
        """Give the host's memory back, of a model that is on its device."""
        self._host_copy = None

    def _weights(self) -> list[torch.Tensor]:
        """What is copied as bytes, each tensor once, without what streamed encoders have in host memory anyway."""
        there = {id(tensor) for streamed in self._streamed.values() for tensor in streamed.parameters}
        found = [tensor for module in self._modules().values() for tensor in transfer.plain_tensors(module)]
        return [tensor for tensor in {id(each): each for each in found}.values() if id(tensor) not in there]

    @property
    def _quantised(self) -> bool:
        return self.plan.quantise is not None or self.plan.quantise_encoders is not None

    @property
    def components(self) -> dict[str, Any]:
        """The parts that the pipelines share, by name."""
        return dict(self._base.components)

    def _modules(self) -> dict[str, torch.nn.Module]:
        own = {name: part for name, part in self._base.components.items() if isinstance(part, torch.nn.Module)}
        own |= {controls.component_name(name): net for name, net in self._nets.modules.items()}
        return own | {f"{_UPSCALER} {name}": each.module for name, each in self.upscalers.items()}


def _sizes(module: torch.nn.Module) -> Iterator[tuple[str, int]]:
    """The name and the bytes of each of a module's parameters and buffers."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        yield name, sum(part.numel() * part.element_size() for part in _parts(tensor))


def load(
    plan: ModelPlan,
    device: torch.device,
    *,
    host_encoders: bool = False,
    component_done: Callable[[], None] = lambda: None,
    graphs: GraphPool | None = None,
) -> LoadedModel:
    """Load a plan's model onto ``device``, with ``host_encoders`` but for its text encoders; ``component_done`` is told
    of each component. Its steps' CUDA graphs are in the pool ``graphs``. Raises LoadRefused for files that are missing,
    broken or unsafe."""
    started = time.monotonic()
    path = Path(plan.folder)
    weight_bytes = model_files.inspect(plan)
    parts = model_files.parts(plan)
    dtype = choose_dtype(plan.dtype, device, stored_bytes=weight_bytes)
    if plan.dtype == "auto" and device.type == "cpu" and dtype is torch.bfloat16:
        log.info("dtype auto is bfloat16, which this CPU has instructions for", extra={"model": plan.key})
    variant = model_folder.variant_of(parts)
    quantised = tuning.quantisation(plan)
    tuning.require_compiler(plan, device)
    try:
        verify.check_classes(path, parts)
        for part in parts:
            verify.compare(part)
        mapping = {} if quantised is None else quantised.quant_mapping
        # Refused by inspect(): pickles, foreign code, paths that leave the folder.
        with components.told(component_done):
            pipeline = DiffusionPipeline.from_pretrained(
                str(path),
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                **({} if variant is None else {"variant": variant}),
                **({} if quantised is None else {"quantization_config": quantised}),
                **processors.without_torchvision(parts),
                **single_file.components(plan, parts, dtype, mapping, component_done),
            )
    except (LoadRefused, torch.AcceleratorError):
        raise  # the second is no fault of the files: the device is full, or lost to this process
    except Exception as error:  # the libraries raise all kinds, tokenizers a plain one
        said = str(error)  # /readyz shows it to anyone
        for each in {plan.folder, *(str(weights) for part in parts for weights in part.weights)}:
            said = said.replace(each, Path(each).name)
        raise LoadRefused(f"diffusers could not load it: {type(error).__name__}: {said}") from error
    pipeline.set_progress_bar_config(disable=True)
    verify.refuse_unloaded(pipeline.components)
    verify.check_tokenizers(pipeline.components)
    verify.descale(pipeline.components, parts)
    inversion.load(plan, pipeline.components)
    loaded = adapters.load(pipeline, plan.adapters)  # before placing: they go to the device with their modules
    nets = controls.load(plan, dtype, component_done)
    streamed = tuning.place(pipeline, plan, device, host_encoders=host_encoders, beside=nets)
    families = FamilyTable()
    family = families.by_name.get(plan.family) or families.detect(path)
    log.info(
        "model loaded",
        extra={
            "model": plan.key,
            "pipeline": type(pipeline).__name__,
            "device": str(device),
            "streamed": sorted(streamed),
            "weight_mib": round(weight_bytes / 2**20, 1),
            "seconds": round(time.monotonic() - started, 2),
        },
    )
    upscalers = upscaler.load_all(plan.upscalers, device, plan.dtype)
    return LoadedModel(plan, pipeline, family, device, loaded, streamed, graphs, upscalers, nets)


def weight_bytes(plan: ModelPlan, device: torch.device, *, host_encoders: bool = False) -> int:
    """Bytes that a plan's weights will take on ``device``, told from the headers of the files that loading reads.

    Raises LoadRefused, as loading would.
    """
    itemsize = choose_dtype(plan.dtype, device, stored_bytes=model_files.inspect(plan)).itemsize
    sizes: dict[str, dict[str, float]] = {}
    for part in model_files.parts(plan):
        name = part.component.name
        quantised = {**dict.fromkeys(DENOISERS, plan.quantise), **dict.fromkeys(ENCODERS, plan.quantise_encoders)}
        smaller = _BYTES_PER_ELEMENT.get(quantised.get(name) or "", itemsize)
        sizes[name] = {}
        for key, tensor in part.tensors().items():
            if part.stays_as_stored(tensor):
                sizes[name][key] = tensor.size
            else:
                sizes[name][key] = tensor.elements * (smaller if len(tensor.shape) == 2 else itemsize)
    for part in controls.parts(plan):
        sizes[part.component.name] = {key: tensor.elements * itemsize for key, tensor in part.tensors().items()}
    loras = [Path(file.path) for file in plan.adapters]
    for path in (path for path in loras if model_folder.adapter_problem(path) is None):
        sizes[f"lora {path}"] = {key: each.elements * itemsize for key, each in headers.read(path).tensors.items()}
    for file in plan.upscalers:
        sizes[f"{_UPSCALER} {file.name}"] = {"": upscaler.weight_bytes(file, device, plan.dtype)}
    streamed = ENCODERS if host_encoders and plan.quantise_encoders is None else ()
    return int(_on_device(plan, device, sizes, streamed=streamed))


def advice(plan: ModelPlan, device: torch.device, limit: int) -> str:
    """What would make a model fit into ``limit`` bytes: the first that does of a few words of models.yaml; empty if
    none does, or if it says so already."""
    if device.type != "cuda" or plan.offload:
        return ""
    words: dict[str, dict[str, Any]] = {"encoders: host": {"encoders": "host"}}
    for kind in ("int8", "nf4"):
        if plan.quantise is None:
            words[f"quantise: {kind}"] = {"quantise": kind, "encoders": "host"}
    words["offload: true"] = {"offload": True}
    for word, changes in words.items():
        changed = msgspec.structs.replace(plan, **changes)
        if weight_bytes(changed, device, host_encoders=changed.encoders != "device") <= limit:
            return word
    return ""


def _on_device(
    plan: ModelPlan,
    device: torch.device,
    sizes: Mapping[str, Mapping[str, float]],
    *,
    streamed: Collection[str],
) -> float:
    """The bytes on ``device`` of components with tensors of such sizes.

    Of a text encoder that is ``streamed`` only small tensors stay there. Of an offloaded model the VAE stays, and what
    a transformer has outside of its blocks; of the rest, the block or layer that runs and the next.
    """
    if device.type != "cuda":
        return sum(size for tensors in sizes.values() for size in tensors.values())
    total = 0.0
    moving = [0.0]  # the largest that come as they run
    for name, tensors in sizes.items():
        if name in streamed or (plan.offload and name in ENCODERS and plan.quantise_encoders is None):
            total += sum(size for key, size in tensors.items() if not _BLOCK.match(key) and size < MIN_STREAMED_BYTES)
        elif not plan.offload or name == "vae" or name.startswith(_UPSCALER):
            total += sum(tensors.values())
        elif name.startswith("transformer"):
            blocks: Counter[str] = Counter()
            for key, size in tensors.items():
                block = _BLOCK.match(key)
                if block is None:
                    total += size
                else:
                    blocks[block[0]] += size  # type: ignore[assignment]
            moving.append(max(blocks.values(), default=0))
        else:
            moving += tensors.values()
    return total + 2 * max(moving)


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
