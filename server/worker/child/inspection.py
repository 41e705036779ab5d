"""What torch says of this machine, and how much room each model wants: for ``darkroom doctor``.

Run as a process of its own: reads an Inquiry in JSON from standard input and writes an Answer. Loads no model. The
sizes and the room are told by the code that serving decides by.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

import msgspec

from pipelines.plan import ModelPlan

_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes", "torchao", "torchvision")
_SMALLER = ("int8", "float8", "nf4")


class Inquiry(msgspec.Struct, frozen=True):
    """What the front asks."""

    device: str  # the setting
    plans: tuple[ModelPlan, ...]
    device_memory: str = ""  # the setting


class Card(msgspec.Struct, frozen=True):
    """One CUDA device."""

    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int]
    has_kernels: bool
    has_bfloat16: bool


class Sizes(msgspec.Struct, frozen=True):
    """How many bytes of the device a model's weights take: as models.yaml has it, and otherwise.

    Both as the server would have them: with text encoders in host memory where the model would not fit with them.
    """

    dtype: str = ""
    as_it_is: int = 0
    otherwise: dict[str, int] = {}  # "quantise: nf4" → bytes
    denoiser_elements: int = 0
    problem: str | None = None
    encoders_on_host: bool = False  # as it is
    room_bytes: int | None = None  # for weights, beside this model's work


class Answer(msgspec.Struct, frozen=True):
    """What torch says."""

    versions: dict[str, str]
    cuda: str | None  # the version that torch was built with
    architectures: list[str]
    cards: list[Card]
    device: str
    device_name: str
    device_problem: str  # why it is not the one that is set, or that this machine seems to have
    room_bytes: int  # for the weights of all models on the device together
    models: dict[str, Sizes]


def sizes(plan: ModelPlan, device: Any, budget: int) -> Sizes:
    """How much of a device with ``budget`` bytes for models a plan's weights take, or what is wrong with them."""
    from pipelines.engine.shared import DENOISERS
    from pipelines.errors import LoadRefused
    from pipelines.facts import model_files
    from pipelines.models import loader, memory
    from pipelines.models.device import choose_dtype
    from server.worker.child.device import working_bytes

    room = memory.for_weights(budget, [working_bytes(plan) if device.type == "cuda" else None])

    def size_of(plan: ModelPlan) -> tuple[int, bool]:
        size = loader.weight_bytes(plan, device)
        on_host = device.type == "cuda" and (plan.encoders == "host" or (plan.encoders == "auto" and size > room))
        return (loader.weight_bytes(plan, device, host_encoders=True) if on_host else size), on_host

    try:
        size, on_host = size_of(plan)
        otherwise = {}
        if device.type == "cuda":
            plain = msgspec.structs.replace(plan, quantise=None, offload=False)
            smaller = {f"quantise: {word}": msgspec.structs.replace(plain, quantise=word) for word in _SMALLER}
            others = {**smaller, "offload: true": msgspec.structs.replace(plain, offload=True)}
            if plan.encoders == "device":
                others = {"encoders: host": msgspec.structs.replace(plan, encoders="host"), **others}
            otherwise = {word: size_of(other)[0] for word, other in others.items() if other != plan}
        denoisers = [part for part in model_files.parts(plan) if part.component.name in DENOISERS]
        return Sizes(
            dtype=str(choose_dtype(plan.dtype, device, stored_bytes=model_files.inspect(plan))).removeprefix("torch."),
            as_it_is=size,
            otherwise=otherwise,
            encoders_on_host=on_host,
            room_bytes=room,
            denoiser_elements=sum(tensor.elements for part in denoisers for tensor in part.tensors().values()),
        )
    except (LoadRefused, OSError) as error:
        return Sizes(problem=str(error))


def budget_of(device: Any, device_memory: str) -> int:
    """Bytes of a device for models, now: what is free, or what the setting leaves of it."""
    from pipelines.models import memory
    from server.sizes import memory_of

    budget, _ = memory.measure_budget(device)
    return min(budget, memory_of(device_memory, memory.whole(device))) if device_memory else budget


def _cards() -> list[Card]:
    import torch

    from pipelines.models.device import has_kernels

    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        capability = torch.cuda.get_device_capability(index)
        kernels = torch.version.hip is not None or has_kernels(capability, torch.cuda.get_arch_list())
        bfloat16 = torch.version.hip is not None or capability >= (8, 0)
        found.append(Card(torch.cuda.get_device_name(index), total, free, capability, kernels, bfloat16))
    return found


def answer(inquiry: Inquiry) -> Answer:
    """What torch says of this machine."""
    import torch

    from pipelines.models import device as devices
    from pipelines.models import loader, memory

    loader.quiet_libraries()
    try:
        choice = devices.choose(inquiry.device)
    except devices.DeviceRefused as refusal:
        choice = devices.Choice(torch.device("cpu"), "CPU", str(refusal))
    budget = budget_of(choice.device, inquiry.device_memory)
    return Answer(
        versions={name: version for name in _PACKAGES if (version := _version(name)) is not None},
        cuda=torch.version.cuda or torch.version.hip,
        architectures=torch.cuda.get_arch_list() if torch.cuda.is_available() else [],
        cards=_cards(),
        device=str(choice.device),
        device_name=choice.name,
        device_problem=choice.problem,
        room_bytes=int(budget * (1 - memory.WORKING_SHARE)),
        models={plan.key: sizes(plan, choice.device, budget) for plan in inquiry.plans},
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(answer(msgspec.json.decode(sys.stdin.buffer.read(), type=Inquiry))))
